"""Notices what nobody can stop: a plain function that does not return, a coroutine that blocks the event loop.

One thread for the whole process looks at every asynchronous listener a few times a second. It lives while there are
listeners, and says each thing once.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from time import perf_counter
from weakref import WeakSet

from .mailbox import Mailbox

log = logging.getLogger("bus")

PERIOD = 0.25  # seconds between two looks
BLOCKING = 1.0  # seconds that a coroutine may keep the loop from everybody else
GRACE = 1.0  # seconds that a coroutine which was cancelled has to end


class Watch:
    """What the watchdog sees of one listener: when its current call began, and the current step of a coroutine."""

    __slots__ = ("__weakref__", "_box", "_limit", "_name", "_started", "_warned", "stepping")

    def __init__(self, box: Mailbox, *, coroutine: bool) -> None:
        self._box = box
        self._name = ""
        self._started: float | None = None
        self._warned = False
        timeout = box.options.timeout
        self._limit = None if timeout is None else timeout + GRACE * coroutine
        self.stepping: float | None = None
        """When a coroutine was resumed, until it gives control back (`perf_counter`)."""

    def enroll(self) -> None:
        """Be looked at, from now on."""
        _watch(self)

    def begin(self, name: str) -> None:
        """A call of the listener called `name` begins."""
        self._name = name
        self._started = perf_counter()

    def end(self) -> tuple[float, bool]:
        """The call has ended: return how many seconds it took, and whether it had been given up as hung."""
        with self._box.holding():
            started, self._started = self._started, None
            hung, self._box.hung = self._box.hung, False
        return perf_counter() - (started or 0.0), hung

    def look(self, now: float) -> None:
        """Notice what is wrong at this moment."""
        stepping, started = self.stepping, self._started
        if stepping is not None and now - stepping > BLOCKING and not self._warned:
            self._warned = True
            log.warning(
                "%s has blocked the event loop of all coroutine listeners for %.1f s: an `async def` must await what "
                "takes long, or be a plain function with dispatch='async'",
                self._name,
                now - stepping,
            )
        if self._limit is not None and started is not None and now - started > self._limit:
            self._give_up(started, now)

    def _give_up(self, started: float, now: float) -> None:
        with self._box.holding():
            if self._started != started or self._box.hung:
                return
            self._box.hung = True
        log.error(
            "%s hangs: a call has taken %.1f s, its timeout is %g s; it gets nothing until that returns",
            self._name,
            now - started,
            self._box.options.timeout,
        )


_watches: WeakSet[Watch] = WeakSet()
_mutex = threading.RLock()
_running = False


def _watch(watch: Watch) -> None:
    """Have the watchdog look at a listener as long as that exists."""
    global _running  # noqa: PLW0603  there is one watchdog in a process
    with _mutex:
        _watches.add(watch)
        if not _running:
            threading.Thread(target=_patrol, name="bus: watchdog", daemon=True).start()
            _running = True


def _patrol() -> None:
    global _running  # noqa: PLW0603
    while True:
        time.sleep(PERIOD)
        with _mutex:
            watches = list(_watches)
            if not watches:
                _running = False
                return
        now = perf_counter()
        for watch in watches:
            watch.look(now)
        del watches, watch  # so that nothing lives on in here


def _forget() -> None:
    """Begin anew in a forked child, to which no thread came along."""
    global _watches, _mutex, _running
    _watches, _mutex, _running = WeakSet(), threading.RLock(), False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
