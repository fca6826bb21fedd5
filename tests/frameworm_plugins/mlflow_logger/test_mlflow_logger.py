"""The logger keeps runs in MLflow as they were; where MLflow is not installed, a stand-in keeps what it is told."""

# ruff: noqa: D102  the stand-in's methods are MLflow's own

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import pytest

from frameworm import app, config
from frameworm.errors import UserError
from frameworm.events import EpochEnd
from frameworm_plugins import mlflow_logger
from frameworm_plugins.mlflow_logger import MLflowLogger, flat

CONFIG: dict[str, Any] = {
    "data": {"name": "synthetic", "samples": 64, "inputs": 4, "targets": 3, "batch_size": 8},
    "model": {"name": "mlp", "inputs": 4, "outputs": 3, "loss": "mse"},
    "optimizer": {"name": "adamw", "lr": 1e-3},
    "trainer": {"epochs": 2, "device": "cpu"},
    "callbacks": [{"mlflow": {"experiment": "digits", "run_name": "first"}}],
}


class Entity(NamedTuple):
    """A parameter or a metric, as MLflow's own."""

    key: str
    value: Any
    timestamp: int | None = None
    step: int | None = None


class Store:
    """As much of `MlflowClient` as the logger uses; it remembers everything, in all clients alike."""

    runs: dict[str, Any]

    def __init__(self, tracking_uri: str | None = None) -> None:
        self.tracking_uri = tracking_uri

    def get_experiment_by_name(self, name: str) -> Any:
        return None

    def create_experiment(self, name: str) -> str:
        return name

    def create_run(self, experiment_id: str, tags: dict[str, str], run_name: str) -> Any:
        run_id = f"run-{len(self.runs)}"
        info = SimpleNamespace(run_id=run_id, experiment_id=experiment_id, run_name=run_name, status="RUNNING")
        self.runs[run_id] = SimpleNamespace(info=info, tags=tags, params={}, metrics=[])
        return self.runs[run_id]

    def search_runs(self, experiment_ids: list[str], filter_string: str, max_results: int) -> list[Any]:
        return [run for run in self.runs.values() for tag in run.tags.values() if f"'{tag}'" in filter_string]

    def update_run(self, run_id: str, status: str) -> None:
        self.runs[run_id].info.status = status

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        self.runs[run_id].tags[key] = value

    def log_batch(self, run_id: str, metrics: tuple[Entity, ...] = (), params: tuple[Entity, ...] = ()) -> None:
        assert len(params) <= 100
        self.runs[run_id].params |= {param.key: param.value for param in params}
        self.runs[run_id].metrics += [(metric.step, metric.key) for metric in metrics]

    def set_terminated(self, run_id: str, status: str) -> None:
        self.runs[run_id].info.status = status


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What was logged to the stand-in, by run."""
    monkeypatch.chdir(tmp_path)
    kept: dict[str, Any] = {}
    store = type("MlflowClient", (Store,), {"runs": kept})
    contents: dict[str, dict[str, Any]] = {
        "mlflow": {"MlflowClient": store},
        "mlflow.entities": {"Param": Entity, "Metric": Entity},
    }
    for name, content in contents.items():
        module = ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(mlflow_logger, "find_spec", lambda _name: object())
    return kept


def train(*overrides: str, resume: str | None = None, fail: bool = False) -> None:
    """Train what the config says; `fail` in the second epoch."""
    with app.session(config.parse(CONFIG, overrides), resume=resume) as trainer:
        if fail:
            trainer.bus.subscribe(EpochEnd, lambda _event: 1 / 0, on_error="raise")
        trainer.fit()
        assert not [entry for entry in trainer.bus.statistics() if entry.failed]


def test_a_run_is_kept_with_its_parameters_and_metrics(runs: dict[str, Any]) -> None:
    """The config flat, the metrics of each epoch at its number, and the end as it was."""
    train()
    (run,) = runs.values()
    assert (run.info.experiment_id, run.info.run_name, run.info.status) == ("digits", "first", "FINISHED")
    assert run.params["optimizer.lr"] == "0.001"
    assert run.params["callbacks.0.mlflow.run_name"] == "first"
    names = ["loss", "lr", "train_loss", "val_loss"]
    assert sorted(run.metrics) == [(step, name) for step in range(2) for name in names]


def test_a_failed_run_ends_as_failed(runs: dict[str, Any]) -> None:
    """With the error as a tag."""
    with pytest.raises(ZeroDivisionError):
        train(fail=True)
    (run,) = runs.values()
    assert run.info.status == "FAILED"
    assert run.tags["frameworm.error"].startswith("ZeroDivisionError")


def test_an_interrupted_run_is_killed_and_goes_on_when_resumed(runs: dict[str, Any]) -> None:
    """The attempts are one run in MLflow, the next run is another."""
    with app.session(config.parse(CONFIG)) as trainer:
        trainer.bus.subscribe(EpochEnd, lambda _event: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            trainer.fit()
    (run,) = runs.values()
    assert run.info.status == "KILLED"
    train("trainer.epochs=3", resume="latest")
    assert list(runs.values()) == [run]
    assert run.info.status == "FINISHED"
    assert {step for step, _ in run.metrics} >= {1, 2}
    train()
    assert len(runs) == 2


def test_an_unreachable_server_does_not_hurt_the_run(runs: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its errors are counted; what follows a beginning that failed is left out."""

    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("refused")

    monkeypatch.setattr(Store, "create_run", refuse)
    with app.session(config.parse(CONFIG)) as trainer:
        assert trainer.fit().status == "finished"
        (account,) = [entry for entry in trainer.bus.statistics() if "MLflowLogger" in entry.name]
    assert (account.failed, account.delivered) == (1, 3)
    assert "refused" in (account.last_error or "")
    assert runs == {}


def test_without_mlflow_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a config asks for it, before step 1."""
    monkeypatch.setattr(mlflow_logger, "find_spec", lambda _name: None)
    with pytest.raises(UserError, match="MLflow") as caught:
        app.build(config.parse(CONFIG))
    assert caught.value.hint == "pip install 'frameworm[mlflow]'"


def test_values_lie_under_their_paths() -> None:
    """Lists of plain values stay whole."""
    tree = {"a": {"b": 1}, "metrics": ["x", "y"], "callbacks": [{"c": {"d": None}}]}
    assert dict(flat(tree)) == {"a.b": "1", "metrics": "['x', 'y']", "callbacks.0.c.d": "None"}


@pytest.mark.skipif(find_spec("mlflow") is None, reason="MLflow is not installed; the stand-in above is what is tested")
def test_the_real_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client takes what the logger gives."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = f"file:{tmp_path / 'mlruns'}"
    logger = MLflowLogger("digits", uri)
    trainer: Any = SimpleNamespace(name="n", run_dir=None, run_id="1", config={"a": 1}, error=None, status="finished")
    logger.on_train_begin(trainer)
    logger.on_epoch_end(0, {"loss": 1.0})
    logger.on_train_end(trainer)
    client = MLflowLogger("digits", uri)._client
    (run,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    assert (run.info.status, run.data.metrics, run.data.params) == ("FINISHED", {"loss": 1.0}, {"a": "1"})
