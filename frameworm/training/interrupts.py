"""Ctrl-C, SIGTERM and SIGUSR1 while training: the first asks for a good end or a save, a second one ends at once."""

from __future__ import annotations

import _thread
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Those that end a run; SIGUSR1 has it saved, and lets it go on."""

_PATIENCE = 0.2  # seconds for which a second signal's own handler may do its work, before the process is ended


@contextmanager
def interrupts(ask: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Call `ask` at the first SIGINT or SIGTERM, and leave further ones to the handlers that were there before.

    Should such a handler be Python's, which waits for whatever long call is being made, the process ends without it.
    SIGUSR1 is asked each time. Outside the main thread, where Python allows no handlers, this does nothing. A signal
    that is ignored stays so, and one that is handled outside of Python is left alone. Handlers are restored at the end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGUSR1)}
    before = {number: handler for number, handler in handlers.items() if handler not in (None, signal.SIG_IGN)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    with ExitStack() as stack:
        stack.callback(restore)

        def handle(number: int, _frame: FrameType | None) -> None:
            if number != signal.SIGUSR1:
                restore()
                stack.enter_context(_ended_by_the_next())
            ask(signal.Signals(number))

        for number in before:
            signal.signal(number, handle)
        yield


@contextmanager
def _ended_by_the_next() -> Iterator[None]:
    """End the process a moment after the next signal, unless that has ended this context meanwhile.

    A thread hears of signals through the wake-up descriptor, also while the main thread cannot run their handlers.
    """
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    former = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    _thread.start_new_thread(_watch, (ours, former))
    try:
        yield
    finally:
        signal.set_wakeup_fd(former)
        theirs.close()


def _watch(signals: socket.socket, former: int) -> None:
    """Read the numbers of signals as they come, and pass them on to whom they went before."""
    with signals:
        while number := signals.recv(1):
            if former >= 0:
                with suppress(OSError):
                    os.write(former, number)
            if number[0] in SIGNALS:
                signals.settimeout(_PATIENCE)
                with suppress(TimeoutError):
                    while signals.recv(1):
                        pass
                    return  # closed: the handler has done its work
                os._exit(128 + number[0])
