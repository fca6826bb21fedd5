"""Rates count what was trained, and nothing else."""

from __future__ import annotations

from time import sleep
from typing import Any

import pytest
import torch

from frameworm.events import BatchBegin, BatchEnd, EpochBegin, EpochEnd, ValidationBegin
from frameworm.listeners.throughput import Throughput
from tests.frameworm.listeners.fakes import FakeTrainer

ROWS = torch.zeros(8, 3)


@pytest.mark.parametrize(
    ("batch", "samples"),
    [
        (ROWS, 8),
        ((ROWS, torch.zeros(8)), 8),
        ([ROWS], 8),
        ({"image": ROWS, "label": None}, 8),
        ({"nested": [{"x": ROWS}]}, 8),
        (torch.zeros(()), 0),
        (None, 0),
        ([], 0),
        ("text", 0),
    ],
)
def test_samples_of_a_batch(batch: Any, samples: int) -> None:
    """A batch has as many samples as its first array has rows; one that does not tell counts as a batch only."""
    trainer, throughput = FakeTrainer(), Throughput()
    throughput.register(trainer.bus)
    trainer.bus.publish(EpochBegin(trainer, 0))
    trainer.bus.publish(BatchBegin(trainer, 0, batch))
    trainer.bus.publish(BatchEnd(trainer, 0, 0.5))
    assert (throughput.batches, throughput.samples) == (1, samples)


def test_rates_stand_still_after_training() -> None:
    """Validation does not count: the rates are those of the training before it; the next epoch starts anew."""
    trainer, throughput = FakeTrainer(), Throughput()
    throughput.register(trainer.bus)
    trainer.bus.publish(EpochBegin(trainer, 0))
    assert throughput.samples_per_second == throughput.batches_per_second == 0.0
    for index in range(2):
        trainer.bus.publish(BatchBegin(trainer, index, ROWS))
        sleep(0.01)
        trainer.bus.publish(BatchEnd(trainer, index, 0.5))
    trainer.bus.publish(ValidationBegin(trainer))
    rate = throughput.samples_per_second
    assert 0 < rate <= 16 / 0.02
    assert throughput.batches_per_second == pytest.approx(rate / 8)
    sleep(0.01)
    trainer.bus.publish(EpochEnd(trainer, 0, {}))
    assert throughput.samples_per_second == rate
    assert throughput.elapsed >= throughput.seconds + 0.01
    trainer.bus.publish(EpochBegin(trainer, 1))
    assert throughput.batches == 0


def test_one_look_an_epoch() -> None:
    """The size is that of the epoch's first batch; where an epoch is taken up in the middle, the rest is counted."""
    trainer, throughput = FakeTrainer(), Throughput()
    throughput.register(trainer.bus)
    for rows in (8, 4):
        trainer.bus.publish(EpochBegin(trainer, 0))
        for index in (5, 6, 7):
            trainer.bus.publish(BatchBegin(trainer, index, torch.zeros(rows if index == 5 else 1, 2)))
            trainer.bus.publish(BatchEnd(trainer, index, 0.5))
            assert not trainer.bus.channel(BatchBegin).active
        assert (throughput.batches, throughput.samples) == (3, 3 * rows)


def test_undo() -> None:
    """Once cancelled, nothing is counted."""
    trainer, throughput = FakeTrainer(), Throughput()
    for subscription in throughput.register(trainer.bus):
        subscription.cancel()
    trainer.train([{}])
    assert throughput.batches == 0
