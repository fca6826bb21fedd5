"""Ctrl-C and SIGTERM while training: the first asks for a good end, the second one ends at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interrupts(ask: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Call `ask` at the first SIGINT or SIGTERM, and leave further ones to the handlers that were there before.

    Outside the main thread, where Python allows no handlers, this does nothing. A signal that is ignored stays so, and
    one that is handled outside of Python is left alone. Handlers are restored at the end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: handler for number in SIGNALS if (handler := signal.getsignal(number)) not in (None, signal.SIG_IGN)
    }

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number: int, _frame: FrameType | None) -> None:
        restore()
        ask(signal.Signals(number))

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        restore()
