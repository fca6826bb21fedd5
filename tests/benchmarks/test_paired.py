"""Paired measurement finds the ratio of two durations, whatever the machine does meanwhile."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable

import pytest

from benchmarks import paired
from benchmarks.paired import Pair, compare, measure, summarize


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that only the blocks move: call it with the seconds that pass."""
    now = [0.0]
    monkeypatch.setattr(paired, "perf_counter", lambda: now[0])

    def passes(seconds: float) -> None:
        now[0] += seconds

    return passes


def test_finds_the_ratio(clock: Callable[[float], None]) -> None:
    """Three seconds against two are 1.5, without a spread."""
    ratio = compare(lambda: clock(3), lambda: clock(2))
    assert (ratio.median, ratio.low, ratio.high) == (1.5, 1.5, 1.5)
    assert (ratio.seconds_a, ratio.seconds_b) == (3, 2)


def test_a_machine_that_slows_down_changes_nothing(clock: Callable[[float], None]) -> None:
    """Both halves of a pair see the same machine, even when it gets a hundred times slower in the course."""
    slowness = itertools.count(1)
    ratio = compare(lambda: clock(3.0 * (1 + next(slowness) // 4)), lambda: clock(2.0 * (1 + next(slowness) // 4)))
    assert ratio.median == pytest.approx(1.5)


def test_disturbed_blocks_change_nothing(clock: Callable[[float], None]) -> None:
    """A third of the blocks taking ten times as long leaves the median where it is."""
    turn = itertools.count()
    ratio = compare(lambda: clock(30 if next(turn) % 3 == 0 else 3), lambda: clock(2))
    assert ratio.median == 1.5


def test_blocks_alternate_in_random_order() -> None:
    """In each pair both run once, now A first, now B, after one of each to warm up."""
    ran: list[str] = []
    measure(lambda: ran.append("a"), lambda: ran.append("b"), pairs=50, seed=1)
    warm_up, pairs = ran[:2], [tuple(ran[start : start + 2]) for start in range(2, len(ran), 2)]
    assert warm_up == ["a", "b"]
    assert len(pairs) == 50
    assert set(pairs) == {("a", "b"), ("b", "a")}


def test_the_garbage_collector_stays_out() -> None:
    """It is off while blocks are measured and on again afterwards, also when a block fails."""
    states: list[bool] = []
    compare(lambda: states.append(gc.isenabled()), lambda: None, pairs=3)
    assert states[1:] == [False] * 3
    assert gc.isenabled()
    turns = itertools.count()
    with pytest.raises(ZeroDivisionError):
        compare(lambda: 1 / (2 - next(turns)), lambda: None)
    assert gc.isenabled()


def test_the_interval_holds_the_median_and_no_outliers() -> None:
    """Of 100 ratios the 95 % interval reaches from about the 40th to the 60th."""
    ratio = summarize([Pair(value, 1.0) for value in range(1, 101)])
    assert ratio.median == 50.5
    assert (ratio.low, ratio.high) == (41, 61)


def test_noise_is_the_farther_end_of_the_interval() -> None:
    """Of the same code against itself, what matters is how far from 1 the result may lie."""
    assert summarize([Pair(0.75, 1.0)] * 9).noise == 0.25
    assert summarize([Pair(1.5, 1.0)] * 9).noise == 0.5
