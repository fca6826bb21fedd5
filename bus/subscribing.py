"""How listeners come to a bus: in step, asynchronously, or as the consumer of a stream."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar, Unpack, overload

from .errors import ClosedError, SubscriptionError
from .event import Event
from .lane import AsyncLane
from .names import event_type_of, event_types
from .options import AllOptions, BatchOptions, Dispatch, QueueOptions
from .signals import SubscriptionTable
from .statistics import State
from .stream import Feed, History, Past, Stream, never_called
from .subscription import OnError, Subscription

E = TypeVar("E", bound=Event)
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., object])

tables = threading.RLock()
"""Guards changes of subscriptions on all buses; never held while a listener runs."""


class Subscribing(ABC):
    """The part of a bus to which listeners come."""

    def __init__(self, table: SubscriptionTable) -> None:
        self.closed = False
        self.history: History | None = None
        """Returns the recorded events after a number, for streams that begin in the past."""
        self._table = table
        self._lane = AsyncLane()

    @abstractmethod
    def _set_state(self, subscription: Subscription[Any], state: State) -> None:
        """Bring a subscription of this bus to another state."""

    @overload
    def subscribe(
        self,
        event: type[E],
        fn: Callable[[E], object],
        *,
        dispatch: Dispatch | None = None,
        priority: float = 50,
        every: int = 1,
        on_error: OnError = "isolate",
        name: str | None = None,
        owner: object | None = None,
        **options: Unpack[QueueOptions],
    ) -> Subscription[E]: ...

    @overload
    def subscribe(
        self,
        event: type[E],
        fn: Callable[[list[E]], object],
        *,
        batch: int,
        dispatch: Dispatch | None = None,
        every: int = 1,
        name: str | None = None,
        owner: object | None = None,
        **options: Unpack[BatchOptions],
    ) -> Subscription[E]: ...

    @overload
    def subscribe(
        self,
        event: str,
        fn: Callable[[Any], object],
        *,
        dispatch: Dispatch | None = None,
        priority: float = 50,
        every: int = 1,
        on_error: OnError = "isolate",
        name: str | None = None,
        owner: object | None = None,
        **options: Unpack[AllOptions],
    ) -> Subscription[Any]: ...

    def subscribe(
        self,
        event: type[Any] | str,
        fn: Callable[[Any], object],
        *,
        dispatch: Dispatch | None = None,
        priority: float = 50,
        every: int = 1,
        on_error: OnError = "isolate",
        name: str | None = None,
        owner: object | None = None,
        **options: Any,
    ) -> Subscription[Any]:
        """Call `fn(event)` for each event of a type, from the next one on, until the subscription is cancelled.

        - `event`: the event type, or its name.
        - `dispatch`: `"sync"` calls `fn` in step, on the publishing thread; `"async"` calls it later, elsewhere, with a
          frozen copy. None is async for coroutine functions, sync for everything else.
        - `priority`: in step, lower runs first; equal ones run in the order of subscribing.
        - `every`: only every so-many-th event.
        - `on_error`: `"isolate"` logs and counts what `fn` raises; `"raise"`, in step only, also raises it to the
          publisher, after the other listeners ran.
        - `name`: what the listener is called in accounts and logs; several subscriptions may share one.
        - `owner`: the object that the listener belongs to, for whoever looks for it in `subscriptions()`. All that one
          owner has subscribed on this bus with `dispatch="async"` is one listener: one queue, one worker, one order.

        An asynchronous `fn` gets the events in their order, one at a time: a coroutine function on the event loop of
        the process's listeners, a plain function in a thread of its own. Its options:

        - `queue_size`: how many events may be pending. Event types that are always recorded have 16 times the room.
        - `overflow`: what to do with further events: `"drop_oldest"`, `"drop_newest"`, or `"latest"`, which keeps the
          newest event of a type only. It concerns those that are not always recorded; the others are dropped, with an
          error, when their room is full.
        - `timeout`: seconds for an attempt. A coroutine is cancelled then; a plain function cannot be, so it is left
          alone until it returns.
        - `retries`, `backoff`: how many times to try again, and after how long (a `Backoff`).
        - `breaker`: when to leave a broken listener alone, and for how long (a `Breaker`); None for never.
        - `batch`, `linger`: if more than 1, `fn` gets a list of up to so many events, or of what came within `linger`
          seconds. A batch is delivered, or fails, as a whole.

        Raises `UnknownEventError`, `SubscriptionError` or `ClosedError`.
        """
        with tables:
            if self.closed:
                raise ClosedError("this bus is closed: nothing can be subscribed to it any more")
            subscription = Subscription(
                event_type_of(event),
                fn,
                set_state=self._set_state,
                priority=priority,
                every=every,
                on_error=on_error,
                name=name,
                owner=owner,
                dispatch=dispatch,
                settings=options,
            )
            seat = self._lane.admit(subscription, subscription.options) if subscription.options else None
            self._table.add(subscription)
        if seat is not None:
            try:
                seat.start()
            except RuntimeError:  # there can be no more threads
                subscription.cancel()
                raise
        return subscription

    @overload
    def on(
        self,
        event: type[E],
        *,
        dispatch: Dispatch | None = None,
        priority: float = 50,
        every: int = 1,
        on_error: OnError = "isolate",
        name: str | None = None,
        owner: object | None = None,
        **options: Unpack[QueueOptions],
    ) -> Callable[[Callable[[E], R]], Callable[[E], R]]: ...

    @overload
    def on(
        self,
        event: type[E],
        *,
        batch: int,
        dispatch: Dispatch | None = None,
        every: int = 1,
        name: str | None = None,
        owner: object | None = None,
        **options: Unpack[BatchOptions],
    ) -> Callable[[Callable[[list[E]], R]], Callable[[list[E]], R]]: ...

    @overload
    def on(
        self,
        event: str,
        *,
        dispatch: Dispatch | None = None,
        priority: float = 50,
        every: int = 1,
        on_error: OnError = "isolate",
        name: str | None = None,
        owner: object | None = None,
        **options: Unpack[AllOptions],
    ) -> Callable[[F], F]: ...

    def on(self, event: type[Any] | str, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Subscribe the decorated function, and give it back unchanged; the options are those of `subscribe`."""

        def subscribe(fn: Callable[..., Any]) -> Callable[..., Any]:
            self.subscribe(event, fn, **options)
            return fn

        return subscribe

    def stream(self, *events: type[Event] | str, max_buffer: int = 256, from_seq: int | None = None) -> Stream:
        """Return a stream of the events of these types (all types, where none is given), from now on.

        - `max_buffer`: how many events may wait for the consumer; as with `queue_size`, types that are always recorded
          have 16 times the room. It overflows as `"drop_oldest"`.
        - `from_seq`: begin with the recorded events after that number, which the bus's `history` returns. It has no
          gap and no event twice, as far as the events' numbers tell.

        Raises `UnknownEventError`, `SubscriptionError` or `ClosedError`.
        """
        types = frozenset(map(event_type_of, events or event_types()))
        feed = Feed(max_buffer, pid=self._lane.pid)
        history = self.history
        if from_seq is not None and history is None:
            raise SubscriptionError(
                f"a stream from_seq={from_seq!r} was asked for, and this bus has no history: expected from_seq=None"
            )
        with tables:
            if self.closed:
                raise ClosedError("this bus is closed: there is nothing to stream from it any more")
            for event_type in sorted(types, key=lambda event_type: event_type.name):
                subscription = Subscription(
                    event_type,
                    never_called,
                    set_state=self._set_state,
                    name="stream",
                    owner=feed.box,
                    dispatch="async",
                    settings={"queue_size": max_buffer},
                )
                feed.subscriptions.append(subscription)
                self._lane.feed(subscription, feed.box)
                self._table.add(subscription)
        past = None if from_seq is None or history is None else Past(history, from_seq, types, feed.box)
        return Stream(feed, past)
