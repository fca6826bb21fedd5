"""Serves one asynchronous listener from its mailbox, in order: what is common to all, and the thread that does so.

A plain function has a daemon thread of its own. An executor would not do: it is joined when the interpreter exits, and
a listener that hangs would keep the process from ending.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from contextlib import suppress
from time import perf_counter
from typing import Any

from .detach import landed
from .mailbox import Mailbox
from .policy import AbandonedError, Attempt, HungError, Policy, Wait, drive
from .route import Entry
from .watchdog import Watch

log = logging.getLogger("bus")

here = threading.local()  # `here.serving` is True on threads that serve listeners: they cannot wait for themselves


class Worker(ABC):
    """One listener's mailbox, policy and watch, and the account of each delivery."""

    def __init__(self, box: Mailbox, *, coroutine: bool) -> None:
        self.box = box
        self.policy = Policy(box.options)
        self.watch = Watch(box, coroutine=coroutine)
        self._hung = False

    @abstractmethod
    def start(self) -> None:
        """Begin to serve; raises RuntimeError where there can be no more threads."""

    @abstractmethod
    def cancel(self) -> None:
        """Interrupt the call that is under way, where that can be done."""

    def begin(self, step: Attempt, entries: list[Entry]) -> BaseException | None:
        """Prepare for an attempt; an error says why it should not be made any more."""
        listener = entries[0][1].listener
        if step.number:
            if listener.state != "active":
                return AbandonedError(listener.state)
            self.box.retried()
        self.watch.begin(listener.name)
        return None

    def call(self, entries: list[Entry]) -> Any:
        """Call the listener with what was taken."""
        fn = entries[0][1].listener.fn
        if self.box.options.batch > 1:
            return fn([landed(event) for _, _, event in entries])
        return fn(landed(entries[0][2]))

    def end(self, entries: list[Entry], error: BaseException | None) -> BaseException | None:
        """Account for the time of an attempt, and return its outcome."""
        seconds, hung = self.watch.end()
        entries[0][1].tally.time(seconds)
        if hung:
            self._hung = True
            return HungError(f"the call took {seconds:.1f} s, its timeout is {self.box.options.timeout:g} s")
        return error

    def conclude(self, entries: list[Entry], error: BaseException | None) -> None:
        """Account for a delivery that came to its end, and tell who wants to know."""
        _, route, event = entries[0]
        was_broken, self.box.broken = self.box.broken, self.policy.broken
        if isinstance(error, AbandonedError):
            self.box.settle(None, dropped=str(error))
            return
        self.box.settle(error)
        if error is not None:
            route.report(route, event.name, error)
        was_hung, self._hung = self._hung, False
        if self.box.broken and not was_broken:
            log.error(
                "%s fails again and again: it is left alone, but for a try from time to time", route.listener.name
            )
        elif not self.box.broken and (was_broken or was_hung):
            route.report(route, event.name, None)

    def gone(self) -> BaseException | None:
        """Return why it makes no sense to go on with what was taken, if so."""
        if not self.box.finished:
            return None
        return AbandonedError(("breaker" if self.box.broken else "closed") if self.box.closed else "cancelled")


class ThreadBell:
    """Wakes a thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def ring(self) -> None:
        """Wake the thread, or let its next wait end at once."""
        with suppress(RuntimeError):  # it has been rung already
            self._lock.release()

    def wait(self, seconds: float | None) -> None:
        """Wait until it rings, so many seconds at most."""
        self._lock.acquire(timeout=-1 if seconds is None else min(seconds, threading.TIMEOUT_MAX))


class ThreadWorker(Worker):
    """Serves a plain function, in a daemon thread."""

    def __init__(self, box: Mailbox, bell: ThreadBell, name: str) -> None:
        super().__init__(box, coroutine=False)
        self._bell = bell
        self._name = name

    def start(self) -> None:
        """Begin to serve; raises RuntimeError where there can be no more threads."""
        self.watch.enroll()
        threading.Thread(target=self._run, name=f"bus: {self._name}", daemon=True).start()

    def cancel(self) -> None:
        """Do nothing: no thread can be interrupted."""

    def _run(self) -> None:
        here.serving = True
        while not self.box.finished:
            if not self._serve(self.box.take()):
                self._bell.wait(self.box.gathers_for())
        self.box.take()  # which drops what is left, since it is for nobody any more

    def _serve(self, entries: list[Entry]) -> bool:
        """Deliver what was taken, if that is anything."""
        if entries:
            error = drive(self.policy.flow(), lambda step: self._attempt(step, entries), self._wait)
            self.conclude(entries, error)
        return bool(entries)

    def _attempt(self, step: Attempt, entries: list[Entry]) -> BaseException | None:
        refused = self.begin(step, entries)
        if refused is not None:
            return refused
        try:
            self.call(entries)
        except BaseException as error:  # an exit from this thread would leave the rest undelivered
            return self.end(entries, error)
        return self.end(entries, None)

    def _wait(self, step: Wait) -> BaseException | None:
        until = perf_counter() + step.seconds
        while (left := self.box.rests_for(until, probe=step.probe)) > 0:
            self._bell.wait(left)
        return self.gone()
