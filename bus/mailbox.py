"""The queue of one asynchronous listener: bounded, exactly counted, and quick to put an event into.

Whoever publishes must not wait for whoever listens, so all that happens on the publishing thread is a frozen copy, an
append, which is one step and needs no lock, and a wake-up if the worker is idle. Everything else is done under a lock
that is never held for long; it is re-entrant because signal handlers and finalizers may publish, on a thread that
holds it.

A finalizer may also change subscriptions, under the lock of their tables; so nobody takes a mailbox's lock while
holding that one. What must reach a mailbox from there is a flag and a ring, which need no lock.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cache
from math import inf
from threading import RLock
from time import perf_counter
from types import CodeType
from typing import Any, Protocol

from .detach import detaching
from .event import Event, Recorded
from .options import KEPT_SHARE, AsyncOptions
from .route import Entry, Latest, Route
from .statistics import AsyncTally, Backlog, State

log = logging.getLogger("bus")


_POST = """
def post(event):
    append((now(), route, {copy}))
    if len(queue) > box.{room}:
        box.overflow(queue)
    if box.idle:
        box.wake()
"""


@cache
def _code(event_type: type[Event]) -> CodeType:
    room = "_reserve" if event_type.recorded is Recorded.ALWAYS else "_room"
    return compile(_POST.format(copy=detaching(event_type)[0], room=room), f"<posting {event_type.name}>", "exec")


class Bell(Protocol):
    """Wakes whoever takes from a mailbox. Ringing needs no lock, and ringing twice is as ringing once."""

    def ring(self) -> None:
        """Wake it, or let its next wait end at once."""


class Mailbox:
    """Holds the events of one listener, over all its subscriptions, until its one worker takes them.

    Two queues: events that may be dropped when there are too many, as `overflow` says, and those that must not be,
    for which there is much more room. The worker gets both in the order in which they came.
    """

    __slots__ = (
        "__weakref__",
        "_bell",
        "_droppable",
        "_in_flight",
        "_kept",
        "_lingering",
        "_lock",
        "_oldest_is_dropped",
        "_overflowed",
        "_pid",
        "_reserve",
        "_room",
        "broken",
        "closed",
        "gap",
        "hung",
        "hurried",
        "idle",
        "lasting",
        "options",
        "resting",
        "retired",
    )

    def __init__(self, options: AsyncOptions, bell: Bell, *, pid: int | None = None, lasting: bool = False) -> None:
        self.options = options
        self.idle = False
        """Whether the worker found nothing: then posting rings the bell."""
        self.hung = False
        self.broken = False
        self.hurried = False
        """Whether somebody waits for the mailbox to become empty."""
        self.resting = False
        """Whether the worker waits for its next probe of a broken listener."""
        self.closed = False
        self.retired = False
        """Whether nobody is subscribed any more."""
        self.lasting = lasting
        """Whether what is in it may still be taken after that."""
        self.gap: tuple[float, int] | None = None
        """When the latest event that overflowed was posted, and how many did since somebody reset this."""
        self._bell = bell
        self._pid = os.getpid() if pid is None else pid
        self._lock = RLock()
        self._droppable: deque[Entry] | Latest = Latest(self._lock) if options.overflow == "latest" else deque()
        self._kept: deque[Entry] = deque()
        self._room = options.queue_size
        self._reserve = KEPT_SHARE * options.queue_size
        self._oldest_is_dropped = options.overflow != "drop_newest"
        self._overflowed = False
        self._lingering = False  # the worker knows of something, and waits for more
        self._in_flight: list[Entry] = []

    # The publishing thread

    def inlet(self, route: Route) -> Callable[[Any], None]:
        """Return what posts the events of one route: compiled for their type, since the publisher waits for it."""
        route.tally.await_from(self)
        event_type: type[Event] = route.listener.event_type
        kept = event_type.recorded is Recorded.ALWAYS
        queue = self._kept if kept else self._droppable
        words = {
            **detaching(event_type)[1],
            "box": self,
            "queue": queue,
            "append": queue.append,
            "len": len,
            "now": perf_counter,
            "route": route,
        }
        exec(_code(event_type), words)  # noqa: S102  see `detaching`
        post: Callable[[Any], None] = words["post"]
        return post

    def overflow(self, queue: deque[Entry] | Latest) -> None:
        """Drop what is too much in a queue, and account for it."""
        with self._lock:
            if self.closed:
                self._empty("closed")
            elif queue is self._kept:
                while len(self._kept) > self._reserve:
                    self._lose(self._kept.pop())
                    self._complain()
            elif isinstance(queue, deque) and not self._oldest_is_dropped:
                while len(queue) > self._room:
                    self._lose(queue.pop())
            else:
                while len(queue) > self._room:
                    self._lose(queue.popleft())

    def wake(self) -> None:
        """Wake the worker, unless it already gathers a batch that is not full yet."""
        with self._lock:
            if self.idle and not (self._lingering and self._gathering()):
                self.idle = False
                if not self.inert:
                    self._bell.ring()

    def _lose(self, entry: Entry) -> None:
        posted, route, _ = entry
        route.drop("overflow")
        self.gap = posted, self.gap[1] + 1 if self.gap else 1

    def _complain(self) -> None:
        """Say once that what should not be dropped was."""
        if not self._overflowed:
            self._overflowed = True
            name = self._kept[0][1].listener.name
            log.error("%s is so far behind that events are dropped which should not be: %d pend", name, self._reserve)

    def _empty(self, reason: str) -> None:
        for queue in (self._droppable, self._kept):
            while queue:
                queue.popleft()[1].drop(reason)

    # The worker

    def take(self) -> list[Entry]:
        """Take the next events, up to a batch of one subscription's; nothing: there are none, and the bell will ring.

        They are in flight until `settle`.
        """
        with self._lock:
            if not self._ready():
                self.idle = True
                if not self._ready():  # nor has anything come before that could be seen
                    self._lingering = len(self) > 0
                    return []
                self.idle = False
            taken = [self._pop()]
            while len(taken) < self.options.batch:
                entry = self._next()
                if entry is None or entry[1].listener is not taken[0][1].listener:
                    break
                taken.append(self._pop())
            self._in_flight = taken
            return list(taken)

    def settle(self, error: BaseException | None, dropped: str | None = None) -> None:
        """Account for what is in flight: delivered, failed with an error, or dropped for a reason."""
        with self._lock:
            for _, route, _ in self._in_flight:
                if dropped is not None:
                    route.drop(dropped)
                elif error is not None:
                    route.tally.failed += 1
                else:
                    route.tally.delivered += 1
            self._in_flight = []

    def take_gap(self, before: float = inf) -> int:
        """Return how many events have overflowed that were posted before a moment, if all of them were; once."""
        with self._lock:
            if self.gap is None or self.gap[0] > before:
                return 0
            missed, self.gap = self.gap[1], None
            return missed

    def retried(self) -> None:
        """Account for another attempt at what is in flight."""
        with self._lock:
            for _, route, _ in self._in_flight:
                route.tally.retried += 1

    def gathers_for(self) -> float | None:
        """Return how many seconds the worker may wait for more events; None: until the bell rings."""
        with self._lock:
            entry = self._next()
            return None if entry is None else self._gathers_for(entry)

    def rests_for(self, until: float, *, probe: bool) -> float:
        """Return how many seconds are left of a rest, 0 where it is over: also because nobody can wait for a probe."""
        with self._lock:
            left = until - perf_counter()
            over = left <= 0 or self.finished or (probe and self.hurried)
            self.resting = probe and not over
            self.hurried = self.hurried and not (probe and over)
            return 0.0 if over else left

    @property
    def finished(self) -> bool:
        """Whether nothing will ever come out of it again."""
        return self.closed or (self.retired and not self.lasting)

    def _gathering(self) -> bool:
        """Whether a batch is not full yet, and nobody is in a hurry."""
        return len(self) < self.options.batch and not (self.hurried or self.finished)

    def _ready(self) -> bool:
        """Whether there is something to take, and no more to be gathered."""
        entry = self._next()
        if entry is None:
            self.hurried = False
        return entry is not None and not (self._gathering() and self._gathers_for(entry) > 0)

    def _gathers_for(self, entry: Entry) -> float:
        return max(0.0, entry[0] + self.options.linger - perf_counter())

    def _next(self) -> Entry | None:
        """Return the oldest entry, having dropped those that are for nobody any more."""
        while (queue := self._oldest_queue()) is not None:
            entry: Entry = queue[0]
            reason = self._refusal(entry)
            if reason is None:
                return entry
            queue.popleft()[1].drop(reason)
        return None

    def _pop(self) -> Entry:
        queue = self._oldest_queue()
        assert queue is not None
        return queue.popleft()

    def _oldest_queue(self) -> deque[Entry] | Latest | None:
        droppable, kept = self._droppable, self._kept
        if not kept:
            return droppable or None
        return kept if not droppable or kept[0][0] <= droppable[0][0] else droppable

    def _refusal(self, entry: Entry) -> str | None:
        posted, route, _ = entry
        listener = route.listener
        if self.lasting and not self.closed:
            return None
        if listener.state != "active":
            return listener.state
        return "paused" if posted <= listener.paused_at else None

    # Looking, and ending

    @property
    def inert(self) -> bool:
        """Whether it belongs to another process, from which this one was forked: here nobody empties it."""
        return self._pid != os.getpid()

    @property
    def spent(self) -> bool:
        """Whether it is empty for ever."""
        return (self.closed or self.retired) and not self._in_flight and not len(self)

    @property
    def unfinished(self) -> bool:
        """Whether something is pending or in flight."""
        with self._held():
            return bool(self._in_flight) or len(self) > 0

    @property
    def settled(self) -> bool:
        """Whether there is nothing to wait for: all was delivered, or the listener is broken, a probe included."""
        with self._held():
            return not self.unfinished or (self.resting and not self.hurried)

    def condition(self) -> State:
        """Return how the listener is doing."""
        return "hung" if self.hung else "broken" if self.broken else "active"

    def backlog(self, tally: AsyncTally) -> Backlog:
        """Return what it holds of the events that are accounted for in a tally; drops what is for nobody any more."""
        with self._held():
            self._sweep()
            entries = [*self._droppable, *self._kept]
            in_flight = sum(route.tally is tally for _, route, _ in self._in_flight)
        pending = [posted for posted, route, _ in entries if route.tally is tally]
        return Backlog(len(pending), in_flight, min(pending, default=None))

    def holding(self) -> AbstractContextManager[Any]:
        """Return a context in which nobody else changes it."""
        return self._held()

    def hurry(self) -> None:
        """Let the worker wait for no more events and for no later probe, once."""
        if not self.inert and (self.resting or len(self)):
            self.hurried = True
            self._bell.ring()

    def retire(self) -> None:
        """Let the worker end, since nobody is subscribed any more. Needs no lock."""
        self.retired = True
        if not self.inert:
            self._bell.ring()

    def close(self) -> None:
        """Drop what is pending, take nothing more, and let the worker end."""
        if self.inert:
            return
        with self._lock:
            self.closed = True
            self._room = self._reserve = -1  # whatever is posted from now on has no room
            self._empty("breaker" if self.broken else "closed")
        self._bell.ring()

    def _sweep(self) -> None:
        """Drop what is for nobody any more."""
        self._next()
        for queue in (self._droppable, self._kept):
            for entry in list(queue):
                reason = self._refusal(entry)
                if reason is not None:
                    with suppress(ValueError):  # a finalizer came in between, published, and it overflowed
                        queue.remove(entry)
                        entry[1].drop(reason)

    def _held(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.inert else self._lock  # in a forked child a thread that is not there may hold it

    def __len__(self) -> int:
        return len(self._droppable) + len(self._kept)
