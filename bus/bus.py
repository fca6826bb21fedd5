"""The event bus: who listens to what, and the way in for everybody who publishes."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from _thread import get_ident
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, overload
from weakref import WeakSet

from .background import until
from .channel import Channel, Slot
from .errors import BusError, ClosedError, Propagate, SubscriptionError, UnknownEventError, describe, place_of
from .event import Event
from .lane import AsyncLane, drain, hurry, retire, serving
from .mailbox import Mailbox, Route
from .options import AllOptions, BatchOptions, Dispatch, QueueOptions
from .signals import PlainReceiver, Signal, SubscriptionTable
from .statistics import ListenerFailure, ListenerStatistics, State, summarize
from .subscription import OnError, Subscription
from .turn import Turn

E = TypeVar("E", bound=Event)
R = TypeVar("R")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., object])

log = logging.getLogger("bus")


def event_types() -> dict[str, type[Event]]:
    """Return every event type that exists, by name; of two with one name, the one defined later.

    A base class that is no event type itself says so by an empty `name`.
    """
    types: dict[str, type[Event]] = {}
    waiting = [Event]
    while waiting:
        for subclass in waiting.pop().__subclasses__():
            if subclass.name:
                types[subclass.name] = subclass
            waiting.append(subclass)
    return types


class EventBus:
    """Publishes typed events to whoever subscribed to them.

    A bus made with a `parent` also serves the parent's listeners; what is published on the parent does not reach it.
    With `strict`, every error in a listener is raised to the publisher, after the other listeners ran.
    """

    def __init__(self, parent: EventBus | None = None, *, strict: bool = False) -> None:
        self.strict = strict
        self.closed = False
        self.on_failure: Callable[[ListenerFailure], object] | None = None
        """Told of each failure of a listener: of one in step on the publishing thread, before the next listener runs;
        of an asynchronous one on its worker's thread, when it has been given up."""
        self.on_propagate: Callable[[Propagate], bool] | None = None
        """Asked about each `Propagate` that a listener raises; what it says True to is not raised to the publisher."""
        self.on_recovery: Callable[[str], object] | None = None
        """Told the name of a listener that is served again after it hung or was broken, on its worker's thread."""
        self.on_subscribe: Callable[[Subscription[Any] | PlainReceiver], object] | None = None
        """Told of each listener that comes to this bus, or to a bus below it; plain blinker receivers included."""
        self._parent = parent
        self._children: WeakSet[EventBus] = WeakSet()
        self._channels: dict[type[Event], Channel[Any]] = {}
        self._table = SubscriptionTable(self._changed, self._added)
        self._lane = AsyncLane()
        self._muted = 0
        # The first thread that publishes is at home, on the short path; any other looks its turn up.
        self._home = Turn()
        self._turns = threading.local()
        weakref.finalize(self, retire, self._lane.boxes).atexit = False
        _buses.add(self)
        if parent is not None:
            with _tables:
                parent._children.add(self)

    # Subscribing

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
        event: type[Any] | str,
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
        with _tables:
            if self.closed:
                raise ClosedError("this bus is closed: nothing can be subscribed to it any more")
            subscription = Subscription(
                self.event_type(event),
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
        event: type[Any] | str,
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

    def subscriptions(self) -> list[Subscription[Any]]:
        """Return the subscriptions of this bus and its parents, paused ones included, in the order of calling."""
        with _tables:
            tables = [bus._table for bus in self._lineage()]
            listeners = [listener for table in tables for name in table.names() for listener in table.listeners(name)]
        return sorted((entry for entry in listeners if isinstance(entry, Subscription)), key=lambda entry: entry.rank)

    def signal(self, event: type[Event] | str) -> Signal:
        """Return the blinker signal of an event, to which plain receivers may connect.

        A plain receiver is called as `receiver(source, event=event)`. Sending on the signal is not supported.
        """
        event_type = self.event_type(event)
        with _tables:
            return self._table.signal(event_type.name)

    # Publishing

    def channel(self, event_type: type[E]) -> Channel[E]:
        """Return the channel of an event type on this bus, always the same one; raises `SubscriptionError`."""
        channel = self._channels.get(event_type)
        if channel is None:
            with _tables:
                channel = self._channels.get(event_type) or self._open(self.event_type(event_type))
        return channel

    def publish(self, event: Event) -> None:
        """Deliver an event to its listeners; see `Channel.emit` for the order and the errors."""
        channel = self.channel(type(event))
        if channel.active:
            channel.emit(event)

    @contextmanager
    def muted(self) -> Iterator[None]:
        """Deliver nothing from this bus, and nothing to its own listeners, while the context lasts."""
        self._mute(1)
        try:
            yield
        finally:
            self._mute(-1)

    # Looking, and ending

    def statistics(self) -> tuple[ListenerStatistics, ...]:
        """Return the account of every listener that a channel of this bus has served, also of past ones."""
        with _tables:
            accounts = [account for channel in list(self._channels.values()) for account in channel.accounts()]
        return summarize(accounts)  # which looks into mailboxes, whose locks are not taken under that of the tables

    def drain(self, timeout: float | None) -> bool:
        """Wait until the asynchronous listeners of this bus and its parents have had all their events; at most
        `timeout` seconds, if that is not None. Return whether they have.

        What is gathered for a batch is delivered now. A broken listener gets one more try, and is then not waited for.
        Streams are not waited for. Raises `BusError` in an asynchronous listener, which would wait for itself.
        """  # noqa: D205  one sentence
        self._refuse_waiting()
        return drain(self._boxes(), timeout)

    async def adrain(self, timeout: float | None) -> bool:  # noqa: ASYNC109  as `drain` has it
        """Do the same as `drain`, in a coroutine."""
        self._refuse_waiting()
        living = hurry(self._boxes())
        await until(lambda: all(box.settled for box in living), timeout)
        return not any(box.unfinished for box in living)

    def close(self) -> None:
        """Cancel this bus's own subscriptions and leave its parent: nobody listens then. Again is no error.

        What is pending for asynchronous listeners is dropped, their coroutines are cancelled; nothing is waited for.
        """
        with _tables:
            self.closed = True
        self._lane.close()
        with _tables:
            for name in self._table.names():
                for listener in self._table.listeners(name):
                    listener.cancel()
            if self._parent is not None:
                self._parent._children.discard(self)
                self._parent = None
            self._recompile()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.close()

    @staticmethod
    def event_type(event: type[E] | str) -> type[E]:
        """Return the event type of that name, or the type itself; raises `UnknownEventError`, `SubscriptionError`."""
        if isinstance(event, str):
            types: dict[str, Any] = event_types()
            if event not in types:
                raise UnknownEventError(event, types)
            found: type[E] = types[event]
            return found
        given: object = event
        if not (isinstance(given, type) and issubclass(given, Event) and given.name):
            raise SubscriptionError(f"an event type or its name was expected, got {event!r}")
        return event

    def __reduce__(self) -> tuple[Callable[[], EventBus], tuple[()]]:
        """Pickle, or copy, as a handle on which nothing is ever delivered: listeners stay in their process."""
        return _inert, ()

    # Inside

    def _lineage(self) -> Iterator[EventBus]:
        bus: EventBus | None = self
        while bus is not None:
            yield bus
            bus = bus._parent

    def _listeners(self, name: str) -> list[Any]:
        if self._muted or self.closed:
            return []
        found = [entry for bus in self._lineage() if not bus._muted for entry in bus._table.listeners(name)]
        served = [entry for entry in found if entry.state == "active" and not entry.inert]
        return sorted(served, key=lambda entry: entry.rank)

    def _boxes(self) -> list[Mailbox]:
        return [box for bus in self._lineage() for box in list(bus._lane.boxes)]

    @staticmethod
    def _refuse_waiting() -> None:
        if serving():
            raise BusError("an asynchronous listener cannot wait for asynchronous listeners, of which it is one")

    def _set_state(self, subscription: Subscription[Any], state: State) -> None:
        with _tables:
            if subscription.state in (state, "cancelled"):
                return
            subscription.state = state
            if state == "cancelled":
                self._table.remove(subscription)  # which reports the change itself
                self._lane.leave(subscription)
            else:
                self._changed(subscription.event_type.name)

    def _open(self, event_type: type[E]) -> Channel[E]:
        for other in self._channels:
            if other.name == event_type.name:
                raise SubscriptionError(f"two event types are named {other.name!r}: {other!r} and {event_type!r}")
        channel = Channel(
            event_type,
            lambda: self._listeners(event_type.name),
            self._home,
            self._turn,
            self._failed,
            report=self._report,
        )
        channel.compile()
        self._channels[event_type] = channel
        return channel

    def _added(self, listener: Subscription[Any] | PlainReceiver) -> None:
        for bus in self._lineage():
            _tell(bus.on_subscribe, listener)

    def _changed(self, name: str) -> None:
        with _tables:
            self._recompile(name)

    def _recompile(self, name: str | None = None) -> None:
        """Compile the channels of one event name anew, or all of them, here and in the children."""
        for channel in list(self._channels.values()):
            if name in (None, channel.event_type.name):
                channel.compile()
        for child in list(self._children):
            child._recompile(name)

    def _mute(self, change: int) -> None:
        with _tables:
            self._muted += change
            self._recompile()

    def _turn(self) -> Turn:
        turn: Turn | None = getattr(self._turns, "mine", None)
        if turn is None:
            with _tables:
                turn = self._turns.mine = Turn() if self._home.thread else self._home
                turn.thread = get_ident()
        return turn

    def _failed(self, slot: Slot[Any], event: Event, error: BaseException, turn: Turn) -> None:
        """Account for what a listener raised, and decide whether the publisher gets it."""
        if isinstance(error, Propagate):
            if not _tell(self.on_propagate, error):
                turn.raise_later(error)
            return
        if not isinstance(error, Exception):
            turn.raise_later(error)
            return
        listener, tally = slot.listener, slot.tally
        slot.failures += 1
        tally.failed += 1
        place = place_of(error, listener.code)
        tally.last_error = f"{describe(error)} ({place})"
        if self.strict or listener.on_error == "raise":
            turn.raise_later(error)
        elif slot.failures == 1:
            log.error("%s failed on %s at %s", listener.name, event.name, place, exc_info=error)
        _tell(self.on_failure, ListenerFailure(listener.name, event.name, error, place, tally.failed))

    def _report(self, route: Route, event: str, error: BaseException | None) -> None:
        """Account for what an asynchronous listener raised, or for its recovery; on its worker's thread."""
        listener, tally = route.listener, route.tally
        if error is None:
            log.info("%s is served again", listener.name)
            _tell(self.on_recovery, listener.name)
            return
        route.failures += 1
        place = place_of(error, listener.code)
        tally.last_error = f"{describe(error)} ({place})"
        if route.failures == 1:
            log.error("%s failed on %s at %s", listener.name, event, place, exc_info=error)
        _tell(self.on_failure, ListenerFailure(listener.name, event, error, place, tally.failed))


def _inert() -> EventBus:
    """Return a bus on which nothing is delivered, and for which nobody works."""
    bus = EventBus()
    bus._muted = 1
    bus._lane.pid = 0
    return bus


def _silence() -> None:
    """Take what is served elsewhere out of all channels, in a forked child."""
    for bus in list(_buses):
        bus._recompile()
    _tables.release()


_buses: WeakSet[EventBus] = WeakSet()
_tables = threading.RLock()  # guards changes of subscriptions on all buses; never held while a listener runs
if hasattr(os, "register_at_fork"):  # so that a forked child never finds it held by a thread it lacks
    os.register_at_fork(before=_tables.acquire, after_in_parent=_tables.release, after_in_child=_silence)


def _tell(observer: Callable[[T], R] | None, what: T) -> R | None:
    """Call an observer of the bus, if there is one; should it fail, the listeners are served all the same."""
    try:
        return observer(what) if observer is not None else None
    except Exception:
        log.exception("%r failed", observer)
        return None
