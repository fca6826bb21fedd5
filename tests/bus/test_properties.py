"""What holds of the bus whatever happens on it: the order of a channel, isolation, and the balance of every account."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from bus import FIRST, LAST, Event, EventBus, Propagate, Subscription
from tests.bus.events import Knock, Ring, Tick

EVENTS: tuple[type[Knock | Ring | Tick], ...] = (Knock, Ring, Tick)
priorities = st.one_of(st.integers(-2, 2), st.sampled_from([FIRST, LAST, 0.5]))
states = st.sampled_from(["active", "paused", "cancelled"])
numbers = st.integers(0, 1 << 16)  # taken modulo whatever there is to choose from


@pytest.fixture(autouse=True, scope="module")
def _silent() -> Iterator[None]:
    """Keep thousands of failures that are meant out of the log."""
    logging.getLogger("bus").disabled = True
    yield
    logging.getLogger("bus").disabled = False


def bring(subscription: Subscription[Any], state: str) -> None:
    """Bring a subscription to a state, where that is possible."""
    {"active": subscription.resume, "paused": subscription.pause, "cancelled": subscription.cancel}[state]()


# Order


@given(st.lists(priorities, max_size=12), st.lists(st.tuples(numbers, states), max_size=12), st.booleans())
def test_listeners_run_by_priority_then_registration(
    ranks: list[float],
    changes: list[tuple[int, str]],
    inherited: bool,  # noqa: FBT001  a parameter of the test
) -> None:
    """Whatever was cancelled, paused and resumed: who is active runs in the order of (priority, registration)."""
    parent = EventBus()
    bus, seen = EventBus(parent), list[int]()

    def listener(index: int) -> Callable[[Event], None]:
        return lambda _event: seen.append(index)

    subscriptions = [
        (parent if inherited and index % 2 else bus).subscribe(Knock, listener(index), priority=priority)
        for index, priority in enumerate(ranks)
    ]
    bus.publish(Knock(None))
    assert seen == sorted(range(len(ranks)), key=lambda index: (ranks[index], index))
    for number, state in changes if subscriptions else ():
        bring(subscriptions[number % len(subscriptions)], state)
    seen.clear()
    bus.publish(Knock(None))
    active = [index for index, subscription in enumerate(subscriptions) if subscription.state == "active"]
    assert seen == sorted(active, key=lambda index: (ranks[index], index))


# Isolation


class Stop(Propagate):
    """What a listener raises to steer."""


GRAVITY: tuple[type[BaseException], ...] = (KeyboardInterrupt, ValueError, Stop)  # the gravest first


@given(
    st.lists(st.tuples(st.sampled_from([None, *GRAVITY]), st.booleans()), max_size=8),
    st.booleans(),
    st.sampled_from([Knock, Tick]),
)
def test_no_error_hides_an_event(
    plan: list[tuple[type[BaseException] | None, bool]],
    strict: bool,  # noqa: FBT001  a parameter of the test
    event_type: type[Knock | Tick],
) -> None:
    """Whichever listeners raise whatever: each gets the event once, and the publisher gets the gravest error."""
    bus, seen, raised = EventBus(strict=strict), list[int](), list[type[BaseException]]()

    def listener(index: int, error: type[BaseException] | None) -> Callable[[Event], None]:
        def listen(_event: Event) -> None:
            seen.append(index)
            if error is not None:
                raise error

        return listen

    for index, (error, critical) in enumerate(plan):
        bus.subscribe(event_type, listener(index, error), on_error="raise" if critical else "isolate", name=str(index))
        if error is not None and (strict or critical or error is not ValueError):
            raised.append(error)
    caught = None
    try:
        bus.publish(event_type(None))
    except BaseException as error:
        caught = error
    assert seen == list(range(len(plan)))
    assert type(caught) is (min(raised, key=GRAVITY.index) if raised else type(None))
    assert len(getattr(caught, "__notes__", ())) == max(0, len(raised) - 1)
    failed = {row.name for row in bus.statistics() if row.failed}
    assert failed == {str(index) for index, (error, _) in enumerate(plan) if error is ValueError}


# Balance

Deed = tuple[str, int]
"""What a listener does when it is called, and to whom."""

deeds = st.tuples(
    st.sampled_from(["nothing", "fail", "publish", "publish", "active", "paused", "cancelled", "mute", "close"]),
    numbers,
)


@dataclass(eq=False)
class Member:
    """One bus of a family, with what is expected of its accounts, by the listener's name."""

    bus: EventBus
    lineage: tuple[EventBus, ...]
    mutes: list[ExitStack] = field(default_factory=list)
    offered: Counter[str] = field(default_factory=Counter)
    called: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)

    def toggle(self) -> None:
        """Mute the bus, once more or for the first time, or take that back."""
        if len(self.mutes) == 2:
            self.mutes.pop().close()
        else:
            self.mutes.append(ExitStack())
            self.mutes[-1].enter_context(self.bus.muted())


class Balance(RuleBasedStateMachine):
    """A parent and two children on which everything happens that may, also from inside of listeners.

    An event's source is the member of the family that publishes it. A witness, which runs before all others, writes
    down who is to get the event, and each listener that it was called: the accounts must say the same.
    """

    @initialize()
    def found(self) -> None:
        """Make the buses and their witnesses."""
        parent = EventBus()
        children = EventBus(parent), EventBus(parent)
        self.family = [Member(parent, (parent,)), *(Member(child, (child, parent)) for child in children)]
        self.subscriptions: list[tuple[Member, Subscription[Any]]] = []
        self.receivers: list[tuple[Member, type[Event], Callable[..., None]]] = []
        self.budget = 0
        for member in self.family:
            for event_type in EVENTS:
                member.bus.subscribe(event_type, self.witness(member), priority=FIRST, name="witness")

    @rule(
        number=numbers,
        event_type=st.sampled_from(EVENTS),
        deed=deeds,
        priority=priorities,
        every=st.sampled_from([1, 1, 1, 2, 3]),
        critical=st.booleans(),
    )
    def subscribe(
        self, number: int, event_type: type[Event], deed: Deed, priority: float, every: int, *, critical: bool
    ) -> None:
        """Subscribe a listener, wherever that is open."""
        member, name = self.family[number % 3], f"listener {len(self.subscriptions)}"
        if not member.bus.closed:
            subscription = member.bus.subscribe(
                event_type,
                self.listener(name, deed),
                priority=priority,
                every=every,
                on_error="raise" if critical else "isolate",
                name=name,
            )
            self.subscriptions.append((member, subscription))

    @rule(number=numbers, event_type=st.sampled_from(EVENTS), deed=deeds)
    def connect(self, number: int, event_type: type[Event], deed: Deed) -> None:
        """Connect a plain blinker receiver."""
        member, listen = self.family[number % 3], self.listener("plain", deed)

        class Plain:
            def __call__(self, _source: object, event: Any) -> None:
                listen(event)

        Plain.__module__, Plain.__qualname__ = "", "plain"
        member.bus.signal(event_type).connect(receiver := Plain())
        self.receivers.append((member, event_type, receiver))

    @rule(number=numbers)
    def disconnect(self, number: int) -> None:
        """Disconnect a plain receiver, or let it die."""
        if self.receivers:
            member, event_type, receiver = self.receivers.pop(number % len(self.receivers))
            if number % 2:
                member.bus.signal(event_type).disconnect(receiver)

    @rule(number=numbers, times=st.integers(1, 70))
    def publish(self, number: int, times: int) -> None:
        """Publish some events on one of the buses."""
        for _ in range(times):
            self.budget = 30  # events that one of them may cause
            with suppress(ValueError):
                self.do(("publish", number))

    @rule(deed=deeds)
    def do_so(self, deed: Deed) -> None:
        """Do from outside what listeners do."""
        with suppress(ValueError):
            self.do(deed)

    @rule()
    def unmute(self) -> None:
        """Take all muting back."""
        for member in self.family:
            while member.mutes:
                member.mutes.pop().close()

    @invariant()
    def balanced(self) -> None:
        """Every account says what happened."""
        every = {subscription.name: subscription.every for _, subscription in self.subscriptions}
        for member in self.family:
            rows = {row.name: row for row in member.bus.statistics() if row.name != "witness"}
            assert set(member.called) <= set(rows)
            for name, row in rows.items():
                assert row.emitted == row.delivered + row.failed + sum(row.dropped.values())
                assert row.delivered + row.failed == member.called[name]
                assert row.failed == member.failed[name]
                assert row.dropped.keys() <= {"paused", "cancelled", "muted", "recursion"}
                foreseen = member.offered if every.get(name) == 1 else member.called
                assert row.emitted - row.dropped.get("recursion", 0) == foreseen[name]

    def witness(self, member: Member) -> Callable[[Any], None]:
        """Return a listener that writes down who is to get an event of this member."""

        def listen(event: Any) -> None:
            if event.source is member:
                member.offered.update(
                    subscription.name
                    for owner, subscription in self.subscriptions
                    if owner.bus in member.lineage and not owner.mutes
                    if subscription.event_type is type(event) and subscription.state == "active"
                )

        return listen

    def listener(self, name: str, deed: Deed) -> Callable[[Any], None]:
        """Return a listener that writes down that it was called, and does something."""

        def listen(event: Any) -> None:
            event.source.called[name] += 1
            try:
                self.do(deed)
            except ValueError:
                event.source.failed[name] += 1
                raise

        return listen

    def do(self, deed: Deed) -> None:
        """Do what a listener may do."""
        kind, number = deed
        member = self.family[number % 3]
        if kind == "fail":
            raise ValueError
        if kind == "publish" and self.budget:
            self.budget -= 1
            member.bus.publish(EVENTS[number // 3 % 3](member))
        elif kind in ("active", "paused", "cancelled") and self.subscriptions:
            bring(self.subscriptions[number % len(self.subscriptions)][1], kind)
        elif kind == "mute":
            member.toggle()
        elif kind == "close" and number % 7 == 0:
            member.bus.close()


TestBalance = Balance.TestCase
"""Every account balances at every step."""

TestBalance.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
