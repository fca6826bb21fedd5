"""The queue of an asynchronous listener: bounded, in order, exactly counted, whatever overflows."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from bus import Event, EventBus, Subscription
from bus.mailbox import Mailbox
from bus.options import KEPT_SHARE, AsyncOptions, Overflow
from bus.route import Route
from bus.statistics import AsyncTally
from tests.bus.events import PATIENCE, Knock, Ring, Tick, account, balanced

FLOOD = 1_000_000


class Bell:
    """Counts how often it is rung."""

    rung = 0

    def ring(self) -> None:
        """Count."""
        self.rung += 1


class Box:
    """A mailbox without a worker, with one listener that gets knocks, rings and ticks."""

    def __init__(self, **options: Any) -> None:
        self.bell = Bell()
        self.box = Mailbox(AsyncOptions(**options), self.bell)
        self.tally = AsyncTally()
        kinds: tuple[type[Event], ...] = (Knock, Ring, Tick)
        self.subscriptions = {kind: self.subscribe(kind) for kind in kinds}
        self.post = {kind: self.inlet(kind) for kind in self.subscriptions}

    def subscribe(self, kind: type[Event]) -> Subscription[Any]:
        """Return a subscription that no bus knows of."""
        return Subscription(kind, print, set_state=lambda one, state: setattr(one, "state", state), dispatch="async")

    def inlet(self, kind: type[Event]) -> Callable[[Any], None]:
        """Return what posts events of a type."""
        return self.box.inlet(Route(self.subscriptions[kind], self.tally, lambda *_: None))

    def ticks(self, *numbers: int) -> None:
        """Post events that may be dropped."""
        for number in numbers:
            self.post[Tick](Tick(None, number))

    def knocks(self, *numbers: int) -> None:
        """Post events that may not."""
        for number in numbers:
            self.post[Knock](Knock(None, number))

    def taken(self) -> list[int]:
        """Take everything, and deliver it."""
        numbers = []
        while entries := self.box.take():
            numbers += [event.number for _, _, event in entries]
            self.box.settle(None)
        return numbers

    def counted(self) -> int:
        """Return how many events are accounted for."""
        backlog = self.box.backlog(self.tally)
        gone = self.tally.delivered + self.tally.failed + sum(self.tally.dropped.values()) + self.tally.coalesced
        return gone + backlog.pending + backlog.in_flight


def test_events_come_out_in_the_order_in_which_they_went_in() -> None:
    """Those that may be dropped and those that may not are in two queues, and in one order."""
    box = Box()
    box.ticks(1, 2)
    box.knocks(3)
    box.ticks(4)
    box.knocks(5, 6)
    assert box.taken() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("overflow", "left", "coalesced", "dropped"),
    [("drop_oldest", [0, 7, 8, 9], 0, 6), ("drop_newest", [1, 2, 3, 0], 0, 6), ("latest", [0, 9], 8, 0)],
)
def test_overflow_is_as_asked_for(overflow: Overflow, left: list[int], coalesced: int, dropped: int) -> None:
    """Each policy keeps what it says, counts the rest, and never touches what must not be dropped."""
    box = Box(queue_size=3, overflow=overflow)
    box.ticks(*range(1, 5))
    box.knocks(0)
    box.ticks(*range(5, 10))
    assert (box.tally.coalesced, box.tally.dropped["overflow"]) == (coalesced, dropped)
    assert box.counted() == 10
    assert box.taken() == left


def test_latest_keeps_one_of_each_event() -> None:
    """Events are coalesced by what they are, and the newest has its own place in the order."""
    box = Box(overflow="latest")

    class Tock(Tick, frozen=True):
        """Another frequent event."""

    box.subscriptions[Tock] = box.subscribe(Tock)
    tock = box.inlet(Tock)
    for number in range(3):
        box.ticks(number)
        tock(Tock(None, number + 10))
    box.ticks(3)
    assert box.taken() == [12, 3]
    assert box.tally.coalesced == 5


def test_what_must_not_be_dropped_has_a_reserve_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    """It is large, and not without end: beyond it the newest are dropped, with one error that names the listener."""
    box = Box(queue_size=2)
    reserve = KEPT_SHARE * 2
    with caplog.at_level(logging.ERROR):
        box.knocks(*range(reserve + 5))
    assert box.tally.dropped == {"overflow": 5}
    assert box.taken() == list(range(reserve))
    (record,) = caplog.records
    assert "print is so far behind that events are dropped which should not be" in record.getMessage()


def test_bell_rings_only_for_an_idle_worker() -> None:
    """One ring wakes it; until it has found nothing again, posting is an append."""
    box = Box()
    box.ticks(1)
    assert box.bell.rung == 0  # the worker has not looked yet
    assert box.taken() == [1]
    box.ticks(2, 3, 4)
    box.knocks(5)
    assert box.bell.rung == 1


def test_batch_is_of_one_subscription_and_in_order() -> None:
    """Up to so many events that follow each other; another event type ends it."""
    box = Box(batch=3, linger=0)
    box.ticks(1, 2, 3, 4)
    box.knocks(5)
    box.ticks(6)
    batches = []
    while entries := box.box.take():
        batches.append([event.number for _, _, event in entries])
        assert box.box.backlog(box.tally).in_flight == len(entries)
        box.box.settle(None)
    assert batches == [[1, 2, 3], [4], [5], [6]]


def test_batch_is_gathered_for_a_while() -> None:
    """A worker gets nothing before the batch is full, unless somebody is in a hurry; it is rung when it is full."""
    box = Box(batch=3, linger=60)
    assert box.taken() == []
    box.ticks(1)
    assert (box.bell.rung, box.taken()) == (1, [])  # from now on it waits for a while, and not for ever
    assert 0 < (box.box.gathers_for() or 0) <= 60
    box.ticks(2)
    assert (box.bell.rung, box.taken()) == (1, [])
    box.ticks(3)
    assert (box.bell.rung, box.taken()) == (2, [1, 2, 3])
    box.ticks(4)
    box.box.hurry()
    assert box.taken() == [4]
    box.ticks(5)
    assert box.taken() == []  # the hurry is over


@pytest.mark.parametrize(("verb", "reason"), [("cancel", "cancelled"), ("pause", "paused")])
def test_pending_events_go_with_their_subscription(verb: str, reason: str) -> None:
    """What was pending when it was cancelled or paused is dropped; the others of the listener stay."""
    box = Box()
    box.ticks(1, 2)
    box.knocks(3)
    box.ticks(4)
    getattr(box.subscriptions[Tick], verb)()
    if verb == "pause":
        box.subscriptions[Tick].resume()
    assert box.counted() == 4
    assert box.tally.dropped == {reason: 3}
    assert box.taken() == [3]


def test_closed_mailbox_takes_and_gives_nothing() -> None:
    """What is pending is dropped as closed, and so is what comes later."""
    box = Box()
    box.ticks(1, 2)
    box.knocks(3)
    box.box.close()
    box.knocks(4)
    box.ticks(5)
    assert box.taken() == []
    assert box.tally.dropped == {"closed": 5}
    assert box.counted() == 5


def test_finalizer_may_publish_on_the_thread_that_holds_the_lock() -> None:
    """The lock is re-entrant: an event from a finalizer or a signal handler neither waits nor is lost."""
    box = Box()

    class Owner:
        """Publishes when it is collected."""

    owner = Owner()
    finalizer = weakref.finalize(owner, box.ticks, 2)
    box.ticks(1)
    with box.box.holding():
        del owner
    assert not finalizer.alive
    assert box.taken() == [1, 2]


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest", "latest"])
def test_flood_is_counted_exactly_and_bounded(overflow: Overflow) -> None:
    """Of a flood on a queue of 1024 every event is accounted for, and never more than that are pending."""
    bus, seen, sizes = EventBus(), list[int](), set[int]()
    started, free = threading.Event(), threading.Event()

    def listen(event: Tick) -> None:
        started.set()
        free.wait(PATIENCE)
        seen.append(event.number)

    bus.subscribe(Tick, listen, dispatch="async", overflow=overflow, name="slow", timeout=None)
    channel = bus.channel(Tick)
    channel.emit(Tick(None, 0))
    assert started.wait(PATIENCE)
    for number in range(1, FLOOD):
        channel.emit(Tick(None, number))
        if number % 50_000 == 0:
            row = account(bus, "slow")
            assert balanced(row)
            sizes.add(row.pending)
    free.set()
    assert bus.drain(PATIENCE)
    row = account(bus, "slow")
    assert balanced(row)
    assert (row.emitted, row.delivered, row.pending) == (FLOOD, len(seen), 0)
    lost = FLOOD - len(seen)
    expected: dict[Overflow, tuple[list[int], int, dict[str, int], set[int]]] = {
        "drop_oldest": ([0, *range(FLOOD - 1024, FLOOD)], 0, {"overflow": lost}, {1024}),
        "drop_newest": ([*range(1025)], 0, {"overflow": lost}, {1024}),
        "latest": ([0, FLOOD - 1], lost, {}, {1}),
    }
    assert (seen, row.coalesced, row.dropped, sizes) == expected[overflow]
    bus.close()


def test_posting_from_many_threads_loses_nothing() -> None:
    """Appending takes no lock, and each event is still delivered or counted once."""
    bus, seen = EventBus(), list[int]()
    bus.subscribe(Tick, lambda event: seen.append(event.number), dispatch="async", queue_size=50, name="busy")
    bus.subscribe(Knock, lambda event: seen.append(event.number), dispatch="async", queue_size=1000, name="kept")

    def publish(first: int) -> None:
        for number in range(first, first + 3000):
            bus.publish(Tick(None, number))
            bus.publish(Knock(None, -number))

    threads = [threading.Thread(target=publish, args=(1 + 3000 * index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bus.drain(30)
    busy, kept = account(bus, "busy"), account(bus, "kept")
    assert balanced(busy)
    assert balanced(kept)
    assert (busy.emitted, kept.delivered, kept.dropped) == (12_000, 12_000, {})
    assert len(seen) == len(set(seen)) == busy.delivered + kept.delivered
    bus.close()
