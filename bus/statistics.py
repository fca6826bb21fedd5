"""What each listener was sent, what became of it and what it cost, as frozen values."""

from __future__ import annotations

import itertools
from collections import defaultdict, deque
from collections.abc import Iterable
from time import perf_counter
from typing import ClassVar, Literal, NamedTuple, Protocol, get_args

import msgspec

Lane = Literal["sync", "async"]
State = Literal["hung", "broken", "active", "paused", "cancelled"]
SAMPLES = 128  # durations kept per listener for percentiles: enough for a 95th, bounded for ever


class ListenerFailure(msgspec.Struct, frozen=True):
    """One failure of one listener, with where it happened (`file:line`) and how often it has failed by now."""

    listener: str
    event: str
    error: BaseException
    where: str
    count: int


class ListenerStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """The account of one listener over all its events, which balances at any quiet moment:

    `emitted == delivered + failed + sum(dropped.values()) + coalesced + pending + in_flight`

    In the sync lane `delivered` is the rest, and nothing is coalesced, pending or in flight; in the async lane each of
    them is counted where it happens. `oldest` is how many seconds the oldest pending event has waited, None where none
    is pending. `retried` counts further attempts at one event. A listener is `hung` while a call of it takes longer
    than its timeout, and `broken` while it is left alone after failing many times in a row.

    `seconds` is the time spent in it, estimated from the timed calls where only some were; `p50` and `p95` are
    percentiles of a call's duration in seconds over the latest timed ones, None where none was timed.
    """  # noqa: D400  the sentence and the equation are one

    name: str
    lane: Lane
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
    retried: int = 0
    coalesced: int = 0
    pending: int = 0
    in_flight: int = 0
    oldest: float | None = None


class Tally:
    """The running account of one listener on one channel. Several threads add to it: each sum is one step, no call."""

    __slots__ = ("dropped", "durations", "failed", "last_error", "offered", "seconds", "timed")

    lane: ClassVar[Lane] = "sync"

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

    def delivered_so_far(self) -> int:
        """Return how many events were delivered: in step it is what is left."""
        return self.offered - self.failed - sum(self.dropped.values())

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


class Backlog(NamedTuple):
    """What of a listener's events on one channel a mailbox still holds, and when the oldest came (`perf_counter`)."""

    pending: int
    in_flight: int
    since: float | None


class Mail(Protocol):
    """What the account of an asynchronous listener needs to know of its mailbox."""

    @property
    def spent(self) -> bool:
        """Whether it is empty for ever."""

    def condition(self) -> State:
        """Return how its listener is doing: active, broken or hung."""

    def backlog(self, tally: AsyncTally) -> Backlog:
        """Return what it holds of the events that are accounted for in a tally."""


class AsyncTally(Tally):
    """The same for an asynchronous listener, which counts what it delivers; guarded by its mailbox's lock."""

    __slots__ = ("coalesced", "delivered", "mailboxes", "retried")

    lane: ClassVar[Lane] = "async"

    def __init__(self) -> None:
        super().__init__()
        self.delivered = 0
        self.coalesced = 0
        self.retried = 0
        self.mailboxes: list[Mail] = []
        """Where its events may be: several, where several listeners go by one name."""

    def await_from(self, mailbox: Mail) -> None:
        """Look into a mailbox for what is pending, and no more into those that will never hold anything."""
        others = [other for other in self.mailboxes if other is not mailbox and not other.spent]
        self.mailboxes = [*others, mailbox]

    def delivered_so_far(self) -> int:
        """Return how many events were delivered: here they are counted one by one."""
        return self.delivered

    def estimated_seconds(self) -> float:
        """Return the time spent in all calls, each of which was timed."""
        return self.seconds

    def add(self, other: Tally) -> None:
        """Add the sums of another tally of the same listener."""
        super().add(other)
        if isinstance(other, AsyncTally):
            self.delivered += other.delivered
            self.coalesced += other.coalesced
            self.retried += other.retried


class Account(msgspec.Struct, frozen=True):
    """One listener's tally on one channel, as its channel hands it in."""

    name: str
    states: frozenset[State]  # of those who go by this name; empty when all are gone
    event: str
    tally: Tally


def summarize(accounts: Iterable[Account]) -> tuple[ListenerStatistics, ...]:
    """Add up the accounts of each listener, in the order in which the listeners first appear."""
    rows: dict[tuple[str, Lane], list[Account]] = {}
    for account in accounts:
        rows.setdefault((account.name, account.tally.lane), []).append(account)
    return tuple(_row(name, lane, entries) for (name, lane), entries in rows.items())


def _row(name: str, lane: Lane, entries: list[Account]) -> ListenerStatistics:
    total = AsyncTally()  # of a listener in step, what it adds stays 0
    backlogs: list[Backlog] = []
    delivered = 0
    for tally in [entry.tally for entry in entries]:
        if isinstance(tally, AsyncTally):  # looked at first: looking drops what is not for anybody any more
            backlogs += [mailbox.backlog(tally) for mailbox in list(tally.mailboxes)]
        total.add(tally)
        delivered += tally.delivered_so_far()
    durations = sorted(itertools.chain.from_iterable(tuple(entry.tally.durations) for entry in entries))
    waiting = [backlog.since for backlog in backlogs if backlog.since is not None]
    return ListenerStatistics(
        name=name,
        lane=lane,
        state=_state(entries),
        events=tuple(dict.fromkeys(entry.event for entry in entries)),
        emitted=total.offered,
        delivered=delivered,
        failed=total.failed,
        dropped=dict(total.dropped),
        seconds=sum(entry.tally.estimated_seconds() for entry in entries),
        p50=_percentile(durations, 0.50),
        p95=_percentile(durations, 0.95),
        last_error=total.last_error,
        retried=total.retried,
        coalesced=total.coalesced,
        pending=sum(backlog.pending for backlog in backlogs),
        in_flight=sum(backlog.in_flight for backlog in backlogs),
        oldest=perf_counter() - min(waiting) if waiting else None,
    )


def _state(entries: list[Account]) -> State:
    """Return what is most worth knowing of a listener: that it is in trouble, else that some of it is alive."""
    states = frozenset[State]().union(*(entry.states for entry in entries))
    if "active" in states:
        tallies = [entry.tally for entry in entries]
        states |= {box.condition() for tally in tallies if isinstance(tally, AsyncTally) for box in tally.mailboxes}
    return next((state for state in get_args(State) if state in states), "cancelled")


def _percentile(ordered: list[float], share: float) -> float | None:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None
