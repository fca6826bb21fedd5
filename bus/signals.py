"""The door to blinker: it holds who is subscribed to what; order, isolation and counting are the channel's."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from typing import Any, Literal

from blinker import ANY, Namespace, Signal

from .errors import SubscriptionError
from .route import Report
from .statistics import State, Tally
from .subscription import Subscription, code_of, name_of, next_rank, refuse_async

__all__ = ["PlainReceiver", "Signal", "SubscriptionTable"]

Receiver = Callable[..., Any]


class PlainReceiver:
    """A receiver that somebody connected to a blinker signal: called as `receiver(source, event=event)`.

    Held as it was connected: weakly, or strongly. Blinker stays the judge of which senders it wants.
    """

    on_error: Literal["isolate"] = "isolate"
    lane: Literal["sync"] = "sync"
    every = 1
    inert = False

    def __init__(self, signal: Signal, receiver: Receiver, *, weak: bool, died: Callable[[], None]) -> None:
        self.name = name_of(receiver)
        self.code = code_of(receiver)
        self.rank = next_rank(50)
        self.state: State = "active"
        self._signal = signal
        self._receiver = _weakly(receiver, died) if weak else lambda: receiver

    def fn(self, event: Any) -> None:
        """Call the receiver, if it still lives."""
        receiver = self._receiver()
        if receiver is not None:
            receiver(event.source, event=event)

    def gate(self) -> Callable[[Any], bool]:
        """Return the filter by sender, as blinker would apply it."""

        def wanted(event: Any) -> bool:
            return not self._signal.is_muted and any(map(self.stands_for, self._signal.receivers_for(event.source)))

        return wanted

    def tally(self) -> Tally:
        """Return an empty account for it."""
        return Tally()

    def inlet(self, _tally: Tally, _report: Report) -> Callable[[Any], object]:
        """Return what takes an event: the receiver."""
        return self.fn

    def stands_for(self, receiver: Receiver) -> bool:
        """Whether `receiver` is what is called here: the object itself, or the same method of one object."""
        own = self._receiver()
        return own is receiver or (inspect.ismethod(own) and own == receiver)

    def cancel(self) -> None:
        """Disconnect the receiver."""
        receiver = self._receiver()
        if receiver is not None:
            self._signal.disconnect(receiver)

    def is_alive(self) -> bool:
        """Whether the receiver still exists."""
        return self._receiver() is not None


def _weakly(receiver: Receiver, died: Callable[[], None]) -> Callable[[], Receiver | None]:
    def forget(_reference: object) -> None:
        died()

    return weakref.WeakMethod(receiver, forget) if inspect.ismethod(receiver) else weakref.ref(receiver, forget)


class SubscriptionTable:
    """One blinker signal per event name, holding the bus's own subscriptions and what others connected.

    `changed(name)` is called after every change, the death of a weakly held receiver included; `added(listener)` when
    one has come.
    """

    def __init__(
        self, changed: Callable[[str], None], added: Callable[[Subscription[Any] | PlainReceiver], None]
    ) -> None:
        self._changed = changed
        self._added = added
        self._namespace = Namespace()
        self._plain: dict[str, list[PlainReceiver]] = {}

    def signal(self, name: str) -> Signal:
        """Return the signal of an event name; plain receivers may `connect` to it."""
        signal = self._namespace.signal(name)
        if name not in self._plain:
            self._plain[name] = []
            self._watch(name, signal)
        return signal

    def add(self, subscription: Subscription[Any]) -> None:
        """Enter a subscription; held strongly, so that nested functions live."""
        self.signal(subscription.event_type.name).connect(subscription, weak=False)

    def remove(self, subscription: Subscription[Any]) -> None:
        """Take a subscription out; one that is not there is no error."""
        self.signal(subscription.event_type.name).disconnect(subscription)

    def names(self) -> list[str]:
        """Return the event names that have a signal here."""
        return list(self._plain)

    def listeners(self, name: str) -> list[Subscription[Any] | PlainReceiver]:
        """Return who listens to an event name, in no order."""
        if name not in self._plain:
            return []
        receivers = self.signal(name).receivers_for(ANY)
        return [*(entry for entry in receivers if isinstance(entry, Subscription)), *self._plain[name]]

    def _admit(self, entry: PlainReceiver, receiver: Receiver, name: str) -> None:
        """Enter a receiver, if it is not there yet; a coroutine function is refused, and disconnected again."""
        if any(other.stands_for(receiver) for other in self._plain[name]):
            return
        try:
            refuse_async(receiver)
        except SubscriptionError:
            entry.cancel()
            raise
        self._plain[name].append(entry)
        self._added(entry)

    def _watch(self, name: str, signal: Signal) -> None:
        plain = self._plain[name]

        def died() -> None:
            for entry in [entry for entry in plain if not entry.is_alive()]:
                forget(entry)

        def forget(entry: PlainReceiver) -> None:
            if entry in plain:  # or another death, in the midst of this one, has come first
                entry.state = "cancelled"
                plain.remove(entry)
                self._changed(name)

        def connected(_signal: Signal, *, receiver: Receiver, sender: Any, weak: bool) -> None:  # noqa: ARG001
            if isinstance(receiver, Subscription):
                self._added(receiver)
            else:
                self._admit(PlainReceiver(signal, receiver, weak=weak, died=died), receiver, name)
            self._changed(name)

        def disconnected(_signal: Signal, *, receiver: Receiver, sender: Any) -> None:
            for entry in [entry for entry in plain if sender is ANY and entry.stands_for(receiver)]:
                forget(entry)
            if isinstance(receiver, Subscription):
                self._changed(name)

        signal.receiver_connected.connect(connected, weak=False)
        signal.receiver_disconnected.connect(disconnected, weak=False)
