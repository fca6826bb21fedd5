"""The path of one event type from its publisher to its listeners: in order, isolated, counted, at little cost.

A channel keeps its listeners compiled: a tuple in priority order, made anew when the subscriptions change. Publishers
test `channel.active` before they build an event, so that an event nobody wants is never made:

    if channel.active:
        channel.emit(BatchEnd(trainer, batch_idx, loss))

Where listeners are likely to want one event in many (`every=`), `channel.active and channel.due()` saves the others.
"""

from __future__ import annotations

import logging
from _thread import get_ident
from collections.abc import Callable, Sequence
from time import perf_counter
from types import CodeType
from typing import Any, Generic, Protocol, TypeVar

from .event import Event, Recorded
from .route import Report
from .statistics import Account, Lane, State, Tally
from .subscription import OnError
from .turn import MAX_DEPTH, Turn

E = TypeVar("E", bound=Event)

log = logging.getLogger("bus")


class Listener(Protocol):
    """What a channel needs to know of whoever listens to it."""

    @property
    def name(self) -> str:
        """Its name for people; accounts are kept under it."""

    @property
    def fn(self) -> Callable[[Any], object]:
        """What to call with the event."""

    @property
    def code(self) -> CodeType | None:
        """What somebody wrote of it in Python, to say where it failed."""

    @property
    def state(self) -> State:
        """Only an active one is called."""

    @property
    def on_error(self) -> OnError:
        """Whether what it raises also goes to the publisher."""

    @property
    def every(self) -> int:
        """It is called for every so-many-th event."""

    @property
    def lane(self) -> Lane:
        """Whether it is called in step, or only given the event to be called later."""

    @property
    def inert(self) -> bool:
        """Whether this process, forked from the listener's, cannot serve it."""

    def gate(self) -> Callable[[Any], bool] | None:
        """Return a filter that says of an event whether it is for this listener; None lets all pass."""

    def tally(self) -> Tally:
        """Return an empty account for it."""

    def inlet(self, tally: Tally, report: Report) -> Callable[[Any], object]:
        """Return what takes an event on the publishing thread; what becomes of it later goes to `tally`, `report`."""


class Slot(Generic[E]):
    """A listener's place on one channel: what to call, and its account. `call` is swapped when it may not be called."""

    __slots__ = (
        "_channel",
        "_joined",
        "call",
        "counts_itself",
        "due",
        "failures",
        "listener",
        "serving",
        "tally",
        "times_itself",
    )

    def __init__(self, channel: Channel[E], listener: Listener, tally: Tally, report: Report) -> None:
        self._channel = channel
        self.listener = listener
        self.tally = tally
        self.failures = 0
        self.due = listener.every if listener.every > 1 else 0
        """The number of the next event that is for it, where it takes every so-many-th; counted from when it joined."""
        gate = self._has_its_turn if listener.every > 1 else listener.gate()
        self.counts_itself = gate is not None
        self.times_itself = gate is not None or listener.lane == "async"
        inlet = listener.inlet(tally, report)
        self.serving: Callable[[E], object] = self._gated(gate, inlet) if gate else inlet
        self.call = self.serving
        self._joined: int | None = None  # the channel's count when this listener was last accounted for

    def _has_its_turn(self, _event: E) -> bool:
        if self._channel.count < self.due:
            return False
        self.due += self.listener.every
        return True

    def _gated(self, gate: Callable[[E], bool], inlet: Callable[[E], object]) -> Callable[[E], None]:
        """Let through what is for this listener; it counts and times itself, since the channel sees all events."""

        def call(event: E) -> None:
            if gate(event):
                self.tally.offered += 1
                start = perf_counter()
                try:
                    inlet(event)
                finally:
                    self.tally.time(perf_counter() - start)

        def post(event: E) -> None:
            if gate(event):
                self.tally.offered += 1
                inlet(event)

        return call if self.listener.lane == "sync" else post

    def join(self, count: int) -> None:
        """Account for the channel's events from the one after `count` on."""
        if self._joined is None:
            self._joined = count
            if self.due:
                self.due += count

    def leave(self, count: int, reason: str) -> None:
        """Take part no more, at once: a dispatch under way skips it, and counts the event as dropped for `reason`."""
        self.call = lambda _event: self.drop(reason)
        self.settle(count)
        if self.due and self._joined is not None:
            self.due -= count
        self._joined = None

    def drop(self, reason: str) -> None:
        """Account for an event that was not delivered, and why."""
        if not self.counts_itself:
            self.tally.dropped[reason] += 1

    def settle(self, count: int) -> None:
        """Bring the account up to the channel's count."""
        if self._joined is not None and not self.counts_itself:
            self.tally.offered += count - self._joined
            self._joined = count


Failed = Callable[[Slot[Any], Event, BaseException, Turn], None]


class Channel(Generic[E]):
    """The listeners of one event type on one bus, its own and those inherited from its parents."""

    # Slots keep `active` near: publishers read it on the way through code that leaves the caches cold.
    __slots__ = (
        "__weakref__",
        "_compiling",
        "_failed",
        "_home",
        "_listeners",
        "_recursions",
        "_report",
        "_slot_of",
        "_slots",
        "_soonest",
        "_stale",
        "_tallies",
        "_turn",
        "_untimed",
        "active",
        "count",
        "event_type",
    )

    def __init__(
        self,
        event_type: type[E],
        listeners: Callable[[], Sequence[Listener]],
        home: Turn,
        turn: Callable[[], Turn],
        failed: Failed,
        *,
        report: Report,
        time_all: bool = False,
    ) -> None:
        self.event_type = event_type
        self.active = False
        """Whether anybody listens: publishers look at it before they build an event."""
        self._listeners = listeners
        self._home = home
        self._turn = turn
        self._failed = failed
        self._report = report
        self.count = 0
        """Events so far."""
        # The interpreter switches threads at calls and jumps only, so the sum is exact, and a publisher that counted an
        # event has the listeners of that moment.
        self._soonest = 0  # the number of the next event that is for anybody, or of one before it
        self._recursions = 0
        self._stale = self._compiling = False
        self._slots: tuple[Slot[E], ...] = ()
        self._slot_of: dict[Listener, Slot[E]] = {}
        self._tallies: dict[tuple[str, Lane], Tally] = {}  # also of cancelled listeners: bounded by the names
        # Frequent events are timed once in 64 (the published times are estimates then), the others always.
        self._untimed = 0 if time_all or event_type.recorded is Recorded.ALWAYS else 63

    def due(self) -> bool:
        """Whether the next event is for anybody; if not, it counts as published, and need not be made.

        It can only be for nobody where every listener takes every so-many-th.
        """
        count = self.count + 1
        if count >= self._soonest:
            self._soonest = min((slot.due for slot in self._slots), default=0)
        if count < self._soonest:
            self.count = count
            return False
        return True

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
            if not turn.queue(self.deliver, event):
                self._refuse()
            return
        turn.busy = True
        try:
            count = self.count + 1
            if count & self._untimed:
                self.count = count
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
        self.count += 1
        for slot in self._slots:
            start = perf_counter()
            try:
                slot.call(event)
            except BaseException as error:
                self._failed(slot, event, error, turn)
            if not slot.times_itself:
                slot.tally.time(perf_counter() - start)

    def compile(self) -> None:
        """Take over who listens by now; one that was there before, and was not cancelled, goes on where it was."""
        self._stale = True
        if self._compiling:  # and a finalizer or a signal handler has come in between: it is done once more
            return
        self._compiling = True
        try:
            while self._stale:
                self._stale = False
                self._serve(self._listeners())
        finally:
            self._compiling = False

    def _serve(self, listeners: Sequence[Listener]) -> None:
        before = self._slot_of
        slots = tuple([before.get(listener) or self._slot(listener) for listener in listeners])
        for slot in slots:
            slot.call = slot.serving
        self._slots, count = slots, self.count  # in one step: other threads may be publishing
        self.active = bool(slots)
        self._soonest = 0
        self._slot_of = {slot.listener: slot for slot in slots}
        for slot in slots:
            slot.join(count)
        for listener, slot in before.items():
            if listener not in self._slot_of:
                slot.leave(
                    count, listener.state if listener.state != "active" else "forked" if listener.inert else "muted"
                )
                if listener.state != "cancelled":
                    self._slot_of[listener] = slot

    def accounts(self) -> list[Account]:
        """Return the account of each listener, past ones included, up to now."""
        states: dict[tuple[str, Lane], set[State]] = {key: set() for key in self._tallies}
        for listener, slot in self._slot_of.items():
            slot.settle(self.count)
            states[listener.name, listener.lane].add(listener.state)
        event = self.event_type.name
        return [Account(key[0], frozenset(found), event, self._tallies[key]) for key, found in states.items()]

    def _slot(self, listener: Listener) -> Slot[E]:
        tally = self._tallies.setdefault((listener.name, listener.lane), listener.tally())
        return Slot(self, listener, tally, self._report)

    def _refuse(self) -> None:
        """Drop an event that was caused by too many others, and say so once: a loop has more of them."""
        self.count += 1
        for slot in self._slots:
            slot.drop("recursion")
        self._recursions += 1
        if self._recursions == 1:
            name = self.event_type.name
            log.error("%s was dropped: %d events in a row caused it, each the next one", name, MAX_DEPTH + 1)
