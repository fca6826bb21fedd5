"""The relay: a process of its own that feeds a run's journal to the listeners of the process lane, at least once.

It ends when the run has ended and all is delivered, whoever started it; what it does is written into the run's
`relay` folder, where its successor goes on. Each listener has a thread, see `worker`.
"""

from __future__ import annotations

import enum
import logging
import os
import re
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from bus.lock import Lock, LogBusyError
from frameworm import config
from frameworm.delivery.listener import RelayPlan, plan_file, read_plan, relay_folder
from frameworm.delivery.replay import check_journal, is_over
from frameworm.delivery.status import ListenerReport, lock_file, log_file, status, write_report
from frameworm.delivery.worker import Worker
from frameworm.errors import RunBusyError, RunError, UserError
from frameworm.plugins.loader import load_plugins

__all__ = ["ListenerReport", "Outcome", "Relay", "status"]

MEMORY = 2 * 1024**3
"""Bytes in use with which the relay makes room for a successor, where FRAMEWORM_RELAY_MEMORY does not say."""
LOG_BYTES = 1024 * 1024

_TOLD_EVERY = 0.5  # seconds between two reports
_GRACE = 10.0  # seconds for calls that are under way when it is stopped
_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}
_FULL = b"\n... the relay's output is longer than 1 MiB; what follows is not kept\n"

log = logging.getLogger("frameworm")


class Outcome(enum.IntEnum):
    """How a relay ended, as its exit code."""

    DELIVERED = 0  # all that there was
    UNDELIVERED = 4  # a listener hangs or could not be made, the others have got all
    REPLACED = 5  # the run has other listeners now, and another relay
    CROWDED = 75  # it used too much memory: another one is to go on, in the same process if this one got anywhere
    INTERRUPTED = 130  # somebody asked, with Ctrl-C
    STOPPED = 143  # ... or with SIGTERM


class Relay:
    """The one relay of the run in a directory, until `close`.

    `wait`: for the end of another relay, as long as that takes; else RunBusyError names it. `spare`: the relay before
    was killed from outside, no record is to blame. Raises RunError for a journal of a newer format, and for a folder
    that cannot be written.
    """

    def __init__(self, run_dir: Path, *, wait: bool = False, spare: bool = False) -> None:
        self._run_dir = run_dir
        self._folder = relay_folder(run_dir)
        self._spare = spare
        self.hanging: tuple[str, ...] = ()
        """The listeners whose calls had not come back when `run` returned; their threads are still there."""
        self.advanced = False
        """Whether `run` has got anywhere: another relay would not begin where this one did."""
        self._wake = threading.Event()
        self._asked: Outcome | None = None
        limit = _memory_limit()
        check_journal(run_dir)
        self._lock = _lock(run_dir, wait=wait)
        self._version = self._version_of_plan()
        self.plan: RelayPlan = read_plan(run_dir)
        """What it does."""
        self._memory = self.plan.options.memory or limit

    def run(self) -> Outcome:
        """Load the run's plugins, serve the listeners until the run has ended, and return how that went.

        A plugin that cannot be loaded is logged: the listeners that need it are reported as such.
        """
        try:
            options = config.resolve(self.plan.plugins.options, "the options of plugins")
            load_plugins(msgspec.structs.replace(self.plan.plugins, options=options))
        except UserError as error:
            log.warning("%s", error)
        turn = threading.Lock()
        workers = [
            Worker(
                self._run_dir,
                listener,
                self._folder,
                self.plan.options,
                spare=self._spare,
                turn=turn,
                finished=self._wake.set,
            )
            for listener in self.plan.listeners
        ]
        before = _reached(self._run_dir)
        for worker in workers:
            worker.start()
        self._watch(workers)
        for worker in workers:
            worker.stop()
        deadline = time.monotonic() + _GRACE
        for worker in workers:
            worker.join(0 if worker.hung else max(0, deadline - time.monotonic()))
        self._tell(workers)
        _bound_log(self._run_dir)
        self.advanced = _reached(self._run_dir) != before
        self.hanging = tuple(worker.listener.name for worker in workers if worker.alive)
        broken = any(worker.report().state in ("failed to start", "failed") for worker in workers)
        return self._asked or (Outcome.UNDELIVERED if self.hanging or broken else Outcome.DELIVERED)

    def stop(self, outcome: Outcome = Outcome.STOPPED) -> None:
        """Ask `run` to return soon; may be called in a signal handler."""
        self._asked = self._asked or outcome  # it is looked at often: waking it up might wait for a lock

    def close(self) -> None:
        """Let the next relay in; again is no error."""
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.close()

    # Inside

    def _watch(self, workers: list[Worker]) -> None:
        """Report until all workers have ended, or hang though the run is over, or it is asked to stop."""
        told = 0.0
        while self._asked is None and self._is_needed(workers):
            self._wake.wait(self.plan.options.poll)
            self._wake.clear()
            if time.monotonic() - told >= _TOLD_EVERY:
                told = time.monotonic()
                self._tell(workers)
                _bound_log(self._run_dir)
            if self._version_of_plan() != self._version:
                self.stop(Outcome.REPLACED)
            elif memory_in_use() > self._memory:
                names = ", ".join(worker.listener.name for worker in workers)
                log.warning("more than %d bytes are in use: another relay goes on with %s", self._memory, names)
                self.stop(Outcome.CROWDED)

    def _is_needed(self, workers: list[Worker]) -> bool:
        """Whether something may still be delivered: a call that takes long may also come back, while the run lives."""
        busy = [worker for worker in workers if worker.alive]
        return any(not worker.hung for worker in busy) or (bool(busy) and not is_over(self._run_dir))

    def _tell(self, workers: list[Worker]) -> None:
        for worker in workers:
            write_report(self._folder, worker.listener, worker.report())

    def _version_of_plan(self) -> tuple[int, int]:
        try:
            stat = plan_file(self._run_dir).stat()
        except OSError:
            return 0, 0
        return stat.st_ino, stat.st_mtime_ns


def _reached(run_dir: Path) -> list[int]:
    """Return how far each listener is, by its cursor."""
    return [report.seq for report in status(run_dir)]


def memory_in_use() -> int:
    """Return how many bytes of memory this process has, 0 where the system does not tell."""
    if sys.platform != "linux":
        return 0
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _memory_limit() -> int:
    text = os.environ.get("FRAMEWORM_RELAY_MEMORY", "")
    if not text:
        return MEMORY
    match = re.fullmatch(r"(\d+)\s*([kmg]?)(?:i?b)?", text.strip().lower())
    if match is None:
        raise UserError(
            "FRAMEWORM_RELAY_MEMORY is no size", expected="bytes, or a number with KiB, MiB or GiB", got=repr(text)
        )
    return int(match[1]) * _UNITS[match[2]]


def _lock(run_dir: Path, *, wait: bool) -> Lock:
    """Take the lock of the one relay."""
    while True:
        try:
            relay_folder(run_dir).mkdir(mode=0o700, exist_ok=True)
            return Lock(lock_file(run_dir))
        except LogBusyError as error:
            if not wait:
                raise RunBusyError(
                    "the run has a relay already",
                    where=str(run_dir),
                    got=str(error.owner),
                    hint="wait until it ends: `frameworm runs show` says how far it is",
                ) from error
            time.sleep(0.1)
        except OSError as error:
            raise RunError(
                "the relay's folder cannot be written", where=str(relay_folder(run_dir)), got=error.strerror
            ) from error


def _bound_log(run_dir: Path) -> None:
    """Cut off what was written behind the first MiB of the relay's output, where that goes to its file."""
    file = log_file(run_dir)
    try:
        ours, size = os.fstat(1), file.stat()
        if (ours.st_ino, ours.st_dev) == (size.st_ino, size.st_dev) and size.st_size > LOG_BYTES + len(_FULL):
            os.truncate(file, LOG_BYTES)
            with file.open("ab", buffering=0) as end:
                end.write(_FULL)
    except OSError:
        return
