"""A run whose metric no longer gets better is stopped, in good time and for a stated reason."""

from __future__ import annotations

import math
from typing import Any

import pytest

from frameworm.config import TrainerConfig
from frameworm.errors import UnknownNameError, UserError
from frameworm.events import EpochEnd
from frameworm.listeners.early_stopping import EarlyStopping
from tests.frameworm.listeners.fakes import FakeTrainer


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
    assert after.register(trainer.bus).owner is after
    trainer.end_epoch(3, val_loss=2.0)
    assert [verb for verb, _ in trainer.asked] == ["stop"]


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
