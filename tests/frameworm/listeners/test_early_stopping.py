"""A run whose metric no longer gets better is stopped, in good time and for a stated reason."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from frameworm.config import TrainerConfig
from frameworm.errors import UnknownNameError, UserError
from frameworm.events import EpochEnd, ValidationEnd
from frameworm.listeners.early_stopping import EarlyStopping
from frameworm.training.store import CheckpointStore
from frameworm.training.trainer import Trainer
from tests.frameworm.listeners.fakes import FakeTrainer
from tests.frameworm.training.toys import a_perceptron, a_trainer, some_batches


def stopped_at(listener: EarlyStopping, values: list[float], metric: str = "val_loss") -> int | None:
    """The epoch (from 0) at whose end `listener` asks to stop, given its metric's values."""
    trainer = FakeTrainer(epochs=len(values))
    listener.register(trainer.bus)
    for epoch, value in enumerate(values):
        trainer.end_epoch(epoch, **{metric: value})
        if trainer.asked:
            return epoch
    return None


@pytest.mark.parametrize(
    ("options", "values", "epoch"),
    [
        ({"patience": 2}, [3.0, 2.0, 1.0, 0.5], None),
        ({"patience": 2}, [3.0, 3.0, 3.0, 3.0], 2),
        ({"patience": 1}, [3.0, 2.0, 2.5], 2),
        ({"patience": 2}, [3.0, 4.0, 2.0, 4.0, 4.0], 4),
        ({"patience": 2, "min_delta": 0.5}, [3.0, 2.8, 2.6], 2),
        ({"patience": 2, "min_delta": 0.5}, [3.0, 2.4, 1.8], None),
        ({"patience": 2}, [math.nan, math.nan], 1),
        ({"patience": 2}, [1.0, math.nan, math.nan], 2),
        ({"patience": 2, "mode": "max"}, [1.0, 0.9, 0.8], 2),
    ],
)
def test_when_it_stops(options: dict[str, Any], values: list[float], epoch: int | None) -> None:
    """It stops after `patience` epochs in a row without an improvement of more than `min_delta`."""
    assert stopped_at(EarlyStopping(**options), values) == epoch


def test_the_direction_is_in_the_name() -> None:
    """Without a mode, an accuracy should rise and a loss fall."""
    values = [0.5, 0.6, 0.7]
    assert stopped_at(EarlyStopping("val_accuracy", patience=1), values, "val_accuracy") is None
    assert stopped_at(EarlyStopping("val_loss", patience=1), values) == 1


def test_the_reason() -> None:
    """The trainer is told why."""
    trainer = FakeTrainer()
    EarlyStopping(patience=2).register(trainer.bus)
    for epoch in range(3):
        trainer.end_epoch(epoch, val_loss=0.25)
    assert trainer.asked == [("stop", "early stopping: val_loss did not improve on 0.25 for 2 epochs")]


def test_hooks_add_the_metric() -> None:
    """A metric that a hook adds to the same event can be monitored."""
    trainer = FakeTrainer()
    EarlyStopping("score", patience=1, mode="max").register(trainer.bus)

    def add(event: EpochEnd) -> None:
        event.metrics["score"] = 1.0

    trainer.bus.subscribe(EpochEnd, add)
    trainer.end_epoch(0)
    trainer.end_epoch(1)
    assert [verb for verb, _ in trainer.asked] == ["stop"]


def test_an_unknown_metric_ends_the_training() -> None:
    """The first epoch without the metric is an error that names the metrics there are, and the nearest."""
    trainer = FakeTrainer()
    EarlyStopping("val_los").register(trainer.bus)
    with pytest.raises(UnknownNameError) as caught:
        trainer.end_epoch(0, loss=1.0, val_loss=1.0)
    assert caught.value.known == ("loss", "val_loss")
    assert caught.value.nearest == "val_loss"


def test_epochs_without_validation_do_not_count() -> None:
    """With validation every second epoch the others are passed over; where it should have been, the error comes."""
    trainer = FakeTrainer(options=TrainerConfig(validate_every=2))
    EarlyStopping(patience=1).register(trainer.bus)
    trainer.end_epoch(0, loss=1.0)
    trainer.end_epoch(1, loss=1.0, val_loss=1.0)
    trainer.end_epoch(2, loss=1.0)
    assert trainer.asked == []
    with pytest.raises(UnknownNameError):
        trainer.end_epoch(3, loss=1.0)


def test_state() -> None:
    """A resumed run goes on waiting where it was; the state is plain and belongs to the listener itself."""
    before, after = EarlyStopping(patience=3), EarlyStopping(patience=3)
    assert stopped_at(before, [1.0, 2.0, 2.0]) is None
    assert before.state_dict() == {"best": 1.0, "waited": 2}
    after.load_state_dict(before.state_dict())
    trainer = FakeTrainer()
    assert {subscription.owner for subscription in after.register(trainer.bus)} == {after}
    trainer.end_epoch(3, val_loss=2.0)
    assert [verb for verb, _ in trainer.asked] == ["stop"]


def scripted(values: list[float], listeners: list[EarlyStopping], seed: int, **options: Any) -> Trainer:
    """Return a real trainer whose validations give these losses, one after the other, and end its run in time."""
    trainer = a_trainer(
        a_perceptron(0.3, seed=seed), some_batches(4), some_batches(1), **{"epochs": len(values), **options}
    )

    @trainer.bus.on(ValidationEnd, priority=10)
    def script(event: ValidationEnd) -> None:
        every = event.source.options.validate_every_steps or 4
        event.metrics["val_loss"] = math.inf if event.asked else values[event.source.step // every - 1]

    for listener in listeners:
        listener.register(trainer.bus)
    return trainer


VALUES = [1.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]


def test_resumed_it_stops_at_the_same_step(tmp_path: Path) -> None:
    """After two bad evaluations of three; two instances each go on with their own count."""

    def pair() -> list[EarlyStopping]:
        return [EarlyStopping(patience=3), EarlyStopping(patience=50)]

    straight = scripted(VALUES, pair(), seed=0)
    expected = straight.fit()
    assert (expected.epochs, expected.status) == (5, "stopped")

    cut = scripted(VALUES, pair(), seed=0, checkpoints=CheckpointStore(tmp_path, monitor=None))
    cut.bus.subscribe(EpochEnd, lambda event: event.source.stop() if event.epoch == 3 else None)
    assert cut.fit().epochs == 4
    listeners = pair()
    resumed = scripted(VALUES, listeners, seed=1)
    resumed.resume(tmp_path)
    assert [listener.state_dict() for listener in listeners] == [{"best": 0.5, "waited": 2}] * 2
    result = resumed.fit()
    assert (result.steps, result.reason) == (expected.steps, expected.reason)
    assert [listener.waited for listener in listeners] == [3, 3]

    swapped = [EarlyStopping(patience=50), EarlyStopping(patience=3)]
    swapped[1].best = 9.0
    resumed = scripted(VALUES, swapped, seed=1)
    resumed.resume(tmp_path)
    assert [listener.best for listener in swapped] == [0.5, 0.5]


def test_two_instances_of_one_class_keep_their_own(tmp_path: Path) -> None:
    """Their states are told apart by their names, not by their class."""
    one, other = EarlyStopping(patience=99), EarlyStopping("loss", patience=99, mode="max")
    trainer = scripted(VALUES[:3], [one, other], seed=0, checkpoints=CheckpointStore(tmp_path, monitor=None))
    trainer.fit()
    states = one.state_dict(), other.state_dict()
    assert states[0] != states[1]
    again = [EarlyStopping(patience=99), EarlyStopping("loss", patience=99, mode="max")]
    resumed = scripted(VALUES[:3], again, seed=0)
    resumed.resume(tmp_path)
    assert tuple(listener.state_dict() for listener in again) == states


def test_by_the_steps_it_counts_validations() -> None:
    """Several to an epoch; one that somebody asked for is not counted."""
    trainer = scripted(VALUES, [EarlyStopping(patience=3)], seed=0, validate_every_steps=2)

    @trainer.bus.on(EpochEnd)
    def ask(event: EpochEnd) -> None:
        event.source.validate_now()

    result = trainer.fit()
    assert result.steps == 10
    assert result.reason == "early stopping: val_loss did not improve on 0.5 for 3 validations"


def test_by_the_steps_a_metric_of_training_is_one_of_the_epoch() -> None:
    """It is known only at its end."""
    listener = EarlyStopping("loss", patience=1, mode="max")
    result = scripted(VALUES, [listener], seed=0, validate_every_steps=3).fit()
    assert result.reason == f"early stopping: loss did not improve on {listener.best:.6g} for epoch"
    assert result.steps % 4 == 0


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"monitor": ""}, "monitor"),
        ({"patience": 0}, "patience"),
        ({"patience": "3"}, "patience"),
        ({"patience": True}, "patience"),
        ({"mode": "up"}, "mode"),
        ({"min_delta": -1}, "min_delta"),
        ({"min_delta": "small"}, "min_delta"),
    ],
)
def test_wrong_options(options: dict[str, Any], option: str) -> None:
    """An option that makes no sense is refused by name, before anything is trained."""
    with pytest.raises(UserError, match=f"early_stopping: {option} is wrong"):
        EarlyStopping(**options)
