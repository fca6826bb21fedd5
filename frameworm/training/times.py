"""Where a run's time goes: counters that are always on, in a handful of numbers however long it trains."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

PHASES = ("data", "transfer", "forward", "backward", "optimizer", "validation", "checkpoint")

# One batch in so many is timed: two looks at the clock for each phase of each batch would cost a hundredth of a small
# step. It is a prime number, since waiting for workers comes round with their number.
_STRIDE = 13


class Times:
    """The time spent in each phase, as the thread that trains sees it: of one batch in `stride`, its phases.

    What a GPU computes goes on behind that thread's back: with a `clock` that waits for the device first, each phase
    has its own. Data include the transfer; what listeners in step take is in the phase that they listen to.
    """

    def __init__(self, *, stride: int = _STRIDE, clock: Callable[[], float] = time.perf_counter) -> None:
        self.stride = stride
        self.clock = clock
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.counts = dict.fromkeys(PHASES, 0)
        """How often each phase was timed."""

    def reset(self) -> None:
        """Begin anew."""
        for phase in PHASES:
            self.seconds[phase], self.counts[phase] = 0.0, 0

    def timed(self, phase: str, function: Callable[P, R]) -> Callable[P, R]:
        """Return `function`, whose calls are timed."""
        seconds, counts, clock = self.seconds, self.counts, self.clock

        def timing(*args: P.args, **kwargs: P.kwargs) -> R:
            since = clock()
            try:
                return function(*args, **kwargs)
            finally:
                seconds[phase] += clock() - since
                counts[phase] += 1

        return timing

    def waits(self, batches: Iterable[R]) -> Iterator[R]:
        """Return the batches; that the first of each `stride` is waited for is timed."""
        batches = iter(batches)
        fetch = self.timed("data", lambda: next(batches))
        while True:
            try:
                yield fetch()
            except StopIteration:
                return
            yield from islice(batches, self.stride - 1)
