"""The logger keeps runs in MLflow as they were: tried on the real one, on SQLite."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from bus import Event, EventBus
from frameworm.delivery.retry import Blame, blame_of
from frameworm.errors import UserError
from frameworm_plugins import mlflow_logger
from frameworm_plugins.mlflow_logger import MLflowLogger
from frameworm_plugins.mlflow_logger.store import ENVIRONMENT, Store, key_of
from tests.frameworm_plugins.story import START, Story, live

pytestmark = [
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),  # of MLflow's own mappers
    pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning"),  # MLflow leaves its pool to the collector
]
SECOND = 1000
BEGAN = int(START.timestamp()) * SECOND


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store, made once: its tables take seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    code = f"import mlflow; mlflow.MlflowClient(tracking_uri='sqlite:///{path}').search_experiments()"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True)
    return path


@pytest.fixture
def uri(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where this test's store is; what the logger asks of the environment is forgotten after the test."""
    monkeypatch.chdir(tmp_path)
    for name in ENVIRONMENT:
        monkeypatch.setenv(name, ENVIRONMENT[name])
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    shutil.copy(prepared, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def only_run(uri: str) -> Any:
    """Return the one run of the store."""
    (run,) = runs(uri)
    return run


def runs(uri: str) -> Any:
    """Return the runs of the experiment."""
    client = client_of(uri)
    return client.search_runs([client.get_experiment_by_name("digits").experiment_id])


def client_of(uri: str) -> Any:
    """Return MLflow's client."""
    return import_module("mlflow").MlflowClient(tracking_uri=uri)


def history(uri: str, key: str) -> list[tuple[int, float]]:
    """Return every (step, value) that a metric has, by step."""
    found = client_of(uri).get_metric_history(only_run(uri).info.run_id, key)
    return sorted((metric.step, metric.value) for metric in found)


def restarted(logger: MLflowLogger, uri: str) -> MLflowLogger:
    """Return a logger of another process, with the saved state of `logger`."""
    other = MLflowLogger(tracking_uri=uri)
    other.load_state_dict(logger.state_dict())
    return other


def test_a_run_is_kept_as_it_was(uri: str, tmp_path: Path) -> None:
    """Parameters, points with their own time and step, tags, and the end."""
    story = Story(run_dir=tmp_path / "digits-01")
    logger = MLflowLogger(tracking_uri=uri)
    logger.deliver([story.begin(), story.batch(2.0), story.batch(1.0), story.epoch_end(loss=1.5, val_loss=1.0)])
    assert only_run(uri).info.status == "RUNNING"
    logger.deliver([story.logged(mine=5.0), story.end()])
    run = only_run(uri)
    assert (run.info.run_name, run.info.status) == ("digits-01", "FINISHED")
    assert (run.info.start_time - BEGAN, run.info.end_time - BEGAN) == (1 * SECOND, 6 * SECOND)
    assert run.data.params == {"optimizer.name": "adamw", "optimizer.lr": "0.001", "callbacks.0.c.token": "***"}
    assert run.data.tags["frameworm.run_id"] == "r1"
    assert run.data.tags["frameworm.attempt"] == "1"
    metrics = {key: history(uri, key) for key in run.data.metrics}
    assert metrics == {
        "batch_loss": [(1, 2.0), (2, 1.0)],
        "epoch": [(2, 0.0)],
        "loss": [(2, 1.5)],
        "val_loss": [(2, 1.0)],
        "mine": [(2, 5.0)],
    }
    (mine,) = client_of(uri).get_metric_history(run.info.run_id, "mine")
    assert mine.timestamp - BEGAN == 5 * SECOND


@pytest.mark.parametrize(
    ("status", "ended"),
    [("stopped", "FINISHED"), ("failed", "FAILED"), ("crashed", "FAILED"), ("interrupted", "KILLED")],
)
def test_it_ends_there_as_it_ended_here(uri: str, status: str, ended: str) -> None:
    """With the error, if there was one."""
    story = Story()
    MLflowLogger(tracking_uri=uri).deliver([story.begin(), story.end(status, "ValueError: no")])
    run = only_run(uri)
    assert (run.info.status, run.data.tags["frameworm.error"]) == (ended, "ValueError: no")


def test_a_run_whose_process_is_gone_is_closed(uri: str) -> None:
    """Its end is recorded nowhere, and comes with the number of the last record."""
    story = Story()
    logger = MLflowLogger(tracking_uri=uri)
    logger.deliver([story.begin(), story.batch(1.0)])
    logger = restarted(logger, uri)
    logger.deliver([story.crash()])
    assert only_run(uri).info.status == "FAILED"


def test_what_is_delivered_again_is_stored_once(uri: str) -> None:
    """By the same logger, by one that was restarted with an older state, and by one that has none."""
    story = Story()
    logger = MLflowLogger(tracking_uri=uri)
    first = [story.begin(), story.batch(3.0)]
    second = [story.batch(2.0), story.epoch_end(loss=2.5), story.logged(mine=1.0), story.logged(mine=2.0)]
    logger.deliver(first)
    older = restarted(logger, uri)
    for listener in (logger, logger, older):
        listener.deliver(second)
    MLflowLogger(tracking_uri=uri).deliver([*first, *second, story.end()])
    assert history(uri, "batch_loss") == [(1, 3.0), (2, 2.0)]
    assert history(uri, "loss") == [(2, 2.5)]
    assert history(uri, "mine") == [(2, 1.0), (2, 2.0)]
    assert only_run(uri).info.status == "FINISHED"


def test_steps_that_are_redone_are_stored_once(uri: str) -> None:
    """A resumed run goes on in its MLflow run, above what the first attempt had logged there."""
    story = Story()
    logger = MLflowLogger(tracking_uri=uri)
    logger.deliver([story.begin(), *(story.batch(float(loss)) for loss in range(4)), story.logged(mine=1.0)])
    logger.deliver([story.end("crashed")])
    logger = restarted(logger, uri)
    logger.deliver([*story.resume(step=2), *(story.batch(9.0) for _ in range(2)), story.logged(mine=2.0)])
    assert only_run(uri).info.status == "RUNNING"
    logger.deliver([story.batch(4.0), story.epoch_end(loss=1.0), story.end()])
    assert history(uri, "batch_loss") == [(1, 0.0), (2, 1.0), (3, 2.0), (4, 3.0), (5, 4.0)]
    assert history(uri, "mine") == [(4, 1.0)]
    assert history(uri, "loss") == [(5, 1.0)]
    run = only_run(uri)
    assert (run.info.status, run.data.tags["frameworm.attempt"]) == ("FINISHED", "2")


def test_in_step_with_training_a_resumed_run_asks_mlflow_how_far_it_came(uri: str) -> None:
    """There the state is the checkpoint's, older than what was logged."""
    story = Story()
    logger = MLflowLogger(tracking_uri=uri)
    with EventBus(strict=True) as bus:
        logger.register(bus, dispatch="sync")
        bus.publish(live(story.begin()))
        bus.publish(live(story.batch(3.0)))
        state = logger.state_dict()
        bus.publish(live(story.batch(2.0)))
    logger = MLflowLogger(tracking_uri=uri)
    logger.load_state_dict(state)
    with EventBus(strict=True) as bus:
        logger.register(bus, dispatch="sync")
        for event in (*story.resume(step=1), story.batch(9.0), story.batch(1.0), story.end()):
            bus.publish(live(event))
    assert history(uri, "batch_loss") == [(1, 3.0), (2, 2.0), (3, 1.0)]


def test_another_run_with_the_state_of_a_foreign_checkpoint_is_its_own(uri: str) -> None:
    """It does not go on in the run that the state is of."""
    story, other = Story("r1"), Story("r2")
    logger = MLflowLogger(tracking_uri=uri)
    logger.deliver([story.begin(), story.batch(3.0)])
    logger = restarted(logger, uri)
    logger.deliver([other.begin(), other.batch(2.0), other.end()])
    assert {run.data.tags["frameworm.run_id"]: run.data.metrics for run in runs(uri)} == {
        "r1": {"batch_loss": 3.0},
        "r2": {"batch_loss": 2.0},
    }


def test_more_than_mlflow_takes_at_once(uri: str) -> None:
    """Metrics and parameters go in portions."""
    config = {f"p{index}": index for index in range(250)}
    story = Story(config=config)
    metrics = {f"m{index}": float(index) for index in range(2500)}
    MLflowLogger(tracking_uri=uri).deliver([story.begin(), story.logged(**metrics)])
    run = only_run(uri)
    assert (len(run.data.params), len(run.data.metrics)) == (250, 2500)


def test_numbers_and_names_that_mlflow_has_its_own_idea_of(uri: str) -> None:
    """NaN stays NaN, an infinity is the largest number, a name is a path."""
    story = Story(config={"a@b": "x" * 7000, "nothing": ""})
    values = {"recall@5": 1.0, "../up": 2.0, "nan": math.nan, "inf": -math.inf}
    events = [story.begin(), story.logged(**values)]
    MLflowLogger(tracking_uri=uri).deliver(events)
    MLflowLogger(tracking_uri=uri).deliver(events)
    run = only_run(uri)
    assert math.isnan(run.data.metrics.pop("nan"))
    assert run.data.metrics == {"recall_5": 1.0, "up": 2.0, "inf": -sys.float_info.max}
    assert run.data.params == {"a_b": "x" * 6000, "nothing": ""}


@pytest.mark.parametrize(
    ("name", "key"),
    [("val/loss", "val/loss"), ("/a//b/./c/", "a/b/c"), ("..", "_"), ("..a/b", "a/b"), ("", "_"), ("é:1 %", "é:1 _")],
)
def test_names_become_keys(name: str, key: str) -> None:
    """Relative paths without characters that MLflow refuses."""
    assert key_of(name) == key


def test_checkpoints_are_kept_on_request(uri: str, tmp_path: Path) -> None:
    """The directory as it is; one that was removed before its turn is passed over."""
    story = Story()
    checkpoint = tmp_path / "checkpoints" / "step-00000001"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    events = [story.begin(), story.saved(checkpoint), story.saved(tmp_path / "gone"), story.end()]
    MLflowLogger(tracking_uri=uri).deliver(events)
    client, run_id = client_of(uri), only_run(uri).info.run_id
    assert client.list_artifacts(run_id) == []
    MLflowLogger(tracking_uri=uri, checkpoints=True).deliver(events)
    assert [item.path for item in client.list_artifacts(run_id, "checkpoints")] == ["checkpoints/step-00000001"]


def test_a_batch_that_fails_half_way_is_stored_once_when_it_comes_again(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The logger's mark is raised when all of it is stored, not before."""
    story = Story()
    logger = MLflowLogger(tracking_uri=uri)
    metrics = {f"m{index}": 1.0 for index in range(1500)}
    events: Sequence[Event] = [story.begin(), story.logged(**metrics), story.end()]
    end = Store.end
    monkeypatch.setattr(Store, "end", lambda *_: (_ for _ in ()).throw(ConnectionError("gone")))
    before = logger.state_dict()
    with pytest.raises(ConnectionError, match="gone"):
        logger.deliver(events)
    assert logger.state_dict() == before | {"remote": only_run(uri).info.run_id}
    monkeypatch.setattr(Store, "end", end)
    logger.deliver(events)
    assert len(only_run(uri).data.metrics) == 1500
    assert history(uri, "m1400") == [(0, 1.0)]
    assert only_run(uri).info.status == "FINISHED"


def test_errors_are_of_their_kind(uri: str) -> None:
    """A server that does not answer is asked again; what MLflow refuses is nobody's to insist on."""
    story = Story()
    with pytest.raises(Exception, match="failed") as caught:
        MLflowLogger(tracking_uri="http://127.0.0.1:9").deliver([story.begin()])
    assert blame_of(caught.value) is Blame.CIRCUMSTANCES
    logger = MLflowLogger(tracking_uri=uri)
    logger.deliver([story.begin()])
    logger.load_state_dict(logger.state_dict() | {"remote": "0" * 32})
    with pytest.raises(Exception, match="not found") as caught:
        logger.deliver([story.batch(1.0)])
    assert blame_of(caught.value) is Blame.RECORD


def test_nothing_of_mlflow_is_imported_before_the_first_event() -> None:
    """Neither by loading the plugin nor by making the logger: in training, a config is only checked."""
    made = "from frameworm_plugins.mlflow_logger import MLflowLogger; MLflowLogger()"
    code = f"import sys; {made}; print('mlflow' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_without_mlflow_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a config asks for it, before step 1."""
    monkeypatch.setattr(mlflow_logger, "find_spec", lambda _name: None)
    with pytest.raises(UserError, match="MLflow") as caught:
        MLflowLogger()
    assert caught.value.hint == "pip install 'frameworm[mlflow]'"
