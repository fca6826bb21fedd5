"""The path of one event type from its publisher to its listeners: in order, isolated, counted, at little cost.

A channel keeps its listeners compiled: a tuple in priority order, made anew when the subscriptions change. Publishers
test `channel.active` before they build an event, so that an event nobody wants is never made:

    if channel.active:
        channel.emit(BatchEnd(trainer, batch_idx, loss))
"""

from __future__ import annotations

from _thread import get_ident
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, Generic, Protocol, TypeVar

from .event import Event, Recorded
from .statistics import Account, State, Tally
from .subscription import OnError
from .turn import Turn

E = TypeVar("E", bound=Event)


class Listener(Protocol):
    """What a channel needs to know of whoever listens to it."""

    @property
    def name(self) -> str:
        """Its name for people; accounts are kept under it."""

    @property
    def fn(self) -> Callable[[Any], object]:
        """What to call with the event."""

    @property
    def state(self) -> State:
        """Only an active one is called."""

    @property
    def on_error(self) -> OnError:
        """Whether what it raises also goes to the publisher."""

    def gate(self) -> Callable[[Any], bool] | None:
        """Return a new filter that says of each event in turn whether it is for this listener; None lets all pass."""


class Slot(Generic[E]):
    """A listener's place on one channel: what to call, and its account. `call` is swapped when it may not be called."""

    __slots__ = ("_joined", "call", "counts_itself", "listener", "serving", "tally")

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.tally = Tally()
        gate = listener.gate()
        self.counts_itself = gate is not None
        self.serving: Callable[[E], object] = self._gated(gate) if gate else listener.fn
        self.call = self.serving
        self._joined: int | None = None  # the channel's count when this listener was last accounted for

    def _gated(self, gate: Callable[[E], bool]) -> Callable[[E], None]:
        """Let through what is for this listener; it counts and times itself, since the channel sees all events."""

        def call(event: E) -> None:
            if gate(event):
                self.tally.offered += 1
                start = perf_counter()
                try:
                    self.listener.fn(event)
                finally:
                    self.tally.time(perf_counter() - start)

        return call

    def join(self, count: int) -> None:
        """Take part from the channel's next event on."""
        self.call = self.serving
        if self._joined is None:
            self._joined = count

    def leave(self, count: int, reason: str) -> None:
        """Take part no more, at once: a dispatch under way skips it, and counts the event as dropped for `reason`."""

        def skip(_event: E) -> None:
            if not self.counts_itself:
                self.tally.drop(reason)

        self.call = skip
        self.settle(count)
        self._joined = None

    def settle(self, count: int) -> None:
        """Bring the account up to the channel's count."""
        if self._joined is not None and not self.counts_itself:
            self.tally.offered += count - self._joined
            self._joined = count


Failed = Callable[[Slot[Any], Event, BaseException, Turn], None]


class Channel(Generic[E]):
    """The listeners of one event type on one bus, its own and those inherited from its parents."""

    def __init__(self, event_type: type[E], home: Turn, turn: Callable[[], Turn], failed: Failed) -> None:
        self.event_type = event_type
        self.active = False
        """Whether anybody listens: publishers look at it before they build an event."""
        self._home = home
        self._turn = turn
        self._failed = failed
        self._count = 0  # events delivered; the interpreter switches threads at calls only, so the sum is exact
        self._slots: tuple[Slot[E], ...] = ()
        self._slot_of: dict[Listener, Slot[E]] = {}
        self._departed: dict[str, Tally] = {}  # accounts of cancelled listeners, by name: bounded by the names
        # Frequent events are timed once in 64 (the published times are estimates then), the others always.
        self._untimed = 0 if event_type.recorded is Recorded.ALWAYS else 63

    def emit(self, event: E) -> None:
        """Call the listeners in order, each whatever the others raise, and return when all have been called.

        From inside a listener of the same bus the event is queued, and delivered after the current one (breadth
        first) before the outermost `emit` returns. Raises only what a listener with `on_error="raise"` raised, a
        `Propagate`, and what is no `Exception` (`KeyboardInterrupt`, `SystemExit`): after the others have run.
        """
        turn = self._home
        if turn.thread != get_ident():
            turn = self._turn()
        if turn.busy:
            turn.queue(self.deliver, event)
            return
        turn.busy = True
        try:
            count = self._count + 1
            if count & self._untimed:
                self._count = count
                for slot in self._slots:
                    try:
                        slot.call(event)
                    except BaseException as error:
                        self._failed(slot, event, error, turn)
            else:
                self.deliver(event, turn)
        finally:
            turn.busy = False
        if turn.unsettled:
            turn.settle()

    def deliver(self, event: E, turn: Turn) -> None:
        """Call the listeners and time each; for the bus's own use, by whoever has the turn."""
        self._count += 1
        for slot in self._slots:
            start = perf_counter()
            try:
                slot.call(event)
            except BaseException as error:
                self._failed(slot, event, error, turn)
            if not slot.counts_itself:
                slot.tally.time(perf_counter() - start)

    def compile(self, listeners: Sequence[Listener]) -> None:
        """Set who is called, in this order; one that was there before keeps its account."""
        before, self._slot_of = self._slot_of, {}
        slots = []
        for listener in listeners:
            slot = before.pop(listener, None) or Slot(listener)
            slot.join(self._count)
            self._slot_of[listener] = slot
            slots.append(slot)
        for listener, slot in before.items():
            slot.leave(self._count, "muted" if listener.state == "active" else listener.state)
            if listener.state == "cancelled":
                departed = self._departed.setdefault(listener.name, Tally())
                departed.add(slot.tally)
                slot.tally = departed  # a dispatch under way may still have to count it as dropped
            else:
                self._slot_of[listener] = slot
        self._slots = tuple(slots)
        self.active = bool(slots)

    def accounts(self) -> list[Account]:
        """Return the account of each listener, past ones included, up to now."""
        event = self.event_type.name
        accounts = [Account(name, "cancelled", event, tally) for name, tally in self._departed.items()]
        for listener, slot in self._slot_of.items():
            slot.settle(self._count)
            accounts.append(Account(listener.name, listener.state, event, slot.tally))
        return accounts
