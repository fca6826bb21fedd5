"""Who listens to what, on one bus, on a family of buses and on several threads."""

from __future__ import annotations

import gc
import itertools
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest

from bus import ClosedError, Event, EventBus, SubscriptionError, UnknownEventError, default_bus
from bus.subscribing import tables
from tests.bus.events import Knock, Ring, Tick, account

PATIENCE = 20  # seconds that a thread may take on a busy machine


class Base(Event, frozen=True):
    """A base of events, and no event type itself."""

    name: ClassVar[str] = ""


def do_nothing(_event: Event) -> None:
    """Listen."""


@contextmanager
def running(*targets: Callable[[], object]) -> Iterator[None]:
    """Run functions on threads of their own, and see them end."""
    threads = [threading.Thread(target=target, daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


@contextmanager
def switching_often() -> Iterator[None]:
    """Have the interpreter switch threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


# Names and types


def test_event_is_named_by_its_type_or_its_name() -> None:
    """Subscribing by type, by name and by decorator is the same."""
    bus, seen = EventBus(), list[str]()
    bus.subscribe(Knock, lambda _event: seen.append("type"))
    bus.subscribe("knock", lambda _event: seen.append("name"))
    bus.on(Knock)(lambda _event: seen.append("decorator"))
    bus.on("knock", priority=1)(lambda _event: seen.append("decorator by name"))
    bus.publish(Knock(None))
    assert seen == ["decorator by name", "type", "name", "decorator"]


def test_decorator_gives_the_function_back() -> None:
    """A decorated function stays what it is."""

    def listener(event: Knock) -> int:
        return event.number

    assert EventBus().on(Knock, every=2)(listener) is listener


@pytest.mark.parametrize(("wrong", "nearest"), [("knok", "knock"), ("on_knock", "knock"), ("zzzzzzzzzz", None)])
def test_wrong_name_fails_with_the_nearest(wrong: str, nearest: str | None) -> None:
    """A name that no event has fails when subscribing, and says which was probably meant and which there are."""
    bus = EventBus()
    for attempt in (
        lambda: bus.subscribe(wrong, do_nothing),
        lambda: bus.on(wrong)(do_nothing),
        lambda: bus.signal(wrong),
    ):
        with pytest.raises(UnknownEventError) as caught:
            attempt()
        assert caught.value.name == wrong
        assert caught.value.nearest == nearest
        assert "knock" in caught.value.known
        assert str(caught.value).startswith(f"unknown event {wrong!r}")
        assert ("; did you mean 'knock'? (known events: " in str(caught.value)) is (nearest is not None)


@pytest.mark.parametrize("wrong", [Event, Base, int, Knock(None), None])
def test_what_is_no_event_type_cannot_be_subscribed_to(wrong: Any) -> None:
    """An event, another type, and a mere base of events are refused, since nothing would ever come of it."""
    with pytest.raises(SubscriptionError, match="an event type or its name was expected, got "):
        EventBus().subscribe(wrong, do_nothing)


@pytest.mark.parametrize("wrong", [Event(None), Base(None), "knock"])
def test_what_is_no_event_cannot_be_published(wrong: Any) -> None:
    """Publishing something else fails at once."""
    with pytest.raises(SubscriptionError, match="an event type or its name was expected, got "):
        EventBus().publish(wrong)


def test_two_types_of_one_name_cannot_share_a_bus() -> None:
    """Listeners are found by name, so a second type of that name would get them what they did not ask for."""

    def define() -> type[Event]:
        class Twin(Event, frozen=True):
            pass

        return Twin

    bus = EventBus()
    bus.publish(define()(None))
    with pytest.raises(SubscriptionError, match="two event types are named 'twin'"):
        bus.channel(define())


def test_channel_is_always_the_same() -> None:
    """A publisher may keep its channel."""
    bus = EventBus()
    assert bus.channel(Knock) is bus.channel(Knock)
    assert bus.channel(Knock) is not bus.channel(Ring)  # type: ignore[comparison-overlap]  # as it should be


def test_subscriptions_are_listed_in_the_order_of_calling() -> None:
    """The list has the bus's and its parents' subscriptions, also paused and muted ones, and no cancelled one."""
    parent = EventBus()
    child = EventBus(parent)
    late = child.subscribe(Knock, do_nothing, priority=90)
    paused = parent.subscribe(Ring, do_nothing)
    paused.pause()
    early = parent.subscribe(Knock, do_nothing, priority=10)
    child.subscribe(Knock, do_nothing).cancel()
    child.signal(Knock).connect(do_nothing)
    with child.muted():
        assert child.subscriptions() == [early, paused, late]
    assert parent.subscriptions() == [early, paused]


# Families


def test_child_serves_its_parents_listeners_too() -> None:
    """What a child publishes reaches its own and its parents' listeners, in one order; not the other way round."""
    grandparent = EventBus()
    parent = EventBus(grandparent)
    child = EventBus(parent)
    seen = list[str]()
    child.subscribe(Knock, lambda _event: seen.append("child"))
    grandparent.subscribe(Knock, lambda _event: seen.append("grandparent"))
    parent.subscribe(Knock, lambda _event: seen.append("parent first"), priority=1)
    child.publish(Knock(None))
    assert seen == ["parent first", "child", "grandparent"]
    seen.clear()
    parent.publish(Knock(None))
    assert seen == ["parent first", "grandparent"]


def test_siblings_share_nothing_but_their_parent() -> None:
    """Two trainers' buses do not hear of each other, nor do their accounts of a common listener."""
    parent = EventBus()
    one, two = EventBus(parent), EventBus(parent)
    seen = list[tuple[str, int]]()
    parent.subscribe(Knock, lambda event: seen.append(("parent", event.number)), every=2, name="common")
    one.subscribe(Knock, lambda event: seen.append(("one", event.number)))
    two.subscribe(Knock, lambda event: seen.append(("two", event.number)))
    for number in (1, 2):
        one.publish(Knock(None, number))
    two.publish(Knock(None, 3))
    assert seen == [("one", 1), ("parent", 2), ("one", 2), ("two", 3)]
    assert (account(one, "common").emitted, account(two, "common").emitted) == (1, 0)


def test_forgotten_child_leaves_its_parent() -> None:
    """A bus that nobody has any more is freed, though its parent lives on."""
    parent = EventBus()
    child = EventBus(parent)
    parent.subscribe(Knock, do_nothing)
    child.subscribe(Knock, do_nothing)
    child.publish(Knock(None))
    alive = weakref.ref(child)
    del child
    gc.collect()
    assert alive() is None
    assert not parent._children
    parent.subscribe(Knock, do_nothing)


def test_channel_keeps_its_bus() -> None:
    """Who publishes through a channel need not keep the bus."""
    seen = list[Event]()
    bus = EventBus()
    bus.subscribe(Knock, seen.append)
    channel = bus.channel(Knock)
    del bus
    gc.collect()
    channel.emit(Knock(None))
    assert len(seen) == 1


def test_default_bus_is_a_bus_like_any() -> None:
    """The process has a bus without asking, and it can be a parent."""
    seen = list[Event]()
    with default_bus.subscribe(Knock, seen.append):
        EventBus(default_bus).publish(Knock(None))
        EventBus().publish(Knock(None))
    assert len(seen) == 1


# Muting and closing


def test_muted_bus_delivers_nothing() -> None:
    """Nothing is delivered while any of the nested contexts lasts, also when one ends in an error."""
    bus, seen = EventBus(), list[int]()
    bus.subscribe(Knock, lambda event: seen.append(event.number), name="listener")
    with bus.muted():
        with pytest.raises(KeyError), bus.muted():
            raise KeyError
        bus.publish(Knock(None, 1))
        bus.subscribe(Knock, lambda event: seen.append(-event.number))
    bus.publish(Knock(None, 2))
    assert seen == [2, -2]
    assert account(bus, "listener").emitted == 1


def test_muted_parent_keeps_its_own_listeners_silent() -> None:
    """While a parent is muted its listeners hear nothing from a child, whose own listeners do."""
    parent = EventBus()
    child = EventBus(parent)
    seen = list[str]()
    parent.subscribe(Knock, lambda _event: seen.append("parent"))
    child.subscribe(Knock, lambda _event: seen.append("child"))
    with parent.muted():
        child.publish(Knock(None))
        parent.publish(Knock(None))
        newborn = EventBus(parent)
        newborn.publish(Knock(None))
    assert seen == ["child"]
    with child.muted():
        child.publish(Knock(None))
        EventBus(child).publish(Knock(None))
    assert seen == ["child", "parent"]


def test_closed_bus_is_silent() -> None:
    """Closing cancels what the bus holds and leaves the parent; again is no error, publishing is harmless."""
    parent, seen = EventBus(), list[Event]()
    parent.subscribe(Knock, seen.append)
    with EventBus(parent) as child:
        subscription = child.subscribe(Knock, seen.append, name="own")
        signal = child.signal(Knock)
        signal.connect(plain := lambda _source, event: seen.append(event))
        child.publish(Knock(None))
    assert len(seen) == 3
    child.close()
    child.publish(Knock(None))
    assert len(seen) == 3
    assert not child.channel(Knock).active
    assert subscription.state == "cancelled"
    assert not signal.receivers
    assert account(child, "own").delivered == 1
    assert not parent._children
    parent.publish(Knock(None))
    assert len(seen) == 4
    signal.connect(plain)
    child.publish(Knock(None))
    assert len(seen) == 4


def test_closed_bus_takes_no_subscription() -> None:
    """Subscribing to a closed bus is an error, in both forms."""
    bus = EventBus()
    bus.close()
    with pytest.raises(ClosedError, match="closed"):
        bus.subscribe(Knock, do_nothing)
    with pytest.raises(ClosedError, match="closed"):
        bus.on(Knock)(do_nothing)


def test_closed_parent_leaves_its_children_alone() -> None:
    """When a parent closes, its child's own listeners still hear what the child publishes."""
    grandparent, seen = EventBus(), list[str]()
    parent = EventBus(grandparent)
    child = EventBus(parent)
    grandparent.subscribe(Knock, lambda _event: seen.append("grandparent"))
    parent.subscribe(Knock, lambda _event: seen.append("parent"))
    child.subscribe(Knock, lambda _event: seen.append("child"))
    parent.close()
    child.publish(Knock(None))
    assert seen == ["child"]


def test_bus_may_be_closed_by_a_listener() -> None:
    """Closing in the middle of a dispatch acts at once: later listeners do not get the event."""
    bus, seen = EventBus(), list[Event]()
    bus.subscribe(Knock, lambda _event: bus.close(), priority=1, name="closing")
    bus.subscribe(Knock, seen.append, name="later")
    bus.publish(Knock(None))
    assert seen == []
    assert account(bus, "closing").delivered == 1
    assert account(bus, "later").dropped == {"cancelled": 1}


# Threads


def test_threads_publish_at_once_each_with_its_own_order() -> None:
    """On every thread the listeners have run, nested events included, when its `publish` returns."""
    bus = EventBus()
    seen: dict[int, list[int]] = {}

    @bus.on(Tick, name="count")
    def count(event: Tick) -> None:
        seen.setdefault(threading.get_ident(), []).append(event.number)
        bus.publish(Ring(None, event.number))

    @bus.on(Ring)
    def answer(event: Ring) -> None:
        seen[threading.get_ident()].append(-event.number)

    complete = list[bool]()

    def publish() -> None:
        mine = threading.get_ident()
        for number in range(1, 501):
            bus.publish(Tick(None, number))
            complete.append(seen[mine][-2:] == [number, -number])

    with switching_often(), running(publish, publish, publish):
        publish()
    assert complete == [True] * 2000
    assert account(bus, "count").delivered == 2000


def test_listener_may_wait_for_another_thread_that_publishes() -> None:
    """While one thread dispatches, another can publish, subscribe and cancel on the same bus."""
    bus, seen = EventBus(), list[int]()

    def elsewhere() -> None:
        bus.publish(Ring(None, 1))
        with bus.subscribe(Ring, lambda event: seen.append(-event.number)):
            bus.publish(Ring(None, 2))

    @bus.on(Knock)
    def wait(_event: Knock) -> None:
        with running(elsewhere):
            pass

    bus.subscribe(Ring, lambda event: seen.append(event.number))
    bus.publish(Knock(None))
    assert seen == [1, 2, -2]


def test_error_reaches_the_thread_that_published() -> None:
    """What a critical listener raises is raised on its own publisher's thread, and on no other."""
    bus, caught = EventBus(strict=True), list[str]()

    @bus.on(Knock)
    def fail_elsewhere(event: Knock) -> None:
        if event.number:
            raise ValueError(str(event.number))

    def publish() -> None:
        with pytest.raises(ValueError, match="7") as raised:
            bus.publish(Knock(None, 7))
        caught.append(str(raised.value))

    bus.publish(Knock(None, 0))
    with running(publish):
        bus.publish(Knock(None, 0))
    assert caught == ["7"]


def test_accounts_are_exact_while_subscriptions_change() -> None:
    """Every listener that came and went while others published has an exact account of its calls."""
    bus = EventBus()
    channel = bus.channel(Tick)
    stop = threading.Event()
    calls = [itertools.count() for _ in range(300)]
    published = [itertools.count() for _ in range(2)]

    def publish(counter: Iterator[int]) -> None:
        while not stop.is_set():
            next(counter)
            channel.emit(Tick(None))

    def come_and_go() -> None:
        for index, counter in enumerate(calls):
            name = f"guest {index}"
            subscription = bus.subscribe(Tick, lambda _event, counter=counter: next(counter), name=name)  # type: ignore[misc]  # the default is for this loop
            if index % 2:
                subscription.pause()
                subscription.resume()
            subscription.cancel()
        stop.set()

    bus.subscribe(Tick, do_nothing, name="resident")
    with switching_often(), running(lambda: publish(published[0]), lambda: publish(published[1])):
        come_and_go()
    assert account(bus, "resident").delivered == sum(next(counter) for counter in published)
    rows = {row.name: row for row in bus.statistics()}
    for index, counter in enumerate(calls):
        row = rows[f"guest {index}"]
        assert row.delivered == next(counter)
        assert min(row.emitted, row.delivered, *row.dropped.values(), 0) == 0


def test_cancelled_stays_cancelled_whoever_resumes() -> None:
    """Cancelling on one thread and resuming on another ends in a cancelled subscription that is gone."""
    bus = EventBus()
    for _ in range(100):
        subscription = bus.subscribe(Knock, do_nothing)
        subscription.pause()
        with switching_often(), running(subscription.resume):
            subscription.cancel()
        assert subscription.state == "cancelled"
    assert not bus.subscriptions()
    assert not bus.channel(Knock).active


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_child_finds_the_bus_unlocked() -> None:
    """A fork while another thread changes subscriptions leaves the child able to use the bus."""
    bus_, locked, forked = EventBus(), threading.Event(), threading.Event()

    def hold() -> None:
        with tables:
            locked.set()
            forked.wait(0.2)

    with running(hold):
        locked.wait(PATIENCE)
        child = os.fork()
        if child == 0:
            free = tables.acquire(timeout=PATIENCE)
            os._exit(0 if free and bus_.subscribe(Knock, do_nothing).state == "active" else 1)
        forked.set()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
