"""Without a terminal a run is told in one line an epoch."""

from __future__ import annotations

import io
import json

import torch

from frameworm import logs
from frameworm.events import EpochEnd
from frameworm.listeners.console import ConsoleLines, LogLines
from tests.frameworm.listeners.fakes import FakeTrainer


def test_a_line_an_epoch() -> None:
    """What is trained, then a line for each epoch with its metrics and its rate."""
    trainer, lines = FakeTrainer(epochs=12), list[str]()
    ConsoleLines(lines.append).register(trainer.bus)
    trainer.train([{"loss": 0.51239, "train_loss": 0.51239, "val_loss": 0.25}, {"loss": 0.1}], torch.zeros(8, 2))
    begin, first, second = lines
    assert begin == "training cnn for 12 epochs, in runs/digits-1"
    assert first.startswith("epoch  1/12  loss 0.5124  val_loss 0.25  ")
    assert second.startswith("epoch  2/12  loss 0.1  ")
    assert " samples/s  " in first


def test_batches_that_do_not_tell_their_size() -> None:
    """Where samples cannot be counted, batches are."""
    trainer, lines = FakeTrainer(), list[str]()
    ConsoleLines(lines.append).register(trainer.bus)
    trainer.train([{}], batch=None)
    assert " batches/s  " in lines[-1]


def test_a_resumed_run() -> None:
    """A run that goes on says so; one that is not kept has no place."""
    trainer, lines = FakeTrainer(epochs=1, attempt=2, run_dir=None), list[str]()
    ConsoleLines(lines.append).register(trainer.bus)
    trainer.train([])
    assert lines == ["training cnn for 1 epoch, attempt 2"]


def test_metrics_of_hooks_are_shown() -> None:
    """A metric that a hook adds is in the line of that epoch."""
    trainer, lines = FakeTrainer(), list[str]()
    ConsoleLines(lines.append).register(trainer.bus)

    def add(event: EpochEnd) -> None:
        event.metrics["score"] = 3.0

    trainer.bus.subscribe(EpochEnd, add)
    trainer.end_epoch(0)
    assert "score 3" in lines[-1]


def test_structured_lines() -> None:
    """As JSON the same is logged, every number by its name."""
    stream, trainer = io.StringIO(), FakeTrainer(epochs=2)
    LogLines(logs.get_logger("frameworm").info).register(trainer.bus)
    with logs.configure("json", stream):
        trainer.train([{"loss": 0.5}, {"loss": float("nan")}], torch.zeros(8, 2))
    begin, first, second = map(json.loads, stream.getvalue().splitlines())
    assert (begin["event"], begin["model"], begin["epochs"]) == ("train_begin", "cnn", 2)
    assert begin["run_dir"] == "runs/digits-1"
    assert (first["event"], first["metrics"]) == ("epoch_end", {"loss": 0.5})
    assert first["samples_per_second"] > 0
    assert second["metrics"] == {"loss": "NaN"}
