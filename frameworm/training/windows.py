"""Accumulation windows: which batches of an epoch share an optimizer's step, and which open and close it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from frameworm.errors import DataError

Place = tuple[int, int, bool, bool, bool]
"""Of the how many-th optimizer; how many batches share its step; whether this is the first and the last; whether the
step counts.

Of several optimizers that take a step in one batch the first is counted: together they are one.
"""

MicroBatch = tuple[int, Any, tuple[Place, ...], bool]
"""A batch's place in the epoch; the batch; its place in each optimizer's window; whether it closes all of them."""


def micro_batches(
    batches: Iterable[Any], accumulate: Sequence[int], *, start: int, total: int | None
) -> Iterator[MicroBatch]:
    """Cut an epoch's batches from the `start`-th on into windows, `accumulate[i]` batches each for optimizer `i`.

    The last windows may be smaller. Where the `total` is not known, batches are fetched until all windows would close,
    before the first of them is given out: a window's size divides the loss. Raises `DataError` when a `total` that the
    windows go by turns out to be wrong.
    """
    period = math.lcm(*accumulate)
    if period == 1:
        whole, _ = _places(0, accumulate, 1)
        for batch_idx, batch in enumerate(batches, start):
            yield batch_idx, batch, whole, True
        return
    if total is None:
        iterator = iter(batches)
        while fetched := list(islice(iterator, period)):
            yield from micro_batches(fetched, accumulate, start=start, total=start + len(fetched))
            start += len(fetched)
        return
    full = [_places(index, accumulate, period) for index in range(period)]
    end_of_full = start + (total - start) // period * period
    closed = True
    for batch_idx, batch in enumerate(batches, start):
        if batch_idx >= total:
            raise _miscounted(total, "more")
        if batch_idx < end_of_full:
            places, closed = full[(batch_idx - start) % period]
        else:
            places, closed = _places(batch_idx - start, accumulate, total - start)
        yield batch_idx, batch, places, closed
    if not closed:
        raise _miscounted(total, "fewer")


def _places(index: int, accumulate: Sequence[int], length: int) -> tuple[tuple[Place, ...], bool]:
    """The places of the `index`-th of `length` batches, and whether all the windows close with it."""
    places: list[Place] = []
    for which, size in enumerate(accumulate):
        place = index % size
        window = min(size, length - index + place)
        closes = place == window - 1
        places.append((which, window, place == 0, closes, closes and not any(counts for *_, counts in places)))
    return tuple(places), all(closes for *_, closes, _ in places)


def steps_in(batches: int, accumulate: Sequence[int]) -> int:
    """How many of so many batches have a step of an optimizer in them."""
    if len(set(accumulate)) == 1:
        return -(-batches // accumulate[0])
    places = (_places(index, accumulate, batches)[0] for index in range(batches))
    return sum(counts for place in places for *_, counts in place)


def _miscounted(total: int, how: str) -> DataError:
    return DataError(
        "the training data have another length than they say",
        expected=f"{total} batches in an epoch, since len() says so: a smaller last window is divided by its size",
        got=how,
        hint="the right __len__, or none: then windows are fetched as a whole",
    )
