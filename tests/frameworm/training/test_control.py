"""What may be asked of a run, from anywhere: stop, skip a batch, save, validate; each recorded with who asked."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from bus.testing import record
from frameworm.errors import StopTraining
from frameworm.events import (
    BatchBegin,
    BatchEnd,
    BatchSkipped,
    CheckpointSaved,
    ControlRequested,
    OptimizerStepped,
    ValidationBatchEnd,
    ValidationEnd,
)
from frameworm.training.store import CheckpointStore
from frameworm.training.trainer import Trainer
from tests.frameworm.training.toys import (
    a_perceptron,
    a_trainer,
    same,
    sgd,
    some_batches,
    train_by_hand,
    weights,
)

HERE = __name__


def in_batch(trainer: Trainer, index: int, ask: Any) -> None:
    """Have something asked once, at the end of a batch of the first epoch."""

    @trainer.bus.on(BatchEnd)
    def at(event: BatchEnd) -> None:
        if event.batch_idx == index and event.source.epoch == 0:
            ask(event.source)


# Who asks


def test_a_hook_that_asks_is_named_with_its_line() -> None:
    """The record says whose code it was."""
    trainer = a_trainer(train_data=some_batches(4))
    in_batch(trainer, 1, lambda source: source.stop("enough"))
    with record(trainer.bus, ControlRequested) as asked:
        trainer.fit()
    (event,) = asked
    assert (event.verb, event.reason) == ("stop", "enough")
    assert event.by.startswith(f"{HERE}.test_a_hook_that_asks_is_named_with_its_line.<locals>.<lambda> ({__file__}:")


def test_who_raises_stop_training_is_named_too() -> None:
    """By where it was raised."""
    trainer = a_trainer(train_data=some_batches(4))

    def give_up(_source: Any) -> None:
        raise StopTraining("no use")

    in_batch(trainer, 0, give_up)
    with record(trainer.bus, ControlRequested) as asked:
        assert trainer.fit().reason == "no use"
    assert ".give_up (" in asked[0].by


def test_a_thread_that_asks_is_named() -> None:
    """With its own name, beside the code's."""
    trainer = a_trainer(train_data=some_batches(4))

    def ask(source: Any) -> None:
        thread = threading.Thread(target=source.stop, args=("from elsewhere",), name="service")
        thread.start()
        thread.join()

    in_batch(trainer, 0, ask)
    with record(trainer.bus, ControlRequested) as asked:
        trainer.fit()
    assert asked[0].by.endswith(", thread service)")


def test_whoever_speaks_for_another_says_so() -> None:
    """A service names its user."""
    trainer = a_trainer(train_data=some_batches(4))
    in_batch(trainer, 0, lambda source: source.stop(by="POST /stop from ada"))
    with record(trainer.bus, ControlRequested) as asked:
        trainer.fit()
    assert asked[0].by == "POST /stop from ada"


def test_a_signal_is_named(tmp_path: Path) -> None:
    """SIGUSR1 saves, and the run goes on."""
    trainer = a_trainer(train_data=some_batches(4), checkpoints=CheckpointStore(tmp_path, monitor=None))
    in_batch(trainer, 1, lambda _source: os.kill(os.getpid(), signal.SIGUSR1))
    with record(trainer.bus, ControlRequested, CheckpointSaved) as events:
        assert trainer.fit().status == "finished"
    assert [event.name for event in events] == ["control_requested", "checkpoint_saved", "checkpoint_saved"]
    assert (events[0].verb, events[0].by) == ("save", "signal SIGUSR1")


# Validation


def test_a_validation_that_is_asked_for_changes_nothing(tmp_path: Path) -> None:
    """Not even with data that draw random numbers; it is told as one that was asked for."""

    class Drawing(list[Any]):
        def __iter__(self) -> Any:
            torch.randn(5)
            return super().__iter__()

    model, other = a_perceptron(0.3), a_perceptron(0.3)
    torch.manual_seed(1)
    train_by_hand(model, some_batches(4), sgd(model))
    torch.manual_seed(1)
    store = CheckpointStore(tmp_path, monitor="val_loss")
    trainer = a_trainer(other, some_batches(4), Drawing(some_batches(2)), optimizer=sgd(other), checkpoints=store)
    in_batch(trainer, 1, lambda source: (source.save_now(), source.validate_now(), source.validate_now()))
    with record(trainer.bus, ValidationEnd, CheckpointSaved) as events:
        trainer.fit()
    assert same(weights(other), weights(model))
    names = ["validation_end", "checkpoint_saved", "validation_end", "checkpoint_saved"]
    assert [event.name for event in events] == names
    assert [event.asked for event in events if isinstance(event, ValidationEnd)] == [True, False]
    early, _late = store.list()
    assert early.manifest.metrics["val_loss"] == events[0].metrics["val_loss"]


def test_without_data_to_validate_on_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """And the run goes on."""
    trainer = a_trainer(train_data=some_batches(3))
    in_batch(trainer, 0, lambda source: source.validate_now())
    assert trainer.fit().status == "finished"
    assert "nothing to validate on" in caplog.text


@pytest.mark.parametrize("options", [{"validate_every_steps": 2}, {}], ids=["by the steps", "asked"])
def test_a_stop_abandons_a_validation_between_two_steps(tmp_path: Path, options: dict[str, Any]) -> None:
    """One that comes by itself comes again when the run goes on, and then all is as if nothing had been."""

    def make(seed: int, **rest: Any) -> Trainer:
        torch.manual_seed(seed)
        return a_trainer(
            a_perceptron(0.3, seed=seed), some_batches(5), some_batches(3), epochs=2, **{**options, **rest}
        )

    straight = make(0)
    if not options:
        in_batch(straight, 1, lambda source: source.validate_now())
    with record(straight.bus, ValidationEnd) as expected:
        straight.fit()

    trainer = make(0, checkpoints=CheckpointStore(tmp_path, monitor=None))
    if not options:
        in_batch(trainer, 1, lambda source: source.validate_now())

    @trainer.bus.on(ValidationBatchEnd)
    def stop(event: ValidationBatchEnd) -> None:
        event.source.stop()

    with record(trainer.bus, ValidationEnd) as ended:
        assert trainer.fit().steps == 2
    assert ended == []
    resumed = make(5)
    resumed.resume(tmp_path)
    with record(resumed.bus, ValidationEnd) as events:
        resumed.fit()
    assert same(weights(resumed.model), weights(straight.model))
    scheduled = [event.metrics for event in expected if not event.asked]
    assert [event.metrics for event in events] == scheduled


# Batches that are left out


@pytest.mark.parametrize(("accumulate", "skipped"), [(1, [1]), (2, [3]), (2, [2, 3])])
def test_a_batch_that_is_skipped_is_not_trained_on(accumulate: int, skipped: list[int]) -> None:
    """It keeps its place in the window; a window that is skipped as a whole is no step."""
    model, other = a_perceptron(), a_perceptron()
    optimizer, batches = sgd(model), some_batches(6)
    for start in range(0, 6, accumulate):
        kept = [index for index in range(start, start + accumulate) if index not in skipped]
        optimizer.zero_grad()
        for index in kept:
            (model.compute_loss(*batches[index])["loss"] / accumulate).backward()  # type: ignore[no-untyped-call]
        if kept:
            optimizer.step()

    trainer = a_trainer(other, batches, optimizer=sgd(other), accumulate=accumulate)

    @trainer.bus.on(BatchBegin)
    def skip(event: BatchBegin) -> None:
        if event.batch_idx in skipped:
            event.source.skip_batch("too long")

    kinds = BatchBegin, BatchEnd, BatchSkipped
    with record(trainer.bus, *kinds) as events:
        result = trainer.fit()
    assert same(weights(other), weights(model))
    assert result.steps == 6 // accumulate - (len(skipped) == accumulate)
    ends = [(event.batch_idx, event.name) for event in events if event.name != "batch_begin"]
    assert ends == [(index, "batch_skipped" if index in skipped else "batch_end") for index in range(6)]
    told = next(event for event in events if isinstance(event, BatchSkipped))
    assert (told.reason, ".skip (" in told.by) == ("too long", True)


def test_asked_elsewhere_the_next_batch_is_skipped() -> None:
    """Each request skips one batch; what is asked too late skips none of the next run."""
    trainer = a_trainer(train_data=some_batches(5), epochs=2)
    in_batch(trainer, 1, lambda source: (source.skip_batch(), source.skip_batch()))

    @trainer.bus.on(OptimizerStepped)
    def late(event: OptimizerStepped) -> None:
        if event.source.epoch == 1 and event.source.step == 8:
            event.source.skip_batch()

    with record(trainer.bus, BatchSkipped) as skipped:
        trainer.fit()
    assert [event.batch_idx for event in skipped] == [2, 3]


def test_a_run_goes_on_behind_a_batch_that_was_skipped(tmp_path: Path) -> None:
    """A checkpoint there counts it as done."""
    trainer = a_trainer(train_data=some_batches(5), checkpoints=CheckpointStore(tmp_path, monitor=None))

    @trainer.bus.on(BatchBegin)
    def skip(event: BatchBegin) -> None:
        if event.batch_idx == 2:
            event.source.skip_batch()
            event.source.stop()

    assert trainer.fit().steps == 2
    resumed = a_trainer(a_perceptron(seed=1), some_batches(5))
    resumed.resume(tmp_path)
    with record(resumed.bus, BatchEnd) as ends:
        assert resumed.fit().steps == 4
    assert [event.batch_idx for event in ends] == [3, 4]
