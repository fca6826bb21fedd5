"""How fast an epoch's training goes, validation not counted."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from time import perf_counter
from typing import Any

from bus import FIRST, EventBus, Subscription
from frameworm.events import BatchBegin, BatchEnd, EpochBegin, EpochEnd, ValidationBegin

NAME = "throughput"


class Throughput:
    """Counts an epoch's batches; samples are counted as if all batches were as large as the epoch's first.

    So it need not look at every batch: a look takes microseconds. The rates stand still once training has ended.
    """

    def __init__(self) -> None:
        self._first = self._size = 0
        self._latest: deque[BatchEnd] = deque(maxlen=1)
        self._start = self._end = 0.0
        self._look: Subscription[BatchBegin] | None = None

    def register(self, bus: EventBus) -> tuple[Subscription[Any], ...]:
        """Listen on `bus`; cancelling the returned subscriptions undoes it."""
        self._look = bus.subscribe(BatchBegin, self._first_batch, priority=FIRST, name=NAME)
        return (
            self._look,
            bus.subscribe(EpochBegin, self._begin, priority=FIRST, name=NAME),
            bus.subscribe(BatchEnd, self._latest.append, priority=FIRST, name=NAME),  # nothing in Python costs less
            bus.subscribe(ValidationBegin, self._trained, priority=FIRST, name=NAME),
            bus.subscribe(EpochEnd, self._trained, priority=FIRST, name=NAME),
        )

    @property
    def batches(self) -> int:
        """Batches that were trained in this epoch."""
        return self._latest[0].batch_idx - self._first + 1 if self._latest else 0

    @property
    def samples(self) -> int:
        """Samples that were trained in this epoch, about; 0 where batches do not tell their size."""
        return self.batches * self._size

    @property
    def elapsed(self) -> float:
        """Seconds since the epoch began, validation counted."""
        return perf_counter() - self._start

    @property
    def seconds(self) -> float:
        """Seconds that the epoch has trained, or did train."""
        return (self._end or perf_counter()) - self._start

    @property
    def batches_per_second(self) -> float:
        """Batches a second, 0.0 before the first."""
        return self.batches / self.seconds if self.batches else 0.0

    @property
    def samples_per_second(self) -> float:
        """Samples a second, 0.0 before the first and where batches do not tell their size."""
        return self.samples / self.seconds if self.samples else 0.0

    def _begin(self, _event: EpochBegin) -> None:
        self._latest.clear()
        self._start, self._end = perf_counter(), 0.0
        if self._look is not None:
            self._look.resume()

    def _first_batch(self, event: BatchBegin) -> None:
        self._first, self._size = event.batch_idx, _size(event.batch)
        if self._look is not None:
            self._look.pause()

    def _trained(self, _event: ValidationBegin | EpochEnd) -> None:
        self._end = self._end or perf_counter()


def _size(batch: Any) -> int:
    """The length of the first thing in `batch` that has a shape, 0 where nothing has."""
    while not hasattr(batch, "shape"):
        if isinstance(batch, Mapping) and batch:
            batch = next(iter(batch.values()))
        elif isinstance(batch, list | tuple) and batch:
            batch = batch[0]
        else:
            return 0
    return int(batch.shape[0]) if len(batch.shape) else 0
