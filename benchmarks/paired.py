"""Paired measurement: how two pieces of code compare, measured so that a noisy machine disturbs both alike.

Blocks of A and of B alternate, in random order within each pair; every pair gives one ratio, and the median of the
ratios is the result. What slows the machine for seconds slows both halves of a pair; what slows one block alone makes
one odd ratio, which the median does not see. A piece of code against itself then gives 1.00 with a spread of about a
hundredth, where two separate measurements differ by a tenth.
"""

from __future__ import annotations

import gc
import math
import random
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import NamedTuple

import msgspec

Block = Callable[[], object]
"""Runs the code under measurement a fixed number of times."""

PAIRS = 150


class Pair(NamedTuple):
    """How long a block of A and a block of B took, one right after the other, in seconds."""

    a: float
    b: float


class Estimate(msgspec.Struct, frozen=True):
    """A measured quantity: the median over all that was measured, and its 95 % confidence interval."""

    median: float
    low: float
    high: float


class Ratio(Estimate, frozen=True):
    """The time of A over the time of B, over all pairs."""

    seconds_a: float
    """Median duration of a block of A, in seconds."""
    seconds_b: float
    """The same for B."""

    @property
    def noise(self) -> float:
        """How far the interval reaches from 1, as a share: the noise, where A and B are the same code."""
        return max(abs(self.low - 1), abs(self.high - 1))


def compare(a: Block, b: Block, *, pairs: int = PAIRS, seed: int = 0) -> Ratio:
    """Measure blocks `a` and `b`, after one run of each to warm up."""
    return summarize(measure(a, b, pairs=pairs, seed=seed))


def measure(a: Block, b: Block, *, pairs: int, seed: int = 0) -> list[Pair]:
    """Return the durations of `a` and `b` in each pair, in seconds, after one run of each to warm up."""
    a()
    b()
    order = random.Random(seed)
    measured = []
    with _quiet():
        for _ in range(pairs):
            if order.random() < 0.5:
                seconds_a, seconds_b = _time(a), _time(b)
            else:
                seconds_b, seconds_a = _time(b), _time(a)
            measured.append(Pair(seconds_a, seconds_b))
    return measured


def summarize(pairs: Sequence[Pair]) -> Ratio:
    """Return the ratio that the pairs agree on."""
    ratios = sorted(a / b for a, b in pairs)
    low, high = _median_interval(ratios)
    return Ratio(
        statistics.median(ratios),
        low,
        high,
        statistics.median(pair.a for pair in pairs),
        statistics.median(pair.b for pair in pairs),
    )


def estimate(values: Iterable[float]) -> Estimate:
    """Return what repeated measurements of a quantity agree on."""
    ordered = sorted(values)
    return Estimate(statistics.median(ordered), *_median_interval(ordered))


def _time(block: Block) -> float:
    # Garbage of one block must not be collected in the next: that would be the other's time.
    gc.collect(0)
    start = perf_counter()
    block()
    return perf_counter() - start


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the garbage collector out, as `timeit` does."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _median_interval(ordered: list[float]) -> tuple[float, float]:
    """Return the 95 % confidence interval of the median of sorted values.

    By order statistics, which assume nothing of the distribution: the ranks n/2 ± 1.96·√n/2 (normal approximation of
    the binomial; Conover, Practical Nonparametric Statistics, 1999, section 3.2).
    """
    n = len(ordered)
    reach = 1.96 * math.sqrt(n) / 2
    return ordered[max(0, math.floor(n / 2 - reach))], ordered[min(n - 1, math.ceil(n / 2 + reach))]
