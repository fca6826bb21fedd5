"""What nobody can stop is at least noticed, once, by name."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from contextlib import suppress

import pytest

from bus import EventBus, watchdog
from tests.bus.events import PATIENCE, Knock, Tick, account, balanced, eventually


def test_coroutine_that_blocks_the_loop_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """An `async def` that sleeps as plain functions do: publishing stays quick, and one warning says who it is."""

    async def blocking(event: Tick) -> None:
        if event.number % 2 == 0:
            time.sleep(watchdog.BLOCKING + 2 * watchdog.PERIOD)  # noqa: ASYNC251  the mistake that is to be named

    async def good(event: Tick) -> None:
        await asyncio.sleep(0 if event.number else watchdog.BLOCKING)

    costs = list[float]()
    with EventBus() as bus:
        bus.subscribe(Tick, blocking, name="blocking")
        bus.subscribe(Tick, good, name="good")
        for number in range(4):
            start = time.perf_counter()
            bus.publish(Tick(None, number))
            costs.append(time.perf_counter() - start)
            time.sleep(0.05)
        assert bus.drain(PATIENCE)
        assert account(bus, "blocking").delivered == 4
    assert sorted(costs)[1] < 0.001
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.getMessage().startswith("blocking has blocked the event loop of all coroutine listeners for ")


def test_hang_is_reported_once_by_name(caplog: pytest.LogCaptureFixture) -> None:
    """However long it takes."""
    free = threading.Event()
    with EventBus() as bus:
        bus.subscribe(Knock, lambda _event: free.wait(PATIENCE), dispatch="async", name="hanging", timeout=0.01)
        bus.publish(Knock(None))
        assert eventually(lambda: account(bus, "hanging").state == "hung")
        time.sleep(3 * watchdog.PERIOD)
        assert balanced(account(bus, "hanging"))
        free.set()
        assert bus.drain(PATIENCE)
    messages = [record.getMessage() for record in caplog.records if "hangs" in record.getMessage()]
    assert len(messages) == 1
    assert messages[0].startswith("hanging hangs: a call has taken ")


def test_coroutine_that_will_not_be_cancelled_hangs() -> None:
    """It has a second to end; then it is given up as a plain function is."""
    recovered = list[str]()

    async def stubborn(_event: Knock) -> None:
        end = time.monotonic() + watchdog.GRACE + 4 * watchdog.PERIOD
        while time.monotonic() < end:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    with EventBus() as bus:
        bus.on_recovery = recovered.append
        bus.subscribe(Knock, stubborn, name="stubborn", timeout=0.01)
        bus.publish(Knock(None))
        assert eventually(lambda: account(bus, "stubborn").state == "hung")
        assert bus.drain(PATIENCE)
        row = account(bus, "stubborn")
        assert (row.failed, row.state) == (1, "active")
        assert eventually(lambda: recovered == ["stubborn"])


def test_watchdog_ends_with_the_last_listener() -> None:
    """Its thread is there while there is something to watch."""

    def thread() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name == "bus: watchdog"]

    bus = EventBus()
    bus.subscribe(Knock, print, dispatch="async")
    assert thread() == ["bus: watchdog"]
    bus.close()
    del bus

    def gone() -> bool:
        gc.collect()
        return not thread()

    assert eventually(gone)
