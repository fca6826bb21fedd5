"""Where a run's time goes: counters that are always on, in a handful of numbers however long it trains."""

from __future__ import annotations

import time
from collections.abc import Callable

DATA, TRANSFER, FORWARD, BACKWARD, OPTIMIZER, VALIDATION, CHECKPOINT = range(7)
PHASES = ("data", "transfer", "forward", "backward", "optimizer", "validation", "checkpoint")


class Times:
    """The seconds spent in each phase so far, as the thread that trains sees them.

    What a GPU computes goes on behind its back: with a `clock` that waits for the device first, each phase has its own.
    Data include the transfer; what listeners in step take is in the phase that they listen to.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.spent = [0.0] * len(PHASES)

    def read(self) -> dict[str, float]:
        """Return the seconds of each phase."""
        return dict(zip(PHASES, self.spent, strict=True))
