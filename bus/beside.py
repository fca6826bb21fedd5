"""Something long that runs beside an event loop, on a thread of its own, and ends when its awaiter is cancelled."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import anyio

from .waking import waker

T = TypeVar("T")


async def beside(fn: Callable[[], T], *, stop: Callable[[], object]) -> T:
    """Call `fn` on a thread of its own and return what it returns, or raise what it raises.

    When the awaiter is cancelled, `stop` is called once, and the cancellation goes on when `fn` has returned: nothing
    is left running that nobody awaits. The thread is a daemon: it does not hold up the end of the process.
    """
    done = anyio.Event()
    wake = waker()
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(fn())
        except BaseException as error:
            errors.append(error)
        finally:
            wake(done.set)

    threading.Thread(target=run, name="beside", daemon=True).start()
    try:
        await done.wait()
    except anyio.get_cancelled_exc_class():
        stop()
        with anyio.CancelScope(shield=True):
            await done.wait()
        raise
    if errors:
        raise errors[0]
    return results[0]
