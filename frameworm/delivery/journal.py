"""The journal of a run: the durable record of its events, which everything outside the process reads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import msgspec

from bus import FIRST, LAST, Event, EventBus, Recorded, Subscription, event_types
from bus.log import LogBusyError, LogWriter, Record
from frameworm.delivery.records import GAP, VERSION, CopyScalar, ScalarCopy, Values, record_keys, schema
from frameworm.errors import RunBusyError, RunError
from frameworm.events import (
    CheckpointSave,
    CheckpointSaved,
    TrainBegin,
    TrainEnd,
    TrainFailed,
    TrainingEvent,
    TrainResumed,
)

__all__ = ["Journal", "JournalStatistics", "journal_path", "schema"]

_UNWRITABLE = (TypeError, ValueError, OverflowError, RecursionError)  # such as a path that is no Unicode
_SYNCED = (TrainBegin, TrainResumed, TrainFailed, TrainEnd, CheckpointSaved)


class JournalStatistics(msgspec.Struct, frozen=True):
    """What became of the records: written, lost to a full disk (with a gap in their place), still pending.

    `described` counts values that JSON cannot say, of which there are only words in the record; `torn` the bytes of a
    record that a former writer left unfinished; `slowest` is the longest write, in seconds.
    """

    written: int
    lost: int
    pending: int
    described: int
    torn: int
    slowest: float


def journal_path(directory: Path, rank: int = 0) -> Path:
    """Return where the newest records of a rank are, in a run's directory."""
    return directory / ("events.jsonl" if rank == 0 else f"events.r{rank}.jsonl")


class Journal:
    """Writes the events of a run to its directory, from `attach` until `close`.

    - `run`: the run's id, for every record.
    - `position`: says the current epoch and step; may be set later.
    - `attempt`: how many times the run was started; None counts on from the journal's last record.
    - `log_every`: of sampled event types, every so many-th event is recorded.
    - `fsync`: flush to the disk at `lifecycle` and checkpoint events, or at an `interval` of a second as well.
    - `copy_scalar`: how to read a scalar on a device without waiting for it; a record is written, with all that follow
      it, when its numbers have arrived. Without it such a scalar is only described.

    What a record holds is in `records`, how it survives in `bus.log`. Recording never raises and never waits for a
    device. Raises RunBusyError when a living process writes this journal, and RunError when it cannot be written.
    """

    def __init__(
        self,
        directory: Path,
        *,
        run: str,
        position: Callable[[], tuple[int, int]] = lambda: (0, 0),
        rank: int = 0,
        attempt: int | None = None,
        log_every: int = 10,
        fsync: Literal["lifecycle", "interval"] = "lifecycle",
        copy_scalar: CopyScalar | None = None,
    ) -> None:
        self.run = run
        self.rank = rank
        self.position = position
        """Says the current epoch and step."""
        self._log_every = log_every
        self._every: dict[type[Event], int] = {}
        self._values = Values(copy_scalar)
        self._pending: deque[tuple[Record, list[ScalarCopy]]] = deque()  # bounded by how far a device may lag behind
        self._mutex = threading.RLock()  # guards what is pending
        self._recorded: tuple[object, int] = (None, 0)
        self._subscriptions: list[Subscription[Any]] = []
        path = journal_path(directory, rank)
        try:
            self._log = LogWriter(path, gap=self._gap, sync_every=1.0 if fsync == "interval" else None)
        except LogBusyError as error:
            raise RunBusyError(
                "the run is being written by another process",
                where=str(directory),
                got=str(error.owner),
                hint="wait until it ends, or start a new run",
            ) from error
        except OSError as error:
            raise RunError("the run's journal cannot be written", where=str(path), got=error.strerror) from error
        self.attempt = attempt or (self._log.last["attempt"] + 1 if self._log.last else 1)

    @property
    def seq(self) -> int:
        """The number of the last record, 0 before the first."""
        return self._log.seq

    def seq_of(self, event: object) -> int:
        """Return the number of the record of an event that is being published, 0 where it is not recorded."""
        recorded, seq = self._recorded
        return seq if recorded is event else 0

    def attach(self, bus: EventBus, every: Mapping[type[Event], int] | None = None) -> None:
        """Record what is published on `bus`: before other listeners, or after them where they may add to the event.

        `every` are event types to be recorded at least every so many events, those on demand among them.
        """
        self._every = dict(every or {})
        for event_type in event_types().values():
            sampling = self._sampling(event_type)
            if sampling is not None:
                self._subscriptions.append(
                    bus.subscribe(
                        event_type,
                        self._recorder(event_type),
                        priority=LAST if event_type.additive else FIRST,
                        every=sampling,
                        name="journal",
                        owner=self,
                    )
                )

    def statistics(self) -> JournalStatistics:
        """Return the account of this journal."""
        log = self._log.statistics()
        return JournalStatistics(
            log.written, log.lost, len(self._pending), self._values.described, log.torn, log.slowest
        )

    def close(self) -> None:
        """End recording, wait for numbers that are on their way, flush; again is no error."""
        for subscription in self._subscriptions:
            subscription.cancel()
        self._write_pending(wait=True)
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.close()

    # Inside

    def _sampling(self, event_type: type[Event]) -> int | None:
        """Return every how many-th event of a type is recorded; None for none."""
        wanted = self._every.get(event_type)
        if event_type.recorded is Recorded.ON_DEMAND or not issubclass(event_type, TrainingEvent):
            return wanted
        usual = self._log_every if event_type.recorded is Recorded.SAMPLED else 1
        return min(usual, wanted or usual)

    def _recorder(self, event_type: type[Event]) -> Callable[[Event], None]:
        """Return what records an event of this type."""
        name = event_type.name
        keys = record_keys(event_type)
        plain = self._values.plain
        afterwards = (
            self._log.sync if event_type in _SYNCED else self._log.hold_sync if event_type is CheckpointSave else None
        )

        def record(event: Event) -> None:
            record = self._envelope(name)
            pending: list[ScalarCopy] = []
            for attribute, key in keys:
                record[key] = plain(getattr(event, attribute), pending)
            if pending or self._pending:
                self._postpone(record, pending)
            else:
                self._write(record)
                self._recorded = event, record["seq"]
            if afterwards is not None:
                afterwards()
            if event_type is TrainEnd:
                self._write_pending(wait=True)  # whoever reads the record waits for this one

        return record

    def _envelope(self, event: str) -> Record:
        epoch, step = self.position()
        return {
            "v": VERSION,
            "seq": 0,  # the log's to set
            "attempt": self.attempt,
            "time": datetime.now(UTC),
            "run": self.run,
            "rank": self.rank,
            "event": event,
            "epoch": epoch,
            "step": step,
        }

    def _gap(self, first: int, last: int) -> Record:
        return self._envelope(GAP) | {"first": first, "last": last}

    def _write(self, record: Record) -> None:
        try:
            self._log.append(record)
        except _UNWRITABLE:
            self._log.append({key: self._writable(value) for key, value in record.items()})

    def _writable(self, value: Any) -> Any:
        try:
            msgspec.json.encode(value)
        except _UNWRITABLE:
            return self._values.describe(value)
        return value

    def _postpone(self, record: Record, pending: list[ScalarCopy]) -> None:
        """Write `record` when its numbers, and those of the records before it, have arrived."""
        with self._mutex:
            self._pending.append((record, pending))
            self._write_pending()

    def _write_pending(self, *, wait: bool = False) -> None:
        with self._mutex:
            while self._pending:
                record, pending = self._pending[0]
                if not (wait or all(copy.ready() for copy in pending)):
                    return
                self._pending.popleft()
                self._write({key: self._values.plain(value, []) for key, value in record.items()})
