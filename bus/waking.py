"""Waking a coroutine from any thread, without waiting for its event loop."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

Wake = Callable[[Callable[[], object]], None]


def waker() -> Wake:
    """Return what has the running event loop, asyncio's or trio's, call a function soon; from any thread.

    When the loop is closed by then, nobody is left to be woken, and nothing happens.
    """
    trio: Any = sys.modules.get("trio")
    token: Any = None
    if trio is not None:
        with suppress(RuntimeError):
            token = trio.lowlevel.current_trio_token()
    if token is not None:
        soon, gone = token.run_sync_soon, trio.RunFinishedError
    else:
        asyncio: Any = sys.modules["asyncio"]  # what runs has been imported, and here it is not waited for
        soon, gone = asyncio.get_running_loop().call_soon_threadsafe, RuntimeError

    def wake(fn: Callable[[], object]) -> None:
        with suppress(gone):
            soon(fn)

    return wake
