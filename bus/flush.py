"""Flushing a growing file to its device on a thread of its own, so that whoever writes to it does not wait for it."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable

_CLOSING = 2.0  # seconds that `close` waits for the last flush

_flush: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync


class Flusher:
    """Flushes on request, and every `every` seconds if that is given, until `close`.

    `current` returns a descriptor of the file, which is the flusher's to close; None where there is nothing to flush.
    `failed` is told of errors, on the flusher's thread.
    """

    def __init__(
        self, current: Callable[[], int | None], failed: Callable[[OSError], None], every: float | None = None
    ) -> None:
        self._current = current
        self._failed = failed
        self._every = every
        self._wanted = threading.Event()
        self._held = False
        self._closing = False
        self._once: deque[int] = deque()  # descriptors to flush once, and close
        self._thread = threading.Thread(target=self._run, name="log-flusher", daemon=True)
        self._thread.start()

    def request(self) -> None:
        """Ask for a flush, which ends a hold."""
        self._held = False
        self._wanted.set()

    def hold(self) -> None:
        """Flush nothing until the next request."""
        self._held = True

    def retire(self, fd: int) -> None:
        """Take over a descriptor: it is flushed with the next flush, then closed."""
        self._once.append(fd)

    def close(self) -> None:
        """Flush what was retired, and end; waits for that a little, not for ever."""
        self._closing = True
        self._wanted.set()
        self._thread.join(_CLOSING)

    def _run(self) -> None:
        while not self._closing:
            self._wanted.wait(self._every)
            self._wanted.clear()
            if self._closing:
                self._flush(None)
            elif not self._held:
                self._flush(self._current())

    def _flush(self, current: int | None) -> None:
        if current is not None:
            self._once.append(current)
        while self._once:
            fd = self._once.popleft()
            try:
                _flush(fd)
            except OSError as error:
                self._failed(error)
            finally:
                os.close(fd)
