"""An append-only log of records: what `append` has written survives the writer, and damage is never read as data.

One process writes a log, any number read it, meanwhile or later. `logfile` says what the files look like.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from .flush import Flusher
from .lock import Lock, LogBusyError, Owner, owner_of
from .logfile import (
    LogReader,
    Record,
    full_files,
    line_of,
    lines_newest_first,
    newest_first,
    numbered,
    parse,
    whole_length,
)

__all__ = [
    "Gap",
    "LogBusyError",
    "LogReader",
    "LogStatistics",
    "LogWriter",
    "Owner",
    "Record",
    "lock_path",
    "newest_first",
    "writer_of",
]

Gap = Callable[[int, int], Record]
"""Makes the record that tells of lost ones, from the first and the last `seq` of them."""

_WARN_EVERY = 60.0  # seconds

_log = logging.getLogger("bus")


class LogStatistics(msgspec.Struct, frozen=True):
    """What a writer has done since it opened: records written and lost, bytes of a torn tail cut off at opening.

    `slowest` is the longest that one write has taken, in seconds: what a busy disk costs whoever appends.
    """

    written: int
    lost: int
    torn: int
    slowest: float


class LogWriter:
    """The one writer of the log at `path`, until `close`; `append` never raises on account of the disk.

    - `gap`: makes the record that stands for records that could not be written.
    - `max_bytes`: the size at which a file is full.
    - `sync_every`: flush to the device every so many seconds; None does so only when `sync` is called.

    Any thread may append. In a forked child the writer does nothing. Raises `LogBusyError` when another writer lives
    (`events.lock`, beside the log, is what they share) and OSError when the log cannot be written.
    """

    def __init__(
        self, path: Path, *, gap: Gap, max_bytes: int = 64 * 1024 * 1024, sync_every: float | None = None
    ) -> None:
        self._path = path
        self._gap = gap
        self._max_bytes = max_bytes
        self._inert = False
        self._mutex = threading.RLock()  # re-entrant: a signal handler may append while its own thread does
        self._writing = False
        self._waiting: deque[Record] = deque()
        self._written = self._lost = 0
        self._lost_from: int | None = None  # the first seq of a gap that is not recorded yet
        self._slowest = 0.0
        self._next_warning = 0.0
        self._dirty = False  # whether a failed write may have left a part of a line
        self._seq = self._flushed = 0
        with ExitStack() as undo:
            self._lock = Lock(lock_path(path))
            undo.callback(self._lock.close)
            self._flusher = Flusher(self._unflushed, self._flush_failed, sync_every)
            undo.callback(self._flusher.close)
            self._fd = self._open()
            undo.callback(os.close, self._fd)
            before = os.fstat(self._fd).st_size
            self._size = self._cut()
            self._torn = before - self._size
            self.last, self._seq = _end(path)
            """The record with which the log ended when it was opened, None in a new log."""
            self._flushed = self._seq
            undo.pop_all()
        _writers.add(self)

    @property
    def seq(self) -> int:
        """The number of the last record, 0 before the first."""
        return self._seq

    def append(self, record: Record) -> None:
        """Write `record` with the next `seq`; once this returns, it survives the death of the process.

        The record is the log's from now on: its `seq` is set in place, and keeps its place if it had one. A record that
        the disk does not take is counted, its number is not used again, and a gap is recorded when there is space.
        Raises TypeError, ValueError or OverflowError for a record that is not JSON; the log is as before then.
        """
        if self._inert:
            return
        self._mutex.acquire()  # twice as fast as `with`
        try:
            if self._writing:  # a signal handler or a finalizer, in the middle of another record
                self._waiting.append(record)
                return
            self._writing = True
            try:
                self._append(record)
                while self._waiting:
                    self._append(self._waiting.popleft())
            finally:
                self._writing = False
        finally:
            self._mutex.release()

    def sync(self) -> None:
        """Ask for what has been written to be flushed to the device, soon; does not wait for it."""
        if not self._inert:
            self._flusher.request()

    def hold_sync(self) -> None:
        """Flush nothing until `sync` is called: a flush that meets somebody's large one stalls appends meanwhile."""
        self._flusher.hold()

    def statistics(self) -> LogStatistics:
        """Return the account of this writer."""
        return LogStatistics(self._written, self._lost, self._torn, self._slowest)

    def close(self) -> None:
        """Record a gap that is still open, flush, and let the next writer in; again is no error."""
        with self._mutex:
            if self._inert:
                return
            self._inert = True
            self._record_gap()
            self._flusher.retire(self._fd)
            self._fd = -1  # a thread that came this far while we closed finds that it cannot write
        self._flusher.close()
        self._lock.close()

    def abandon(self) -> None:
        """Do nothing any more, and let go of the files as they are: in a forked child they are the parent's."""
        if not self._inert:
            self._inert = True
            os.close(self._fd)
            self._lock.abandon()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.close()

    # Inside

    def _open(self) -> int:
        self._flusher.retire(os.open(self._path.parent, os.O_RDONLY))  # the file may be new to its folder
        return os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)

    def _append(self, record: Record) -> None:
        if not ((self._lost_from is None or self._record_gap()) and self._put(record)):
            self._seq += 1
            self._lost += 1
            if self._lost_from is None:
                self._lost_from = self._seq

    def _record_gap(self) -> bool:
        """Whether no gap is open any more."""
        if self._lost_from is not None and self._put(self._gap(self._lost_from, self._seq)):
            self._lost_from = None
        return self._lost_from is None

    def _put(self, record: Record) -> bool:
        """Whether the record was written, as the next one."""
        record["seq"] = seq = self._seq + 1
        line = line_of(record)
        self._seq = seq  # before writing: an interrupt in between must not use the number twice
        try:
            if self._dirty:
                self._size = self._cut()
                self._dirty = False
            if self._size + len(line) > self._max_bytes and self._size:
                self._rotate()
            start = time.perf_counter()
            written = os.write(self._fd, line)
            seconds = time.perf_counter() - start
            if written < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # noqa: TRY301  a refusal, told in another way
        except OSError as error:
            self._seq = seq - 1
            self._dirty = True
            self._warn("records are being lost: %s cannot be written: %s", self._path, error)
            return False
        self._size += written
        self._written += 1
        if seconds > self._slowest:  # noqa: PLR1730  max() would cost more than all the other bookkeeping
            self._slowest = seconds
        return True

    def _cut(self) -> int:
        """Cut the file back to its last whole line; return its length."""
        end = os.fstat(self._fd).st_size
        whole = whole_length(self._fd, end)
        if whole < end:
            os.ftruncate(self._fd, whole)
        return whole

    def _rotate(self) -> None:
        """Go on in a new file; where there can be none, in the old one."""
        full = numbered(self._path, max(full_files(self._path), default=0) + 1)
        try:
            self._path.rename(full)
            try:
                fd = self._open()
            except OSError:
                full.rename(self._path)
                raise
        except OSError as error:
            self._warn("%s grows beyond its size, because it cannot be renamed: %s", self._path, error)
            return
        self._flusher.retire(self._fd)
        self._fd, self._size = fd, 0

    def _unflushed(self) -> int | None:
        with self._mutex:
            if self._inert or self._flushed == self._seq:
                return None
            self._flushed = self._seq
            return os.dup(self._fd)

    def _flush_failed(self, error: OSError) -> None:
        self._warn("%s may not survive a loss of power: it cannot be flushed: %s", self._path, error)

    def _warn(self, message: str, *values: object) -> None:
        now = time.monotonic()
        if now >= self._next_warning:
            self._next_warning = now + _WARN_EVERY
            _log.warning(message, *values)


def _end(path: Path) -> tuple[Record | None, int]:
    """Return the last record of a log and the last number that was used; None and 0 in a new one."""
    damaged = 0  # lines, each of which had a number
    for line in lines_newest_first(path):
        record = parse(line)
        if record is not None:
            return record, record["seq"] + damaged
        damaged += 1
    return None, damaged


def writer_of(path: Path) -> Owner | None:
    """Return the living process that writes the log at `path`, None when there is none."""
    return owner_of(lock_path(path))


def lock_path(path: Path) -> Path:
    """Return the file whose lock (`bus.lock.Lock`) makes a process the one writer of the log at `path`."""
    return path.with_suffix(".lock")


_writers: weakref.WeakSet[LogWriter] = weakref.WeakSet()


def _abandon_all() -> None:
    for writer in list(_writers):
        writer.abandon()


os.register_at_fork(after_in_child=_abandon_all)
