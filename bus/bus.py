"""The event bus: who listens to what, and the way in for everybody who publishes."""

from __future__ import annotations

import logging
import os
import threading
from _thread import get_ident
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar, overload
from weakref import WeakSet

from .channel import Channel, Slot
from .errors import ClosedError, Propagate, SubscriptionError, UnknownEventError, describe, place_of
from .event import Event
from .signals import PlainReceiver, Signal, SubscriptionTable
from .statistics import ListenerFailure, ListenerStatistics, State, summarize
from .subscription import OnError, Subscription
from .turn import Turn

E = TypeVar("E", bound=Event)
R = TypeVar("R")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., object])

log = logging.getLogger("bus")

_tables = threading.RLock()  # guards changes of subscriptions on all buses; never held while a listener runs
if hasattr(os, "register_at_fork"):  # so that a forked child never finds it held by a thread it lacks
    os.register_at_fork(before=_tables.acquire, after_in_parent=_tables.release, after_in_child=_tables.release)


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
        """Told of each failure of a listener, on the publishing thread, before the next listener runs."""
        self.on_propagate: Callable[[Propagate], bool] | None = None
        """Asked about each `Propagate` that a listener raises; what it says True to is not raised to the publisher."""
        self.on_subscribe: Callable[[Subscription[Any] | PlainReceiver], object] | None = None
        """Told of each listener that comes to this bus, or to a bus below it; plain blinker receivers included."""
        self._parent = parent
        self._children: WeakSet[EventBus] = WeakSet()
        self._channels: dict[type[Event], Channel[Any]] = {}
        self._table = SubscriptionTable(self._changed, self._added)
        self._muted = 0
        # The first thread that publishes is at home, on the short path; any other looks its turn up.
        self._home = Turn()
        self._turns = threading.local()
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
        priority: float = 50,
        every: int = 1,
        on_error: OnError = "isolate",
        name: str | None = None,
        owner: object | None = None,
    ) -> Subscription[E]: ...

    @overload
    def subscribe(
        self,
        event: str,
        fn: Callable[[Any], object],
        *,
        priority: float = 50,
        every: int = 1,
        on_error: OnError = "isolate",
        name: str | None = None,
        owner: object | None = None,
    ) -> Subscription[Any]: ...

    def subscribe(
        self,
        event: type[Any] | str,
        fn: Callable[[Any], object],
        *,
        priority: float = 50,
        every: int = 1,
        on_error: OnError = "isolate",
        name: str | None = None,
        owner: object | None = None,
    ) -> Subscription[Any]:
        """Call `fn(event)` for each event of a type, from the next one on, until the subscription is cancelled.

        - `event`: the event type, or its name.
        - `priority`: lower runs first; equal ones run in the order of subscribing.
        - `every`: only every so-many-th event.
        - `on_error`: `"isolate"` logs and counts what `fn` raises; `"raise"` also raises it to the publisher, after
          the other listeners ran.
        - `name`: what the listener is called in accounts and logs; several subscriptions may share one.
        - `owner`: the object that the listener belongs to, for whoever looks for it in `subscriptions()`.

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
            )
            self._table.add(subscription)
        return subscription

    @overload
    def on(
        self,
        event: type[E],
        *,
        priority: float = 50,
        every: int = 1,
        on_error: OnError = "isolate",
        name: str | None = None,
    ) -> Callable[[Callable[[E], R]], Callable[[E], R]]: ...

    @overload
    def on(
        self,
        event: str,
        *,
        priority: float = 50,
        every: int = 1,
        on_error: OnError = "isolate",
        name: str | None = None,
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
            return summarize(account for channel in list(self._channels.values()) for account in channel.accounts())

    def close(self) -> None:
        """Cancel this bus's own subscriptions and leave its parent: nobody listens then. Again is no error."""
        with _tables:
            self.closed = True
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
        return sorted((entry for entry in found if entry.state == "active"), key=lambda entry: entry.rank)

    def _set_state(self, subscription: Subscription[Any], state: State) -> None:
        with _tables:
            if subscription.state in (state, "cancelled"):
                return
            subscription.state = state
            if state == "cancelled":
                self._table.remove(subscription)  # which reports the change itself
            else:
                self._changed(subscription.event_type.name)

    def _open(self, event_type: type[E]) -> Channel[E]:
        for other in self._channels:
            if other.name == event_type.name:
                raise SubscriptionError(f"two event types are named {other.name!r}: {other!r} and {event_type!r}")
        channel = Channel(event_type, lambda: self._listeners(event_type.name), self._home, self._turn, self._failed)
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


def _tell(observer: Callable[[T], R] | None, what: T) -> R | None:
    """Call an observer of the bus, if there is one; should it fail, the listeners are served all the same."""
    try:
        return observer(what) if observer is not None else None
    except Exception:
        log.exception("%r failed", observer)
        return None
