"""Drives whole training loops a block of steps at a time, through the data that they ask for.

A loop that belongs to a framework cannot be called for 40 steps at a time. It can be fed: each loop runs on a thread of
its own, and its data stand still between two blocks. What is measured is the loop itself, in the middle of a very long
epoch, with nothing replaced and nothing private touched.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

BLOCK = 40  # steps
BATCH_SIZE = 32

Batch = tuple[Tensor, Tensor]


class Classifier(nn.Module):
    """The 64-64-10 perceptron that every loop trains."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, 10) of inputs (n, 64)."""
        logits: Tensor = self.layers(x)
        return logits

    def compute_loss(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Return the cross entropy of the logits with classes `y` (n,)."""
        return {"loss": functional.cross_entropy(self(x), y)}


def adamw(model: nn.Module, *, fused: bool = False) -> torch.optim.Optimizer:
    """Return the optimizer that every loop uses: torch's AdamW as it comes, or its fused form."""
    return torch.optim.AdamW(model.parameters(), lr=1e-3, fused=fused or None)


def some_batches() -> list[Batch]:
    """Return a block's batches; all loops get the same ones."""
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.rand(BATCH_SIZE, 64, generator=generator), torch.randint(10, (BATCH_SIZE,), generator=generator))
        for _ in range(BLOCK)
    ]


class Stepping:
    """A training loop that runs a block of steps when it is called; `fit(batches)` is the loop.

    Use it as a context manager: leaving it ends the data, and with them the loop. What the loop raises is raised here.
    """

    def __init__(self, fit: Callable[[Iterator[Batch]], object]) -> None:
        self._batches = some_batches()
        self._go = threading.Semaphore(0)
        self._done = threading.Semaphore(0)
        self._ended = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(fit,), daemon=True)

    def __call__(self) -> None:
        """Run one block."""
        self._go.release()
        self._done.acquire()
        if self._error is not None:
            raise self._error

    def _run(self, fit: Callable[[Iterator[Batch]], object]) -> None:
        try:
            fit(self._feed())
        except BaseException as error:
            self._error = error
        finally:
            self._done.release()

    def _feed(self) -> Iterator[Batch]:
        self._go.acquire()
        while not self._ended:
            yield from self._batches
            self._done.release()
            self._go.acquire()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._ended = True
        self._go.release()
        self._thread.join()


@contextmanager
def one_core() -> Iterator[None]:
    """Use one core and one torch thread: two loops that are compared must not sit on different, differently busy cores.

    What is started inside inherits it. Where the system cannot pin a thread, the loops share what there is.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cores = _cores()
    if cores:
        os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        if cores:
            os.sched_setaffinity(0, cores)
        torch.set_num_threads(threads)


def other_cores() -> set[int]:
    """Return the cores that `one_core` leaves to others: all, where there is one only; none, where none can be told."""
    cores = _cores()
    return cores - {max(cores)} if len(cores) > 1 else cores


def _cores() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
