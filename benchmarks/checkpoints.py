"""What a checkpoint in the background costs the loop: the stall for the copy, and the steps while it is being written.

A model of 100 MB is trained with plain SGD on one thread, so that on two cores one is left for the process that writes.
Where training takes every core, the two share them: then the steps are slowed down by what hashing and writing take.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.paired import Pair, Ratio, summarize
from bus import EventBus
from frameworm.config import TrainerConfig
from frameworm.events import CheckpointSaved, OptimizerStepped
from frameworm.training.store import CheckpointStore
from frameworm.training.trainer import Trainer

SAVES = 6
_EVERY = 48  # steps from one checkpoint to the next: it has to be written within two thirds of them
_WIDTH, _LAYERS = 2048, 6


class Wide(nn.Module):
    """Six square layers, 25 million weights in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*[nn.Linear(_WIDTH, _WIDTH) for _ in range(_LAYERS)])

    def compute_loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """Return the mean square of what comes out of inputs (n, 2048)."""
        assert y is None
        return {"loss": self.layers(x).square().mean()}


class Saves:
    """Has a checkpoint saved every so many steps, and takes the times around it."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._weights = list(trainer.model.state_dict().values())
        self._began = time.perf_counter()  # the step in hand
        self._is_pure = False  # whether there is nothing but training in it
        self._is_written = True
        self._saves = False  # whether one was asked for in this round
        self._stalled = 0.0
        self._steps: dict[bool, list[float]] = {True: [], False: []}  # by whether one is being written
        self.stalls: list[Pair] = []
        self.steps: list[Pair] = []
        trainer.bus.subscribe(OptimizerStepped, self._stepped, on_error="raise")
        trainer.bus.subscribe(CheckpointSaved, self._saved, on_error="raise")

    def _stepped(self, event: OptimizerStepped) -> None:
        if self._is_pure:
            self._steps[not self._is_written].append(time.perf_counter() - self._began)
        self._is_pure = True
        place = event.source.step % _EVERY
        if place == 0:
            self._saves = self._is_written  # or a busy machine still writes the last one: a round is left out
            if self._saves:
                self._is_pure = self._is_written = False
                event.source.save_now("the rhythm")
        elif place == _EVERY * 2 // 3 and self._saves:
            self._is_pure = False
            self._compare()
        self._began = time.perf_counter()

    def _compare(self) -> None:
        """Copy the weights, and pair the time with that of the stall before."""
        begin = time.perf_counter()
        copies = [weight.clone() for weight in self._weights]
        taken = time.perf_counter() - begin
        del copies
        stalled = self._trainer.times.seconds["checkpoint"]
        self.stalls.append(Pair(stalled - self._stalled, taken))
        self._stalled = stalled
        busy, idle = self._steps[True], self._steps[False]
        if busy and idle:
            self.steps.append(Pair(statistics.fmean(busy), statistics.fmean(idle)))
        busy.clear()
        idle.clear()

    def _saved(self, _event: CheckpointSaved) -> None:
        self._is_pure, self._is_written = False, True


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def measured(threads: int = 1, saves: int = SAVES) -> Saves:
    """Train for so many checkpoints, the first of which starts the process that writes and is left out."""
    batches = [(torch.randn(8, _WIDTH),)] * (_EVERY * (saves + 2))
    with tempfile.TemporaryDirectory() as folder, _threads(threads):
        trainer = Trainer(
            Wide(),
            batches,
            optimizer="sgd",
            options=TrainerConfig(epochs=1, device="cpu"),
            bus=EventBus(),
            checkpoints=CheckpointStore(Path(folder), monitor=None, background=True),
        )
        found = Saves(trainer)
        trainer.fit()
    del found.stalls[:2], found.steps[:2]
    return found


def stall() -> Ratio:
    """Measure how long a checkpoint stalls the loop, against copying the weights in memory."""
    return summarize(measured().stalls)


def step_meanwhile(threads: int = 1) -> Ratio:
    """Measure a step while a checkpoint is being written, against one while none is."""
    return summarize(measured(threads).steps)
