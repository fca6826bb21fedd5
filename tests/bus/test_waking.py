"""A coroutine is woken from any thread; a loop that is gone is not."""

from __future__ import annotations

import asyncio
import threading

from bus.waking import Wake, waker


async def test_from_any_thread() -> None:
    """The loop calls the function soon, on its own thread."""
    called: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    wake = waker()
    threading.Thread(target=wake, args=(lambda: called.set_result(threading.get_ident()),)).start()
    assert await asyncio.wait_for(called, 10) == threading.get_ident()


def test_a_loop_that_is_gone() -> None:
    """Nobody is left to be woken: nothing is called, and that is no error."""
    called: list[str] = []

    async def make() -> Wake:
        return waker()

    asyncio.run(make())(lambda: called.append("never"))
    assert called == []
