"""What each listener was sent, what became of it and what it cost, as frozen values."""

from __future__ import annotations

import itertools
from collections import defaultdict, deque
from collections.abc import Iterable
from typing import Literal

import msgspec

State = Literal["active", "paused", "cancelled"]
SAMPLES = 128  # durations kept per listener for percentiles: enough for a 95th, bounded for ever


class ListenerFailure(msgspec.Struct, frozen=True):
    """One failure of one listener, with where it happened (`file:line`) and how often it has failed by now."""

    listener: str
    event: str
    error: BaseException
    where: str
    count: int


class ListenerStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """The account of one listener over all its events: `emitted == delivered + failed + sum(dropped.values())`.

    `seconds` is the time spent in it, estimated from the timed calls where only some were; `p50` and `p95` are
    percentiles of a call's duration in seconds over the latest timed ones, None where none was timed.
    """

    name: str
    lane: Literal["sync"]
    state: State
    events: tuple[str, ...]
    emitted: int
    delivered: int
    failed: int
    dropped: dict[str, int]
    seconds: float
    p50: float | None
    p95: float | None
    last_error: str | None


class Tally:
    """The running account of one listener on one channel. Several threads add to it: each sum is one step, no call."""

    __slots__ = ("dropped", "durations", "failed", "last_error", "offered", "seconds", "timed")

    def __init__(self) -> None:
        self.offered = 0  # events that reached this listener's turn, whatever became of them
        self.failed = 0
        self.dropped: defaultdict[str, int] = defaultdict(int)
        self.last_error: str | None = None
        self.timed = 0
        self.seconds = 0.0
        self.durations: deque[float] = deque(maxlen=SAMPLES)

    def time(self, seconds: float) -> None:
        """Enter the duration of one call, in seconds."""
        self.timed += 1
        self.seconds += seconds
        self.durations.append(seconds)

    def estimated_seconds(self) -> float:
        """Return the time spent in all calls, scaled up from the timed ones."""
        called = self.offered - sum(self.dropped.values())
        return self.seconds * called / self.timed if self.timed else 0.0

    def add(self, other: Tally) -> None:
        """Add the sums of another tally of the same listener."""
        self.offered += other.offered
        self.failed += other.failed
        for reason, count in other.dropped.copy().items():
            self.dropped[reason] += count
        self.last_error = other.last_error or self.last_error
        self.timed += other.timed
        self.seconds += other.seconds


class Account(msgspec.Struct, frozen=True):
    """One listener's tally on one channel, as its channel hands it in."""

    name: str
    states: frozenset[State]  # of those who go by this name; empty when all are gone
    event: str
    tally: Tally


def summarize(accounts: Iterable[Account]) -> tuple[ListenerStatistics, ...]:
    """Add up the accounts of each listener, in the order in which the listeners first appear."""
    rows: dict[str, list[Account]] = {}
    for account in accounts:
        rows.setdefault(account.name, []).append(account)
    return tuple(_row(name, entries) for name, entries in rows.items())


def _row(name: str, entries: list[Account]) -> ListenerStatistics:
    total = Tally()
    for entry in entries:
        total.add(entry.tally)
    states = frozenset[State]().union(*(entry.states for entry in entries))
    dropped = sum(total.dropped.values())
    durations = sorted(itertools.chain.from_iterable(tuple(entry.tally.durations) for entry in entries))
    return ListenerStatistics(
        name=name,
        lane="sync",
        state="active" if "active" in states else "paused" if "paused" in states else "cancelled",
        events=tuple(dict.fromkeys(entry.event for entry in entries)),
        emitted=total.offered,
        delivered=total.offered - total.failed - dropped,
        failed=total.failed,
        dropped=dict(total.dropped),
        seconds=sum(entry.tally.estimated_seconds() for entry in entries),
        p50=_percentile(durations, 0.50),
        p95=_percentile(durations, 0.95),
        last_error=total.last_error,
    )


def _percentile(ordered: list[float], share: float) -> float | None:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None
