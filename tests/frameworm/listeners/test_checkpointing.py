"""Checkpoints are asked for when epochs end."""

from __future__ import annotations

from typing import Any

import pytest

from frameworm.errors import UserError
from frameworm.events import CheckpointSave, OptimizerStepped, TrainBegin
from frameworm.listeners.checkpointing import Checkpointing
from tests.frameworm.listeners.fakes import FakeTrainer


@pytest.mark.parametrize(("every", "saved"), [(1, [0, 1, 2, 3, 4]), (2, [1, 3, 4]), (9, [4])])
def test_every_so_many_epochs_and_the_last(every: int, saved: list[int]) -> None:
    """Every so-many-th epoch is saved, and the last one whatever the count."""
    trainer = FakeTrainer(epochs=5)
    Checkpointing(every_epochs=every).register(trainer.bus)
    seen = []
    for epoch in range(5):
        trainer.end_epoch(epoch)
        if trainer.asked:
            seen.append(epoch)
            assert trainer.asked == [("save", "epoch end")]
        trainer.asked.clear()
    assert seen == saved


def test_undo() -> None:
    """Once cancelled, nothing is asked for."""
    trainer = FakeTrainer()
    for subscription in Checkpointing(every_steps=1, every_minutes=1).register(trainer.bus):
        subscription.cancel()
    trainer.end_epoch(0)
    trainer.bus.publish(OptimizerStepped(trainer, None))
    assert trainer.asked == []


def test_every_so_many_steps() -> None:
    """Each so-many-th step is saved once, however many optimizers step in it."""
    trainer = FakeTrainer()
    Checkpointing(every_steps=3).register(trainer.bus)
    for trainer.step in range(1, 8):
        for optimizer in ("generator", "discriminator"):
            trainer.bus.publish(OptimizerStepped(trainer, None, optimizer=optimizer))
    assert trainer.asked == [("save", "step 3"), ("save", "step 6")]


def test_every_so_many_minutes() -> None:
    """At the first step after so many minutes without a checkpoint, whoever had the last one saved."""
    now = [0.0]
    trainer = FakeTrainer()
    Checkpointing(every_minutes=0.5, clock=lambda: now[0]).register(trainer.bus)

    def asked_at(second: float) -> bool:
        now[0] = second
        trainer.bus.publish(OptimizerStepped(trainer, None))
        asked, trainer.asked = trainer.asked, []
        assert asked in ([], [("save", "0.5 minutes")])
        return bool(asked)

    now[0] = 1000.0
    trainer.bus.publish(TrainBegin(trainer, 3))
    assert [asked_at(second) for second in (1029, 1031, 1032)] == [False, True, False]
    now[0] = 1060.0
    trainer.bus.publish(CheckpointSave(trainer, "step-00000001"))
    assert [asked_at(second) for second in (1062, 1089, 1090)] == [False, False, True]


@pytest.mark.parametrize("option", ["every_epochs", "every_steps", "every_minutes"])
def test_nothing_is_refused(option: str) -> None:
    """An interval of nothing is wrong input."""
    options: dict[str, Any] = {option: 0}
    with pytest.raises(UserError, match=option):
        Checkpointing(**options)
