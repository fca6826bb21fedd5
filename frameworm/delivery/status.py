"""What the relay says of its listeners, while it works and afterwards: a small file each, read by whoever asks."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from bus.cursor import position_in
from bus.lock import Owner, owner_of
from bus.log import Record
from frameworm.delivery.files import replace_file
from frameworm.delivery.listener import ProcessListener, read_plan, relay_folder
from frameworm.delivery.records import Values
from frameworm.delivery.replay import last_seq

State = Literal["not started", "ok", "retrying", "hung", "failed to start", "failed"]
"""`failed`: the relay itself cannot serve it any more, for a reason that is no error of the listener."""

LONGEST = 2000  # characters of an error that are kept


class ListenerReport(msgspec.Struct, frozen=True):
    """The account of a listener of the process lane, over all relays that have served it.

    Events were `delivered` or are `dead` (in its dead-letter file); `failed` are calls that raised, `retried` those
    made again; `pending` are records that it has not seen, `seq` is the last that it has, `damaged` are lines of the
    journal that are no records.
    """

    name: str
    state: State = "not started"
    delivered: int = 0
    failed: int = 0
    retried: int = 0
    dead: int = 0
    pending: int = 0
    seq: int = 0
    damaged: int = 0
    last_error: str | None = None


def lock_file(run_dir: Path) -> Path:
    """Return the file whose lock makes a process the one relay of a run."""
    return relay_folder(run_dir) / "relay.lock"


def log_file(run_dir: Path) -> Path:
    """Return the file that a supervised relay's output goes to."""
    return relay_folder(run_dir) / "relay.log"


def cursor_file(folder: Path, listener: ProcessListener) -> Path:
    """Return the file of a listener's cursor."""
    return folder / f"{listener.stem}.cursor"


def report_file(folder: Path, listener: ProcessListener) -> Path:
    """Return the file of a listener's report."""
    return folder / f"{listener.stem}.json"


def dead_letter_file(folder: Path, listener: ProcessListener) -> Path:
    """Return the file of the records that a listener did not take."""
    return folder / f"{listener.stem}.dead.jsonl"


def relay_of(run_dir: Path) -> Owner | None:
    """Return the living process that is the relay of a run, None when there is none."""
    return owner_of(lock_file(run_dir))


def status(run_dir: Path) -> tuple[ListenerReport, ...]:
    """Return the report of every listener in the process lane of a run; none for a run without.

    What is pending is counted now. Raises RunError where the relay's files cannot be read.
    """
    listeners = read_plan(run_dir).listeners
    last = last_seq(run_dir) if listeners else 0
    folder = relay_folder(run_dir)
    return tuple(_report(folder, listener, last) for listener in listeners)


def pending(run_dir: Path) -> int:
    """Return how many records the slowest listener of a run has before it."""
    return max((report.pending for report in status(run_dir)), default=0)


def write_report(folder: Path, listener: ProcessListener, report: ListenerReport) -> None:
    """Replace a listener's report; a disk that refuses it keeps the one before."""
    with contextlib.suppress(OSError):
        replace_file(report_file(folder, listener), msgspec.json.encode(report))


def bury(folder: Path, listener: ProcessListener, record: Record, reason: str, error: str | None) -> None:
    """Append a record to a listener's dead letters, with the reason and the error; raises OSError."""
    letter = {"time": datetime.now(UTC), "reason": reason, "error": error, "record": record}
    with dead_letter_file(folder, listener).open("ab", buffering=0) as file:
        file.write(msgspec.json.encode(Values().plain(letter, [])) + b"\n")


def error_text(error: BaseException) -> str:
    """Return an error as `Type: text`, of bounded length."""
    return f"{type(error).__name__}: {error}"[:LONGEST]


def _report(folder: Path, listener: ProcessListener, last: int) -> ListenerReport:
    try:
        report = msgspec.json.decode(report_file(folder, listener).read_bytes(), type=ListenerReport)
    except (OSError, msgspec.DecodeError):
        report = ListenerReport(listener.name)
    seq = position_in(cursor_file(folder, listener)).seq
    return msgspec.structs.replace(report, name=listener.name, seq=seq, pending=max(0, last - seq))
