"""Coroutine functions are served on one event loop in the background, and can be cancelled."""

from __future__ import annotations

import asyncio
import threading

import pytest

from bus import BusError, EventBus
from bus.background import LoopBell, until
from tests.bus.events import PATIENCE, Knock, Tick, account, balanced, eventually


def test_coroutines_of_all_buses_share_one_loop() -> None:
    """One daemon thread serves them; each gets its events in order, while others wait."""
    places, seen = set[tuple[int, int]](), dict[str, list[int]]()
    buses = [EventBus(), EventBus()]
    for index, bus in enumerate(buses):

        @bus.on(Knock, name=f"listener {index}")
        async def listen(event: Knock, index: int = index) -> None:
            places.add((threading.get_ident(), id(asyncio.get_running_loop())))
            await asyncio.sleep(0)
            seen.setdefault(f"listener {index}", []).append(event.number)

        for number in range(50):
            bus.publish(Knock(None, number))
    for bus in buses:
        assert bus.drain(PATIENCE)
        bus.close()
    assert seen == {"listener 0": list(range(50)), "listener 1": list(range(50))}
    assert len(places) == 1
    assert threading.get_ident() not in {thread for thread, _ in places}


def test_coroutine_that_takes_too_long_is_cancelled_and_tried_again() -> None:
    """The timeout is for an attempt; the last one decides."""
    ended = list[str]()

    async def listen(_event: Knock) -> None:
        try:
            await asyncio.sleep(PATIENCE)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    with EventBus() as bus:
        bus.subscribe(Knock, listen, name="endless", timeout=0.02, retries=1)
        bus.publish(Knock(None))
        assert bus.drain(PATIENCE)
        row = account(bus, "endless")
    assert ended == ["cancelled"] * 2
    assert (row.failed, row.retried, row.state) == (1, 1, "active")
    assert (row.last_error or "").startswith("TimeoutError: it was cancelled after 0.02 s")


@pytest.mark.parametrize("error", [ValueError, SystemExit, asyncio.CancelledError])
def test_whatever_a_coroutine_raises_the_others_are_served(error: type[BaseException]) -> None:
    """Neither an exit nor a cancellation of its own ends the loop or the listener."""
    seen = list[int]()

    async def listen(event: Knock) -> None:
        if event.number == 1:
            raise error

    async def other(event: Knock) -> None:
        seen.append(event.number)

    with EventBus() as bus:
        bus.subscribe(Knock, listen, name="raising", retries=0)
        bus.subscribe(Knock, other)
        for number in range(4):
            bus.publish(Knock(None, number))
        assert bus.drain(PATIENCE)
        row = account(bus, "raising")
    assert seen == [0, 1, 2, 3]
    assert (row.delivered, row.failed) == (3, 1)


def test_closing_cancels_the_call_that_is_under_way() -> None:
    """Closing does not wait for it; it counts as closed, as do those that were pending."""
    started, ended = threading.Event(), threading.Event()

    async def listen(_event: Knock) -> None:
        started.set()
        try:
            await asyncio.sleep(PATIENCE)
        finally:
            ended.set()

    bus = EventBus()
    bus.subscribe(Knock, listen, name="cut")
    for number in range(3):
        bus.publish(Knock(None, number))
    assert started.wait(PATIENCE)
    bus.close()
    assert ended.wait(PATIENCE)
    assert eventually(lambda: not account(bus, "cut").in_flight)
    row = account(bus, "cut")
    assert (row.delivered, row.failed, row.dropped) == (0, 0, {"closed": 3})
    assert balanced(row)


def test_coroutine_that_never_waits_leaves_the_others_their_turn() -> None:
    """A busy listener with much to do does not keep an event of another one waiting until it is done."""
    seen = list[str]()

    async def busy(_event: Tick) -> None:
        seen.append("busy")

    async def other(_event: Knock) -> None:
        seen.append("other")

    with EventBus() as bus:
        gate = threading.Event()

        @bus.on(Knock)
        async def hold(_event: Knock) -> None:  # so that all are there when it begins
            gate.wait(PATIENCE)

        bus.subscribe(Tick, busy)
        bus.subscribe(Knock, other)
        for _ in range(500):
            bus.publish(Tick(None))
        bus.publish(Knock(None))
        gate.set()
        assert bus.drain(PATIENCE)
    assert seen.index("other") < 500


def test_listener_cannot_wait_for_listeners() -> None:
    """It would wait for itself: that is an error, not a deadlock, for coroutines and plain functions."""
    bus, errors = EventBus(), list[str]()

    @bus.on(Knock)
    async def wait_later(_event: Knock) -> None:
        try:
            await bus.adrain(None)
        except BusError as error:
            errors.append(str(error))

    @bus.on(Knock, dispatch="async")
    def wait(_event: Knock) -> None:
        try:
            bus.drain(None)
        except BusError as error:
            errors.append(str(error))

    bus.publish(Knock(None))
    assert bus.drain(PATIENCE)
    assert errors == ["an asynchronous listener cannot wait for asynchronous listeners, of which it is one"] * 2
    bus.close()


async def test_coroutine_may_wait_for_all() -> None:
    """`adrain` is `drain` for those who must not block their loop."""
    free = threading.Event()
    with EventBus() as bus:
        bus.subscribe(Knock, lambda _event: free.wait(PATIENCE), dispatch="async", name="slow")
        bus.publish(Knock(None))
        assert not await bus.adrain(0.01)
        asyncio.get_running_loop().call_later(0.01, free.set)
        assert await bus.adrain(PATIENCE)
        assert account(bus, "slow").delivered == 1


async def test_bell_may_ring_too_early_and_too_late() -> None:
    """Before it was armed nobody has to be woken; after its loop ended nobody is."""
    bell = LoopBell()
    bell.ring()
    bell.arm()
    threading.Thread(target=bell.ring).start()
    await bell.wait(PATIENCE)
    await bell.wait(0.001)
    assert not await until(lambda: False, 0.001)
    await asyncio.to_thread(lambda: asyncio.run(_arm(bell)))
    bell.ring()


async def _arm(bell: LoopBell) -> None:
    bell.arm()
