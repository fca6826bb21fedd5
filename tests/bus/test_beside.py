"""Something long beside an event loop: its result and its errors arrive, and a cancellation ends it first."""

from __future__ import annotations

import asyncio
import threading

import pytest

from bus.beside import beside


def stop() -> None:
    """Nobody is to be stopped."""
    raise AssertionError("nobody was cancelled")


async def test_the_result_arrives_and_the_loop_goes_on_meanwhile() -> None:
    """It runs on another thread, so the loop can let it go."""
    go = threading.Event()

    def work() -> int:
        assert go.wait(10)
        return threading.get_ident()

    waiting = asyncio.create_task(beside(work, stop=stop))
    await asyncio.sleep(0)
    go.set()
    assert await waiting != threading.get_ident()


async def test_an_error_arrives() -> None:
    """It is the very error."""
    error = SystemExit(3)

    def fail() -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        await beside(fail, stop=stop)
    assert caught.value is error


async def test_a_cancellation_goes_on_when_the_work_has_ended() -> None:
    """The work is asked to stop, once, and waited for."""
    asked, ended, told = threading.Event(), threading.Event(), []

    def work() -> None:
        assert asked.wait(10)
        ended.set()

    def ask() -> None:
        told.append("stop")
        asked.set()

    waiting = asyncio.create_task(beside(work, stop=ask))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (ended.is_set(), told) == (True, ["stop"])
