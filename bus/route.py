"""The way of events to an asynchronous listener: from one channel, through a queue, to where they are accounted for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import RLock
from types import CodeType
from typing import Any, Protocol

from .statistics import AsyncTally, State


class Addressee(Protocol):
    """What a mailbox needs to know of the subscription that an event is for."""

    @property
    def name(self) -> str:
        """Its name for people."""

    @property
    def fn(self) -> Callable[[Any], Any]:
        """What to call with the event."""

    @property
    def code(self) -> CodeType | None:
        """What somebody wrote of it in Python."""

    @property
    def event_type(self) -> type[Any]:
        """Which events it gets."""

    @property
    def state(self) -> State:
        """Only an active one is called."""

    @property
    def paused_at(self) -> float:
        """What was posted up to then (`perf_counter`) is not for it any more."""


class Route:
    """The way of one channel's events to one listener: where they are counted, and who is told what became of them."""

    __slots__ = ("failures", "listener", "report", "tally")

    def __init__(self, listener: Addressee, tally: AsyncTally, report: Report) -> None:
        self.listener = listener
        self.tally = tally
        self.report = report
        """Told on the worker's thread of an event that failed; without an error, that the listener has recovered."""
        self.failures = 0

    def drop(self, reason: str) -> None:
        """Account for an event that was not delivered, and why."""
        self.tally.dropped[reason] += 1


Report = Callable[[Route, str, BaseException | None], None]
Entry = tuple[float, Route, Any]
"""When an event was posted, which also orders them; its way; the event, detached."""


class Latest:
    """A queue that keeps the newest event of each route only. `append` takes the mailbox's lock."""

    def __init__(self, lock: RLock) -> None:
        self._lock = lock
        self._entries: dict[Route, Entry] = {}

    def append(self, entry: Entry) -> None:
        """Add an entry at the end, in the place of an older one of its kind."""
        route = entry[1]
        with self._lock:
            if self._entries.pop(route, None) is not None:
                route.tally.coalesced += 1
            self._entries[route] = entry

    def popleft(self) -> Entry:
        """Take the oldest entry."""
        return self._entries.pop(next(iter(self._entries)))

    def remove(self, entry: Entry) -> None:
        """Take a certain entry; raises ValueError where it is not there any more."""
        if self._entries.get(entry[1]) is not entry:
            raise ValueError
        del self._entries[entry[1]]

    def __getitem__(self, _first: int) -> Entry:
        return next(iter(self))

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def __len__(self) -> int:
        return len(self._entries)
