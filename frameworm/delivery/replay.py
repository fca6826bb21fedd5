"""A recorded run as it was: its records, the facts at each of them, and its events with these facts as their source."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from bus import Event
from bus.log import LogReader, Record, newest_first, writer_of
from frameworm import config
from frameworm.delivery.decoding import Makers, numbers
from frameworm.delivery.journal import journal_path
from frameworm.delivery.records import GAP, VERSION
from frameworm.errors import ConfigError, RunError
from frameworm.facts import RunView

_AT_ANY_TIME = frozenset(
    {"listener_failed", "listener_recovered", "metrics_logged", "hooks_switched", "model_export", "model_exported", GAP}
)
"""Events that may also come behind `train_end`."""

Phase = Literal["before", "training", "ended"]

_BEFORE: Record = {
    "v": VERSION,
    "seq": 0,
    "attempt": 1,
    "time": "1970-01-01T00:00:00Z",
    "run": "",
    "rank": 0,
    "epoch": 0,
    "step": 0,
}
"""The keys that every record has, as they are before the first one."""


class _Identity(msgspec.Struct, frozen=True):
    """What a run's `run.json` says of it, as far as it is needed here."""

    id: str
    name: str


class RunFold:
    """The facts of the run in a directory, as its records have told them so far. Takes all records in order.

    What the run is called and how it is configured is read from its directory, as far as that is there.
    """

    def __init__(self, run_dir: Path) -> None:
        identity = _identity(run_dir)
        self._name = identity.name
        self._id = identity.id
        self._run_dir = run_dir
        self._config = _config(run_dir)
        model, trainer = (self._config.get(section) or {} for section in ("model", "trainer"))
        self._model = str(model.get("name", "")) if isinstance(model, Mapping) else str(model)
        self._epochs: int = trainer.get("epochs", 0) if isinstance(trainer, Mapping) else 0
        self._metrics: Mapping[str, float] = {}
        self._status = "running"
        self._error: str | None = None
        self.last: Record | None = None
        """The record that was taken last."""
        self.phase: Phase = "before"
        """How far the newest attempt is, as far as the records tell."""
        self._takers: dict[str, Callable[[Record], None]] = {
            "train_begin": self._train_begin,
            "epoch_begin": self._training,
            "epoch_end": self._epoch_end,
            "validation_end": self._more_metrics,
            "metrics_logged": self._more_metrics,
            "train_failed": self._train_failed,
            "train_end": self._train_end,
            "hooks_switched": self._hooks_switched,
        }
        self._silenced = 0  # the attempt in which hooks were switched off

    def add(self, record: Record) -> None:
        """Take the next record."""
        self.last = record
        take = self._takers.get(record["event"])
        if take is not None:
            take(record)

    @property
    def silenced(self) -> bool:
        """Whether hooks and callbacks are switched off, as `HookRegistry.disable` does for an attempt at most."""
        return self.last is not None and self._silenced == self.last["attempt"]

    def view(self) -> RunView:
        """Return the facts as they were when the record that was taken last was written."""
        record = self.last or _BEFORE
        return RunView(
            record["run"] or self._id,
            self._name,
            self._run_dir,
            self._config,
            self._model,
            record["rank"],
            record["attempt"],
            self._epochs,
            record["epoch"],
            record["step"],
            self._metrics,  # replaced, never changed
            self._status,
            self._error,
            datetime.fromisoformat(record["time"]),
            record["seq"],
        )

    def crash(self) -> Record:
        """Return the `train_end` that the run's process did not live to write; it has the number of the last record."""
        record = self.last or _BEFORE
        position = {key: record[key] for key in _BEFORE}
        reason = "its process is gone"
        return {**position, "event": "train_end", "status": "crashed", "reason": reason, "error": self._error}

    def _training(self, _record: Record) -> None:
        self.phase = "training"

    def _train_begin(self, record: Record) -> None:
        self._status, self._error, self.phase = "running", None, "training"
        self._epochs = record.get("epochs", self._epochs)

    def _epoch_end(self, record: Record) -> None:
        self.phase = "training"
        self._more_metrics(record)

    def _more_metrics(self, record: Record) -> None:
        self._metrics = {**self._metrics, **numbers(record.get("metrics"))}

    def _train_failed(self, record: Record) -> None:
        self._status, self._error = "failed", record.get("message")

    def _hooks_switched(self, record: Record) -> None:
        self._silenced = 0 if record.get("enabled", True) else record["attempt"]

    def _train_end(self, record: Record) -> None:
        self.phase = "ended"
        self._status = record.get("status", "finished")
        self._error = record.get("error") or self._error


def readable(records: Iterable[Record], path: Path) -> Iterator[Record]:
    """Yield the records; raises RunError at one of a newer format than this version reads."""
    for record in records:
        if record.get("v", VERSION) > VERSION:
            raise RunError(
                "the run's journal is of a newer format",
                where=str(path),
                expected=f"version {VERSION} or older",
                got=f"version {record['v']}",
                hint="a newer FRAMEWORM",
            )
        yield record


def check_journal(run_dir: Path) -> None:
    """Raise RunError where the run in this directory is recorded in a format that this version does not read."""
    path = journal_path(run_dir)
    next(readable(newest_first(path), path), None)


def is_over(run_dir: Path) -> bool:
    """Whether the run in this directory has ended: nobody trains in it, or the newest attempt has its `train_end`."""
    path = journal_path(run_dir)
    if writer_of(path) is None:
        return True
    decisive = (record["event"] for record in newest_first(path) if record["event"] not in _AT_ANY_TIME)
    return next(decisive, None) == "train_end"


def last_seq(run_dir: Path) -> int:
    """Return the number of the last record of a run, 0 where there is none; reads no more than that."""
    return next((int(record["seq"]) for record in newest_first(journal_path(run_dir))), 0)


def events(run_dir: Path, after: int = 0, *, names: Collection[str] | None = None) -> Iterator[Event]:
    """Yield the events that are recorded in a run's directory by now, behind the record number `after`, in order.

    The source of each is the `RunView` of its moment, which has the `seq` to go on behind; live fields are None.
    `names` are the events that are wanted, by default all. Events of unknown types are left out. Raises RunError for a
    journal of a newer format.
    """
    path, fold, makers = journal_path(run_dir), RunFold(run_dir), Makers(names)
    with contextlib.closing(LogReader(path)) as reader:
        for record in readable(reader, path):
            fold.add(record)
            if record["seq"] > after and (make := makers[record["event"]]) is not None:
                yield make(fold.view(), record)


def _identity(run_dir: Path) -> _Identity:
    try:
        return msgspec.json.decode((run_dir / "run.json").read_bytes(), type=_Identity)
    except (OSError, msgspec.DecodeError):
        return _Identity("", run_dir.name)


def _config(run_dir: Path) -> dict[str, Any]:
    try:
        return config.redact(config.read(run_dir / "config.yaml"))
    except (ConfigError, OSError):
        return {}
