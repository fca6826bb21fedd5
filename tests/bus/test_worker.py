"""How an asynchronous listener is served: in order, on one thread, retried, left alone when broken or hung."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import pytest

from bus import Backoff, Breaker, EventBus, ListenerFailure
from tests.bus.events import PATIENCE, Knock, Ring, Tick, account, balanced, eventually

AT_ONCE: Any = {"retries": 0, "backoff": Backoff(0, 0)}


def test_events_are_delivered_in_order_on_one_other_thread() -> None:
    """Exactly one worker, never a pool: what is bound to a thread, as SQLite is, works."""
    threads, seen = set[int](), list[int]()

    def listen(event: Knock) -> None:
        threads.add(threading.get_ident())
        seen.append(event.number)

    with EventBus() as bus:
        bus.subscribe(Knock, listen, dispatch="async")
        for number in range(200):
            bus.publish(Knock(None, number))
        assert bus.drain(PATIENCE)
    assert seen == list(range(200))
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_failure_of_one_event_is_only_that(caplog: pytest.LogCaptureFixture) -> None:
    """A listener that raises on the fifth of ten events: nine delivered, one failed, the publisher undisturbed."""
    failures, seen = list[ListenerFailure](), list[int]()

    def listen(event: Knock) -> None:
        if event.number == 5:
            raise ValueError("broken")
        seen.append(event.number)

    with EventBus() as bus:
        bus.on_failure = failures.append
        bus.subscribe(Knock, listen, dispatch="async", name="five", **AT_ONCE)
        for number in range(1, 11):
            bus.publish(Knock(None, number))
        assert bus.drain(PATIENCE)
        row = account(bus, "five")
    assert seen == [1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert (row.lane, row.delivered, row.failed, row.retried) == ("async", 9, 1, 0)
    assert balanced(row)
    where = f"{__file__}:{listen.__code__.co_firstlineno + 2}"
    assert row.last_error == f"ValueError: broken ({where})"
    assert [(failure.listener, failure.event, failure.where, failure.count) for failure in failures] == [
        ("five", "knock", where, 1)
    ]
    (record,) = caplog.records
    assert record.exc_info is not None


def test_event_is_tried_again() -> None:
    """A retry that succeeds is a delivery, and counted as a retry."""
    tries = list[int]()

    def listen(event: Knock) -> None:
        tries.append(event.number)
        if len(tries) < 3:
            raise ConnectionError

    with EventBus() as bus:
        bus.subscribe(Knock, listen, dispatch="async", name="flaky", backoff=Backoff(0.001, 0.001))
        bus.publish(Knock(None, 7))
        assert bus.drain(PATIENCE)
        row = account(bus, "flaky")
    assert tries == [7, 7, 7]
    assert (row.delivered, row.failed, row.retried) == (1, 0, 2)


def test_listener_that_always_fails_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    """After five failed events nothing more is tried; waiting for it costs one probe; the account says what is lost."""
    tries = list[int]()

    def listen(event: Knock) -> None:
        tries.append(event.number)
        raise ConnectionError("no server")

    bus = EventBus()
    bus.subscribe(Knock, listen, dispatch="async", name="dead", **AT_ONCE)
    for number in range(20):
        bus.publish(Knock(None, number))
    assert eventually(lambda: account(bus, "dead").state == "broken")
    assert tries == [0, 1, 2, 3, 4]
    assert not bus.drain(PATIENCE)
    assert tries == [0, 1, 2, 3, 4, 5]
    bus.close()
    assert eventually(lambda: not account(bus, "dead").in_flight)
    row = account(bus, "dead")
    assert (row.failed, row.dropped, row.state) == (6, {"breaker": 14}, "cancelled")
    assert balanced(row)
    assert [record.getMessage() for record in caplog.records][1:] == [
        "dead fails again and again: it is left alone, but for a try from time to time"
    ]


def test_listener_recovers() -> None:
    """A probe that succeeds ends the state, somebody is told, and what is pending is delivered."""
    recovered, seen, broken = list[str](), list[int](), [True]

    def listen(event: Knock) -> None:
        if broken[0]:
            raise ConnectionError
        seen.append(event.number)

    with EventBus() as bus:
        bus.on_recovery = recovered.append
        bus.subscribe(Knock, listen, dispatch="async", name="mended", breaker=Breaker(after=2), **AT_ONCE)
        for number in range(6):
            bus.publish(Knock(None, number))
        assert eventually(lambda: account(bus, "mended").state == "broken")
        broken[0] = False
        assert bus.drain(PATIENCE)
        assert account(bus, "mended").state == "active"
    assert (seen, recovered) == ([2, 3, 4, 5], ["mended"])


def test_hung_listener_is_left_alone_until_it_returns() -> None:
    """Its call has failed then, late as it was; the others were served meanwhile, and it is served again."""
    recovered, seen, others = list[str](), list[int](), list[int]()
    free = threading.Event()

    def listen(event: Tick) -> None:
        if not event.number:
            free.wait(PATIENCE)
        seen.append(event.number)

    with EventBus() as bus:
        bus.on_recovery = recovered.append
        bus.subscribe(Tick, listen, dispatch="async", name="hung", timeout=0.05, queue_size=3)
        bus.subscribe(Tick, lambda event: others.append(event.number), dispatch="async", name="other")
        bus.publish(Tick(None, 0))
        assert eventually(lambda: account(bus, "hung").state == "hung")
        for number in range(1, 7):
            bus.publish(Tick(None, number))
        row = account(bus, "hung")
        assert (row.in_flight, row.pending, row.dropped) == (1, 3, {"overflow": 3})
        assert (row.oldest or 0) > 0
        assert balanced(row)
        assert eventually(lambda: len(others) == 7)
        free.set()
        assert bus.drain(PATIENCE)
        row = account(bus, "hung")
    assert seen == [0, 4, 5, 6]
    assert (row.delivered, row.failed, row.state, recovered) == (3, 1, "active", ["hung"])
    assert "HungError: the call took " in (row.last_error or "")
    assert balanced(row)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_worker_survives_an_exit(error: type[BaseException]) -> None:
    """What would end the process, raised on a listener's thread, is a failure of that listener."""

    def listen(event: Knock) -> None:
        if not event.number:
            raise error

    with EventBus() as bus:
        bus.subscribe(Knock, listen, dispatch="async", name="leaving")
        for number in range(3):
            bus.publish(Knock(None, number))
        assert bus.drain(PATIENCE)
        row = account(bus, "leaving")
    assert (row.delivered, row.failed, row.retried) == (2, 1, 0)


def test_batch_is_delivered_and_fails_as_a_whole() -> None:
    """`fn` gets lists, and each of their events is counted."""
    batches = list[list[int]]()

    def listen(events: list[Tick]) -> None:
        batches.append([event.number for event in events])
        if len(batches) == 2:
            raise ValueError

    with EventBus() as bus:
        bus.subscribe(Tick, listen, dispatch="async", name="batches", batch=4, linger=60, retries=0)
        for number in range(10):
            bus.publish(Tick(None, number))
        assert eventually(lambda: len(batches) == 2)
        assert bus.drain(PATIENCE)
        row = account(bus, "batches")
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert (row.delivered, row.failed) == (6, 4)
    assert balanced(row)


def test_batch_does_not_wait_for_ever() -> None:
    """What was gathered within `linger` seconds is delivered."""
    seen = list[int]()
    with EventBus() as bus:
        bus.subscribe(Tick, lambda events: seen.append(len(events)), dispatch="async", batch=100, linger=0.05)
        bus.publish(Tick(None))
        bus.publish(Tick(None))
        assert eventually(lambda: sum(seen) == 2)


def test_listener_beside_a_publisher_may_nest_and_change_subscriptions() -> None:
    """It may publish, subscribe others, and unsubscribe itself: at once, though more was pending."""
    bus, seen = EventBus(), list[str]()

    def listen(event: Knock) -> None:
        seen.append(f"knock {event.number}")
        bus.publish(Ring(None, event.number))
        bus.subscribe(Ring, lambda event: seen.append(f"late ring {event.number}"), dispatch="async", owner=owner)
        once.cancel()

    owner, gate = object(), threading.Event()
    bus.subscribe(Tick, lambda _event: gate.wait(PATIENCE), dispatch="async", owner=owner)
    once = bus.subscribe(Knock, listen, dispatch="async", owner=owner, name="once")
    bus.publish(Tick(None))
    for number in range(3):
        bus.publish(Knock(None, number))
    gate.set()
    assert bus.drain(PATIENCE)
    bus.publish(Ring(None, 9))
    assert bus.drain(PATIENCE)
    assert seen == ["knock 0", "late ring 9"]
    row = account(bus, "once")
    assert (row.delivered, row.dropped, row.state) == (1, {"cancelled": 2}, "cancelled")
    assert balanced(row)
    bus.close()


def test_recursion_is_bounded_by_the_queue() -> None:
    """A listener that publishes what it listens to goes on for as long as somebody lets it, in bounded memory."""
    bus = EventBus()

    def listen(event: Tick) -> None:
        bus.publish(Tick(None, event.number + 1))
        bus.publish(Tick(None, event.number + 1))

    bus.subscribe(Tick, listen, dispatch="async", name="loop", queue_size=10)
    bus.publish(Tick(None))
    assert eventually(lambda: account(bus, "loop").dropped.get("overflow", 0) > 50)
    assert account(bus, "loop").pending <= 12  # two may be on their way
    bus.close()
    assert eventually(lambda: balanced(account(bus, "loop")))


def test_slow_listener_does_not_slow_the_publisher(caplog: pytest.LogCaptureFixture) -> None:
    """Beside a listener that takes 100 ms per event, emitting takes next to nothing of a step of 5 ms."""
    caplog.set_level(logging.CRITICAL)
    costs = []
    with EventBus() as bus:
        bus.subscribe(Tick, lambda _event: time.sleep(0.1), dispatch="async", name="slow", queue_size=5)
        for number in range(100):
            start = time.perf_counter()
            bus.publish(Tick(None, number))
            costs.append(time.perf_counter() - start)
            time.sleep(0.005)
        assert sorted(costs)[len(costs) // 2] < 0.1 * 0.005
        row = account(bus, "slow")
    assert row.dropped["overflow"] > 50
    assert (row.p50 or 0) >= 0.1
