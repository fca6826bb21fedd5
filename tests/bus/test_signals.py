"""Plain blinker receivers on a bus's signals: served like listeners, held as they were connected."""

from __future__ import annotations

import dataclasses
import functools
import gc
from collections.abc import Callable
from typing import Any

import pytest
from blinker import Signal

from bus import Event, EventBus, ListenerFailure, SubscriptionError
from bus.signals import SubscriptionTable
from tests.bus.events import Knock, Ring, account


class Trainer:
    """What publishes; receivers get it as the sender."""


class Plain:
    """Receivers that are methods."""

    def __init__(self, seen: list[int]) -> None:
        self.seen = seen

    def receive(self, _source: object, event: Knock) -> None:
        """Receive."""
        self.seen.append(event.number)

    async def receive_later(self, _source: object, event: Knock) -> None:
        """Be a coroutine function."""


@dataclasses.dataclass
class Equal:
    """A receiver that equals others of its kind."""

    seen: list[object] = dataclasses.field(default_factory=list, compare=False)

    def __call__(self, source: object, event: Knock) -> None:
        """Receive."""
        self.seen.append(source)


def fail(_source: object, event: Knock) -> None:
    """Be the receiver that fails."""
    raise ValueError("broken")


WHERE = f"{__file__}:{fail.__code__.co_firstlineno + 2}"


# Being served


def test_receiver_gets_the_source_and_the_event() -> None:
    """A receiver is called as `receiver(source, event=event)`."""
    bus, seen, trainer = EventBus(), list[tuple[object, Event]](), Trainer()

    def receive(source: object, *, event: Event) -> None:
        seen.append((source, event))

    assert isinstance(bus.signal("knock"), Signal)
    bus.signal("knock").connect(receive)
    bus.publish(event := Knock(trainer))
    assert seen == [(trainer, event)]


@pytest.mark.parametrize("early", [True, False])
def test_receiver_may_connect_before_and_after_the_channel_exists(early: bool) -> None:  # noqa: FBT001  a parameter of the test
    """It does not matter whether somebody published already."""
    bus, seen = EventBus(), list[int]()
    channel = None if early else bus.channel(Knock)
    bus.signal(Knock).connect(receive := Plain(seen).receive)
    assert (channel or bus.channel(Knock)).active
    bus.publish(Knock(None, 1))
    assert seen == [1]
    bus.signal(Knock).disconnect(receive)
    assert not bus.channel(Knock).active


def test_receiver_stands_in_line_with_the_listeners() -> None:
    """A receiver has priority 50, and its turn among equals is that of its connection."""
    bus, seen = EventBus(), list[str]()
    bus.subscribe(Knock, lambda _event: seen.append("late"), priority=51)
    bus.subscribe(Knock, lambda _event: seen.append("before"))
    bus.signal(Knock).connect(receive := lambda _source, event: seen.append("plain"))
    bus.subscribe(Knock, lambda _event: seen.append("after"))
    bus.subscribe(Knock, lambda _event: seen.append("early"), priority=49)
    bus.publish(Knock(None))
    assert seen == ["early", "before", "plain", "after", "late"]
    del receive


def test_receiver_of_the_parent_hears_the_children() -> None:
    """A receiver on a parent's signal is served by each child, and each has an account of its own."""
    parent, seen = EventBus(), list[int]()
    children = EventBus(parent), EventBus(parent)
    parent.signal(Knock).connect(receive := Plain(seen).receive)
    for number, child in enumerate(children):
        child.publish(Knock(None, number))
        assert account(child, f"{__name__}:Plain.receive").delivered == 1
    assert seen == [0, 1]
    del receive


def test_receiver_connected_twice_is_served_once() -> None:
    """Connecting again changes nothing, as in blinker; so it is for a method, which is a new object each time."""
    bus, seen = EventBus(), list[int]()
    plain = Plain(seen)
    bus.signal(Knock).connect(plain.receive)
    bus.signal(Knock).connect(plain.receive)
    bus.publish(Knock(None, 1))
    assert seen == [1]
    bus.signal(Knock).disconnect(plain.receive)
    bus.publish(Knock(None, 2))
    assert seen == [1]


def test_receivers_are_told_apart_by_identity() -> None:
    """Two receivers that equal each other are two, with their own senders, and go separately."""
    bus, one, two, trainer = EventBus(), Equal(), Equal(), Trainer()
    bus.signal(Knock).connect(one, sender=trainer)
    bus.signal(Knock).connect(two)
    bus.publish(Knock(None))
    bus.publish(Knock(trainer))
    assert (one.seen, two.seen) == ([trainer], [None, trainer])
    bus.signal(Knock).disconnect(two)
    bus.publish(Knock(trainer))
    assert (len(one.seen), len(two.seen)) == (2, 2)


def test_receiver_of_one_sender_hears_that_one() -> None:
    """Blinker's choice of senders holds; what is for others is not accounted to the receiver."""
    bus, seen = EventBus(), list[object]()
    one, two, three = Trainer(), Trainer(), Trainer()

    def receive(source: object, event: Event) -> None:
        seen.append(source)

    signal = bus.signal(Knock)
    signal.connect(receive, sender=one)
    signal.connect(receive, sender=two)
    for trainer in (one, two, three):
        bus.publish(Knock(trainer))
    assert seen == [one, two]
    (row,) = bus.statistics()
    assert (row.emitted, row.delivered, row.dropped) == (2, 2, {})
    signal.disconnect(receive, sender=one)
    bus.publish(Knock(one))
    bus.publish(Knock(two))
    assert seen == [one, two, two]


def test_connect_via_and_connected_to_work() -> None:
    """Blinker's other ways to connect are served as well."""
    bus, seen, trainer = EventBus(), list[str](), Trainer()

    @bus.signal(Knock).connect_via(trainer)
    def receive(_source: object, event: Event) -> None:
        seen.append("via")

    with bus.signal(Knock).connected_to(lambda _source, event: seen.append("to")):
        bus.publish(Knock(trainer))
    bus.publish(Knock(trainer))
    assert seen == ["via", "to", "via"]


def test_muted_signal_silences_plain_receivers_only() -> None:
    """While blinker mutes a signal its receivers get nothing; the bus's listeners do."""
    bus, seen = EventBus(), list[str]()
    bus.signal(Knock).connect(receive := lambda _source, event: seen.append("plain"))
    bus.subscribe(Knock, lambda _event: seen.append("listener"))
    with bus.signal(Knock).muted():
        bus.publish(Knock(None))
    assert seen == ["listener"]
    bus.publish(Knock(None))
    assert seen == ["listener", "plain", "listener"]
    del receive


def test_muted_bus_silences_plain_receivers_too() -> None:
    """While a bus is muted, nobody gets anything from it."""
    bus, seen = EventBus(), list[int]()
    bus.signal(Knock).connect(receive := Plain(seen).receive)
    with bus.muted():
        bus.publish(Knock(None, 1))
    bus.publish(Knock(None, 2))
    assert seen == [2]
    del receive


# Being held


def test_weak_receiver_stays_weak() -> None:
    """A receiver that dies is gone at once: nobody is called, and the channel knows that nobody listens."""
    bus, seen = EventBus(), list[int]()

    def connect() -> Callable[..., None]:
        def receive(_source: object, event: Knock) -> None:
            seen.append(event.number)

        bus.signal(Knock).connect(receive)
        return receive

    receive = connect()
    channel = bus.channel(Knock)
    bus.publish(Knock(None, 1))
    del receive
    gc.collect()
    assert not channel.active
    bus.publish(Knock(None, 2))
    assert seen == [1]
    assert [row.state for row in bus.statistics()] == ["cancelled"]


def test_weak_method_lives_as_long_as_its_object() -> None:
    """A bound method, which nobody holds, is served while its object lives."""
    bus, seen = EventBus(), list[int]()
    plain = Plain(seen)
    bus.signal(Knock).connect(plain.receive)
    gc.collect()
    bus.publish(Knock(None, 1))
    del plain
    gc.collect()
    assert not bus.channel(Knock).active
    assert seen == [1]


def test_strong_receiver_is_held() -> None:
    """A receiver connected with `weak=False` needs no other owner, until it is disconnected."""
    bus, seen = EventBus(), list[int]()
    bus.signal(Knock).connect(Plain(seen).receive, weak=False)
    gc.collect()
    bus.publish(Knock(None, 1))
    assert seen == [1]


def test_builtin_may_be_connected() -> None:
    """A builtin function, which looks like a method, is held like a function."""
    bus = EventBus()
    bus.signal(Knock).connect(print)
    assert bus.channel(Knock).active
    bus.signal(Knock).disconnect(print)
    assert not bus.channel(Knock).active


def test_sender_that_dies_takes_its_receiver_along() -> None:
    """A receiver of a sender that is gone is called no more, also not for another at the same address."""
    bus, seen = EventBus(), list[int]()
    trainer = Trainer()
    bus.signal(Knock).connect(receive := Plain(seen).receive, sender=trainer)
    bus.publish(Knock(trainer, 1))
    del trainer
    gc.collect()
    for number in range(2, 20):
        bus.publish(Knock(Trainer(), number))
    assert seen == [1]
    del receive


def test_receivers_may_die_while_others_do() -> None:
    """A death that is dealt with in the midst of another's is no trouble."""

    def changed(_name: str) -> None:
        changes.append(len(owners))
        owners.clear()

    def connect(count: int) -> list[Plain]:
        plains = [Plain([]) for _ in range(count)]
        for plain in plains:
            table.signal("knock").connect(plain.receive)
        return plains

    owners, changes = list[Plain](), list[int]()
    table = SubscriptionTable(changed, lambda _listener: None)
    together = connect(2)
    later = connect(1)
    together[0].seen.append(together)  # type: ignore[arg-type]  # a cycle, so that the collector ends both at once
    changes.clear()
    owners.extend(later)
    del later, together
    gc.collect()
    assert changes == [1, 0, 0]
    assert table.listeners("knock") == []


# Changes during a dispatch


def test_disconnecting_acts_at_once() -> None:
    """A receiver that is disconnected in the middle of a dispatch does not get the event, nor is it accounted."""
    bus, seen = EventBus(), list[int]()
    receive = Plain(seen).receive
    bus.subscribe(Knock, lambda _event: bus.signal(Knock).disconnect(receive), priority=1)
    bus.signal(Knock).connect(receive)
    bus.publish(Knock(None))
    assert seen == []
    assert account(bus, f"{__name__}:Plain.receive").emitted == 0


def test_receiver_that_dies_during_the_dispatch_is_left_out() -> None:
    """A receiver whose last owner lets it go while an event is delivered does not get it."""
    bus, seen = EventBus(), list[int]()
    owners = [Plain(seen)]
    bus.subscribe(Knock, lambda _event: owners.clear(), priority=1)
    bus.signal(Knock).connect(owners[0].receive)
    bus.publish(Knock(None))
    assert seen == []


def test_connecting_acts_with_the_next_event() -> None:
    """A receiver that is connected in the middle of a dispatch does not get the current event."""
    bus, seen = EventBus(), list[int]()
    receive = Plain(seen).receive
    bus.subscribe(Knock, lambda _event: bus.signal(Knock).connect(receive), priority=1)
    bus.publish(Knock(None, 1))
    bus.publish(Knock(None, 2))
    assert seen == [2]


# Failing


def test_receiver_that_fails_is_isolated_and_attributed(caplog: pytest.LogCaptureFixture) -> None:
    """A receiver that raises hides nothing from the others; its own name and line are told."""
    bus, seen, told = EventBus(), list[Event](), list[ListenerFailure]()
    bus.on_failure = told.append
    bus.signal(Knock).connect(fail)
    bus.subscribe(Knock, seen.append)
    bus.publish(Knock(None))
    bus.publish(Knock(None))
    assert len(seen) == 2
    assert [record.getMessage() for record in caplog.records] == [f"{__name__}:fail failed on knock at {WHERE}"]
    assert [(failure.listener, failure.where, failure.count) for failure in told] == [
        (f"{__name__}:fail", WHERE, 1),
        (f"{__name__}:fail", WHERE, 2),
    ]
    assert account(bus, f"{__name__}:fail").failed == 2


@pytest.mark.parametrize("partial", [False, True])
def test_coroutine_function_is_refused_when_connecting(partial: bool) -> None:  # noqa: FBT001  a parameter of the test
    """A coroutine function cannot be called in step, so it is refused where it is connected, and is not connected."""
    bus = EventBus()
    receive: Any = Plain([]).receive_later
    with pytest.raises(SubscriptionError, match=r"Plain\.receive_later is a coroutine function"):
        bus.signal(Knock).connect(functools.partial(receive) if partial else receive, weak=False)
    assert not bus.signal(Knock).receivers
    assert not bus.channel(Knock).active


def test_signals_of_two_events_are_two() -> None:
    """Each event has its own signal on each bus."""
    bus = EventBus()
    assert bus.signal(Knock) is bus.signal("knock")
    assert bus.signal(Knock) is not bus.signal(Ring)
    assert bus.signal(Knock) is not EventBus(bus).signal(Knock)
