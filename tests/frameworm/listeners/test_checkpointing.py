"""Checkpoints are asked for when epochs end."""

from __future__ import annotations

import pytest

from frameworm.errors import UserError
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
    Checkpointing().register(trainer.bus).cancel()
    trainer.end_epoch(0)
    assert trainer.asked == []


def test_no_epochs_is_refused() -> None:
    """An interval of no epochs is wrong input."""
    with pytest.raises(UserError, match="every_epochs"):
        Checkpointing(every_epochs=0)
