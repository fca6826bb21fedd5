"""A config's callbacks listen in their lanes; what cannot be is refused with its place, before anything is written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, ClassVar

import pytest

from bus import EventBus
from frameworm import app, config
from frameworm.delivery.listener import ProcessListener, plan_file, read_plan
from frameworm.errors import FramewormError, UserError
from frameworm.listening import conceal_options, register_callbacks
from frameworm.plugins.hooks import CallbackHook
from frameworm.plugins.lanes import process_hooks
from frameworm.plugins.selection import Selection
from frameworm.runs import list_runs

HERE = f"{__name__}:"
DATA = {"name": "synthetic", "samples": 32, "inputs": 4, "targets": 3, "batch_size": 8}
MODEL = {"name": "mlp", "inputs": 4, "outputs": 3, "loss": "mse"}


class ToFile(CallbackHook):
    """Writes a line for each event, in the process lane."""

    dispatch = "process"

    def __init__(self, path: str, token: str = "") -> None:
        self.path = path
        self.token = token

    def on_epoch_end(self, trainer: Any, epoch: int, metrics: dict[str, float]) -> None:
        """Write the epoch, the process, and what it was made with."""
        self._write([epoch, os.getpid(), self.token, trainer.step, sorted(metrics)])

    def on_train_end(self, trainer: Any) -> None:
        """Write how it ended."""
        self._write([trainer.status])

    def _write(self, line: list[Any]) -> None:
        with Path(self.path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


class OnBatches(CallbackHook):
    """Wants what is recorded on demand."""

    dispatch = "process"

    def on_batch_begin(self, batch_idx: int) -> None:
        """Before a batch."""

    def on_batch_end(self, batch_idx: int) -> None:
        """After it."""


class Steering(OnBatches):
    """Wants what exists in the trainer alone."""

    def on_batch_begin(self, trainer: Any, batch_idx: int, batch: Any) -> None:  # type: ignore[override]  # on purpose
        """Cannot be called with a batch there."""


class InStep(CallbackHook):
    """Has an option that others have of their lane."""

    made: ClassVar[list[InStep]] = []

    def __init__(self, timeout: float = 0) -> None:
        self.timeout = timeout
        self.made.append(self)

    def on_epoch_end(self) -> None:
        """Listen."""


class Plain:
    """Listens in its own way."""

    def register(self, bus: EventBus) -> None:
        """Do nothing."""


def of(*callbacks: Any, **rest: Any) -> config.Config:
    """A config with these callbacks."""
    return config.parse({"data": DATA, "model": MODEL, "callbacks": list(callbacks), **rest})


def test_each_in_its_lane() -> None:
    """In step as before; the config's word counts; of the process lane a description is left."""
    with EventBus() as bus:
        apart = register_callbacks(
            of(
                {f"{HERE}InStep": {"timeout": 2.0}},
                {f"{HERE}InStep": {"dispatch": "async", "queue_size": 7, "priority": 10}},
                {f"{HERE}OnBatches": {"timeout": 2.5}},
                {f"{HERE}OnBatches": {"dispatch": "async"}},
                f"{HERE}OnBatches",
                f"{HERE}Plain",
            ),
            bus,
        )
        lanes = sorted((entry.event_type.name, entry.lane) for entry in bus.subscriptions())
    assert lanes == [("batch_begin", "async"), ("batch_end", "async"), ("epoch_end", "async"), ("epoch_end", "sync")]
    assert InStep.made[0].timeout == 2.0
    target, every = f"{HERE}OnBatches", {"batch_begin": 1}
    assert apart == (
        ProcessListener(target, target, every=every, timeout=2.5),
        ProcessListener(f"{target}#2", target, every=every),
    )


@pytest.mark.parametrize(
    ("callback", "says"),
    [
        ({f"{HERE}InStep": {"dispatch": "asink"}}, "no such lane"),
        ({f"{HERE}InStep": {"dispatch": "async", "queue_size": -1}}, "queue_size must be a whole number"),
        ({f"{HERE}InStep": {"dispatch": "async", "overflow": "drop_olddest"}}, "did you mean 'drop_oldest'"),
        ({f"{HERE}InStep": {"queue_size": 5}}, "called in step, where there is no queue"),
        ({f"{HERE}InStep": {"ranks": "one"}}, "ranks must be"),
        ({f"{HERE}Steering": {}}, "'batch' exists only there"),
        ({f"{HERE}OnBatches": {"queue_size": 5}}, "'queue_size' means nothing in the process lane"),
        ({f"{HERE}OnBatches": {"timeout": "soon"}}, "timeout"),
        ({f"{HERE}Plain": {"dispatch": "async"}}, "takes no 'dispatch'"),
    ],
)
def test_what_cannot_be(callback: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a message with its place, and no run begins."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FramewormError, match=says) as caught, app.session(of(callback)):
        pass
    assert caught.value.where is not None
    assert list_runs(tmp_path / "runs") == []


def test_the_process_lane_needs_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a journal there is nothing to read."""
    monkeypatch.chdir(tmp_path)
    wrong = of({f"{HERE}ToFile": {"path": "x"}}, journal={"enabled": False})
    with pytest.raises(UserError, match="reads the run's record, and there is none"), app.session(wrong):
        pass


def test_secrets_are_handed_over_and_not_written() -> None:
    """Of listeners and of plugins."""
    listeners = (ProcessListener("a", "a", {"api_key": "abc", "path": "x"}),)
    plan, secrets = conceal_options(listeners, Selection(("p",), options={"p": {"token": "t0"}}))
    assert plan.listeners[0].options == {"api_key": "${env:FRAMEWORM_SECRET_1}", "path": "x"}
    assert plan.plugins.options == {"p": {"token": "${env:FRAMEWORM_SECRET_2}"}}
    assert secrets == {"FRAMEWORM_SECRET_1": "abc", "FRAMEWORM_SECRET_2": "t0"}


def test_a_run_with_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is delivered when `fit` returns: once, in order, in another process, with the secret in hand."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    )
    made = of({f"{HERE}ToFile": {"path": "heard", "token": "s3cret"}}, trainer={"epochs": 2, "device": "cpu"})
    with app.session(made) as trainer:
        result = trainer.fit()
    assert result.directory is not None
    *epochs, end = [json.loads(line) for line in Path("heard").read_text("utf-8").splitlines()]
    assert [(epoch, token, step) for epoch, _, token, step, _ in epochs] == [(0, "s3cret", 4), (1, "s3cret", 8)]
    assert os.getpid() not in {process for _, process, *_ in epochs}
    assert end == ["finished"]
    assert read_plan(result.directory).listeners[0].target == f"{HERE}ToFile"
    assert "s3cret" not in plan_file(result.directory).read_text("utf-8")
    assert process_hooks == []
