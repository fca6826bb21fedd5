"""A job that says on its standard output in which phase of its run it is, and stays there until something happens."""

from __future__ import annotations

import os
import time
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from bus import EventBus
from frameworm.data import Splits
from frameworm.events import BatchBegin, CheckpointSave, TrainEnd, ValidationBatchEnd

PHASES = ("training", "validation", "sanity", "checkpointing", "loading", "draining")

CONFIG = """
run: {name: phases, dir: runs}
model: {name: mlp, inputs: 3, outputs: 2}
data: {name: "tests.faults.phases:samples", batch_size: 4, num_workers: 2, phase: PHASE}
trainer: {epochs: 3, device: cpu, accumulate: 2, sanity_batches: 1}
callbacks:
  - tests.faults.phases:Staying: {phase: PHASE}
"""
"""Write PHASE for one of these."""


def stay(phase: str, seconds: float = 1.0) -> None:
    """Say where the run is, the first time, and give a signal the time to arrive."""
    if phase not in _said:
        _said.add(phase)
        os.write(1, f"in {phase}\n".encode())
        time.sleep(seconds)


_said: set[str] = set()


class Samples(Dataset[tuple[Tensor, Tensor]]):
    """A few random samples, of which one takes its time: in its worker, or before there is any training."""

    def __init__(self, phase: str | None) -> None:
        self.phase = phase

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if self.phase is not None and index == 20 % len(self):
            stay(self.phase)
        return torch.randn(3), torch.tensor(index % 2)


def samples(phase: str) -> Splits:
    """Return data of which the part that the phase is about takes its time."""
    return Splits(Samples("loading" if phase == "loading" else None), Few("sanity" if phase == "sanity" else None))


class Few(Samples):
    """Samples to validate on: the first takes its time."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if self.phase is not None and index == 0:
            stay(self.phase)
        return torch.zeros(3), torch.tensor(index % 2)


class Staying:
    """Stays in the phases that have events of their own."""

    def __init__(self, phase: str) -> None:
        self.phase = phase

    def register(self, bus: EventBus) -> Any:
        """Listen for the beginning of the phase."""
        if self.phase == "draining":
            return bus.subscribe(
                TrainEnd, lambda _event: stay("draining", 3), dispatch="async", name="slow", timeout=30
            )
        kinds: dict[str, Any] = {
            "training": BatchBegin,
            "validation": ValidationBatchEnd,
            "checkpointing": CheckpointSave,
        }
        kind = kinds.get(self.phase)
        return kind and bus.subscribe(kind, self._at)

    def _at(self, event: Any) -> None:
        if self.phase != "training" or event.batch_idx == 3:
            stay(self.phase)
