"""Events for a consumer on an event loop of its own: `async for event in bus.stream("epoch_end")`.

A stream is an object and no asynchronous generator: an abandoned generator is finalized whenever its loop sees fit, and
keeps its subscription until then. What is abandoned here is unsubscribed when it is collected.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self

import anyio
import msgspec
from anyio import lowlevel

from .background import LoopBell
from .detach import landed
from .event import Event
from .mailbox import Mailbox
from .options import AsyncOptions
from .route import Entry
from .subscription import Subscription

History = Callable[[int], Iterable[Event]]
"""Returns the events whose number (`source.seq`) is above a given one, detached, in order."""


class Lagged(msgspec.Struct, frozen=True):
    """Stands in a stream where so many events are missing, since the consumer was too slow for its buffer."""

    missed: int


class Feed:
    """What the bus holds of a stream: its buffer and its subscriptions, but not the stream."""

    def __init__(self, max_buffer: int, *, pid: int) -> None:
        self.options = AsyncOptions(queue_size=max_buffer)
        self.bell = LoopBell()
        self.box = Mailbox(self.options, self.bell, pid=pid, lasting=True)
        self.subscriptions: list[Subscription[Any]] = []

    def end(self) -> None:
        """Unsubscribe, and forget what is in the buffer."""
        self.box.lasting = False
        for subscription in self.subscriptions:
            subscription.cancel()


def never_called(_event: Event) -> None:
    """Stand for the consumer, which takes from the buffer by itself."""


class Past:
    """The events before those that a stream hears of itself; `seq` is the number of the last one that it has given."""

    def __init__(self, history: History, seq: int, types: frozenset[type[Event]], box: Mailbox) -> None:
        self.seq = seq
        self._history = history
        self._types = types
        self._box = box
        self._missed = 0
        self._events: Iterator[Event] | None = iter(history(seq))

    def next(self) -> Event | Lagged | None:
        """Return the next event; None when the stream has to go on by itself.

        What overflows meanwhile is in the history by then, which is read on until the stream has caught up.
        """
        while self._events is not None:
            for event in self._events:
                if type(event) in self._types and seq_of(event) > self.seq:
                    self.seq, self._missed = seq_of(event), 0
                    return event
            gap = self._box.take_gap()
            self._missed += gap
            self._events = iter(self._history(self.seq)) if gap else None
        missed, self._missed = self._missed, 0
        return Lagged(missed) if missed else None

    def has(self, event: Event) -> bool:
        """Whether it has given that event."""
        return 0 < seq_of(event) <= self.seq


class Stream:
    """Yields the events of a bus, in order, to one consumer under asyncio or trio; made by `EventBus.stream`.

    A buffer that is full loses its oldest event that may be dropped, and a `Lagged` says where some are missing. The
    stream ends after an event whose type is `final`, or with what the buffer holds when the bus is closed. Leaving it
    as a context manager, or `aclose`, unsubscribes it.
    """

    def __init__(self, feed: Feed, past: Past | None = None) -> None:
        self._feed = feed
        self._past = past
        self._held: Entry | None = None  # what comes after a gap that is being told
        self._reading = False
        self._at_end = False  # the past ended with a final event, perhaps for good
        self._end = weakref.finalize(self, feed.end)
        self._end.atexit = False

    async def aclose(self) -> None:
        """Unsubscribe; again is no error."""
        self._end()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event | Lagged:
        """Wait for the next event; raises `StopAsyncIteration` at the end, `BusyResourceError` for a second reader."""
        if self._reading:
            raise anyio.BusyResourceError("reading from")
        self._reading = True
        try:
            await lowlevel.checkpoint()  # nothing has been taken yet that a cancellation could lose
            found = await self._next() if self._end.alive else None
        finally:
            self._reading = False
        if found is None:
            self._end()
            raise StopAsyncIteration
        return found

    async def _next(self) -> Event | Lagged | None:
        if self._feed.box.inert:  # this process was forked from the one that publishes
            return None
        past = self._past.next() if self._past is not None else None
        if past is not None:
            self._at_end = isinstance(past, Event) and type(past).final
            return past
        while True:
            self._feed.bell.arm()
            found = self._take()
            if found is not None:
                return found
            if self._at_end or self._feed.box.retired:
                missed = self._feed.box.take_gap()
                return Lagged(missed) if missed else None
            await self._feed.bell.wait(None)

    def _take(self) -> Event | Lagged | None:
        """Take the next event from the buffer, or what is missing before it; None where there is nothing yet."""
        box = self._feed.box
        while True:
            if self._held is None:
                taken = box.take()
                if not taken:
                    return None
                self._held = taken[0]
            posted, _, held = self._held
            event: Event = held
            missed = box.take_gap(posted)
            if missed:
                return Lagged(missed)
            self._held = None
            box.settle(None)
            if self._past is None or not self._past.has(event):
                break
        if type(event).final:
            self._end()
        return landed(event)


def seq_of(event: Event) -> int:
    """Return the number of an event's record, 0 where it has none."""
    seq: int = getattr(event.source, "seq", 0)
    return seq
