"""The event bus: who listens to what, and the way in for everybody who publishes."""

from __future__ import annotations

import os
import threading
import weakref
from _thread import get_ident
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar
from weakref import WeakSet

from .background import until
from .channel import Channel
from .errors import BusError, SubscriptionError
from .event import Event
from .lane import Timeout, drain, hurry, retire, serving
from .mailbox import Mailbox
from .names import event_type_of, event_types
from .observed import Observed, tell
from .signals import PlainReceiver, Signal, SubscriptionTable
from .statistics import ListenerStatistics, State, summarize
from .subscribing import Subscribing, tables
from .subscription import Subscription
from .turn import Turn

__all__ = ["EventBus", "event_types"]

E = TypeVar("E", bound=Event)


class EventBus(Observed, Subscribing):
    """Publishes typed events to whoever subscribed to them.

    A bus made with a `parent` also serves the parent's listeners; what is published on the parent does not reach it.
    With `strict`, every error in a listener is raised to the publisher, after the other listeners ran. With `time_all`
    each call of a listener is timed, not only some of those of frequent events.
    """

    def __init__(self, parent: EventBus | None = None, *, strict: bool = False, time_all: bool = False) -> None:
        Observed.__init__(self, strict=strict)
        Subscribing.__init__(self, SubscriptionTable(self._changed, self._added))
        self._parent = parent
        self._time_all = time_all
        self._children: WeakSet[EventBus] = WeakSet()
        self._channels: dict[type[Event], Channel[Any]] = {}
        self._muted = 0
        # The first thread that publishes is at home, on the short path; any other looks its turn up.
        self._home = Turn()
        self._turns = threading.local()
        weakref.finalize(self, retire, self._lane.boxes).atexit = False
        _buses.add(self)
        if parent is not None:
            with tables:
                parent._children.add(self)

    # Who listens

    def subscriptions(self) -> list[Subscription[Any]]:
        """Return the subscriptions of this bus and its parents, paused ones included, in the order of calling."""
        with tables:
            family = [bus._table for bus in self._lineage()]
            listeners = [listener for table in family for name in table.names() for listener in table.listeners(name)]
        return sorted((entry for entry in listeners if isinstance(entry, Subscription)), key=lambda entry: entry.rank)

    def signal(self, event: type[Event] | str) -> Signal:
        """Return the blinker signal of an event, to which plain receivers may connect.

        A plain receiver is called as `receiver(source, event=event)`. Sending on the signal is not supported.
        """
        event_type = self.event_type(event)
        with tables:
            return self._table.signal(event_type.name)

    # Publishing

    def channel(self, event_type: type[E]) -> Channel[E]:
        """Return the channel of an event type on this bus, always the same one; raises `SubscriptionError`."""
        channel = self._channels.get(event_type)
        if channel is None:
            with tables:
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
        with tables:
            accounts = [account for channel in list(self._channels.values()) for account in channel.accounts()]
        return summarize(accounts)  # which looks into mailboxes, whose locks are not taken under that of the tables

    def drain(self, timeout: Timeout) -> bool:
        """Wait until the asynchronous listeners of this bus and its parents have had all their events; at most
        `timeout` seconds, or as long as it says that some are left. Return whether they have.

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
        with tables:
            self.closed = True
        self._lane.close()
        with tables:
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

    def __reduce__(self) -> tuple[Callable[[], EventBus], tuple[()]]:
        """Pickle, or copy, as a handle on which nothing is ever delivered: listeners stay in their process."""
        return _inert, ()

    event_type = staticmethod(event_type_of)

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
        with tables:
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
            time_all=self._time_all,
        )
        channel.compile()
        self._channels[event_type] = channel
        return channel

    def _added(self, listener: Subscription[Any] | PlainReceiver) -> None:
        for bus in self._lineage():
            tell(bus.on_subscribe, listener)

    def _changed(self, name: str) -> None:
        with tables:
            self._recompile(name)

    def _recompile(self, name: str | None = None) -> None:
        """Compile the channels of one event name anew, or all of them, here and in the children."""
        for channel in list(self._channels.values()):
            if name in (None, channel.event_type.name):
                channel.compile()
        for child in list(self._children):
            child._recompile(name)

    def _mute(self, change: int) -> None:
        with tables:
            self._muted += change
            self._recompile()

    def _turn(self) -> Turn:
        turn: Turn | None = getattr(self._turns, "mine", None)
        if turn is None:
            with tables:
                turn = self._turns.mine = Turn() if self._home.thread else self._home
                turn.thread = get_ident()
        return turn


def _inert() -> EventBus:
    """Return a bus on which nothing is delivered, and for which nobody works."""
    bus = EventBus()
    bus._muted = 1
    bus._lane.pid = 0
    return bus


def _silence() -> None:
    """Take what is served elsewhere out of all channels, in a forked child."""
    try:
        for bus in list(_buses):
            bus._recompile()
    finally:
        tables.release()


_buses: WeakSet[EventBus] = WeakSet()

if hasattr(os, "register_at_fork"):  # so that a forked child never finds it held by a thread it lacks
    os.register_at_fork(before=tables.acquire, after_in_parent=tables.release, after_in_child=_silence)
