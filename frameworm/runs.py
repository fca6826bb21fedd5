"""Run directories: made, found, summed up and thrown away. What became of a run, its journal says, and nothing else."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from bus.lock import Lock
from bus.log import LogBusyError, LogReader, lock_path, newest_first, writer_of
from frameworm import config
from frameworm.delivery.journal import journal_path
from frameworm.errors import RunError, nearest

K = TypeVar("K")

Status = Literal["running", "finished", "stopped", "failed", "interrupted", "crashed", "unknown"]
"""How a run ended, or that it runs. `crashed`: its process is gone without a `train_end`; `unknown`: not recorded."""

_NAME = re.compile(r"[A-Za-z0-9][\w.\-]*")
_IN_TRAINING = frozenset({"train_begin", "train_resumed", "epoch_begin", "epoch_end"})

_log = logging.getLogger(__name__)


class RunSummary(msgspec.Struct, frozen=True):
    """What is known of a run: `epochs` it completed, optimizer steps it did, its latest epoch's metrics."""

    id: str
    name: str
    path: Path
    created: datetime
    status: Status
    attempts: int
    epochs: int
    step: int
    metrics: Mapping[str, float]


class Comparison(msgspec.Struct, frozen=True):
    """How runs differ: the values in each of them of the config's keys that differ, and of the metrics.

    A value is None where a run has none.
    """

    runs: tuple[RunSummary, ...]
    config: Mapping[str, tuple[Any, ...]]
    metrics: Mapping[str, tuple[float | None, ...]]


class _Identity(msgspec.Struct, frozen=True):
    """What `run.json` holds, once and for all."""

    id: str
    name: str
    created: datetime
    parent: str | None = None


@dataclass(frozen=True)
class RunDirectory:
    """The directory of one run: `run.json`, `config.yaml`, `environment.json`, `events.jsonl` and `checkpoints/`.

    `created` is in UTC; `parent` is what the run was started from, if from another run.
    """

    path: Path
    id: str
    name: str
    created: datetime
    parent: str | None = None

    @classmethod
    def create(cls, root: Path, name: str, *, parent: str | None = None) -> RunDirectory:
        """Make a directory for a new run in `root`, for its owner's eyes only; raises RunError where that cannot be."""
        if not _NAME.fullmatch(name):
            raise RunError("a run cannot be called that", expected="letters, digits, '.', '-' and '_'", got=repr(name))
        run_id, created = secrets.token_hex(4), datetime.now(UTC)
        path = root / f"{name}-{created:%Y%m%d-%H%M%S}-{run_id}"
        run = cls(path, run_id, name, created, parent)
        try:
            root.mkdir(parents=True, exist_ok=True)
            path.mkdir(mode=0o700)
            run.checkpoints.mkdir()
            with (path / "run.json").open("wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(_Identity(run_id, name, created, parent))))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(
                "a directory for the run cannot be made",
                where=str(path),
                got=error.strerror,
                hint="run.dir: a folder that can be written",
            ) from error
        return run

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """Open the directory of a run that exists; raises RunError where there is none."""
        file = path / "run.json"
        try:
            identity = msgspec.json.decode(file.read_bytes(), type=_Identity)
        except OSError as error:
            raise RunError("no run here", where=str(path), expected="a run.json in it", got=error.strerror) from error
        except msgspec.DecodeError as error:
            raise RunError("the run's identity cannot be read", where=str(file), got=str(error)) from error
        return cls(path, identity.id, identity.name, identity.created, identity.parent)

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.path / "config.yaml"

    @property
    def journal(self) -> Path:
        """The record of what happened; its newest part, where it has several."""
        return journal_path(self.path)

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    def environment(self, attempt: int = 1) -> Path:
        """The file that says where an attempt ran."""
        return self.path / ("environment.json" if attempt == 1 else f"environment.{attempt}.json")

    def summary(self) -> RunSummary:
        """Sum up the run from the end of its journal, of which no more is read than its last epoch."""
        status: Status | None = "running" if writer_of(self.journal) is not None else None
        attempts = epochs = step = 0
        metrics: Mapping[str, float] = {}
        for record in newest_first(self.journal):
            attempts, step = max(attempts, record["attempt"]), max(step, record["step"])
            if status is None and record["event"] == "train_end":
                status = record["status"]
            elif status is None and record["event"] in _IN_TRAINING:
                status = "crashed"
            if record["event"] == "epoch_end":
                epochs, metrics = record["epoch"] + 1, numbers(record["metrics"])
                break
        status = status or ("crashed" if attempts else "unknown")
        return RunSummary(self.id, self.name, self.path, self.created, status, attempts, epochs, step, metrics)

    def history(self) -> dict[int, dict[str, float]]:
        """Return the metrics of every epoch; of one that was trained again, the later ones."""
        with contextlib.closing(LogReader(self.journal)) as records:
            epochs = [record for record in records if record["event"] == "epoch_end"]
        return {record["epoch"]: numbers(record["metrics"]) for record in epochs}


def find(root: Path, text: str) -> RunDirectory:
    """Return the run that `text` means: `latest`, an id, a folder's name, the beginning of either, or a path.

    Raises RunError where none or several are meant.
    """
    runs = _runs(root)
    if text == "latest" and runs:
        return runs[-1]
    named = [run for run in runs if text in (run.id, run.path.name)]
    if not named and (Path(text) / "run.json").exists():
        return RunDirectory.open(Path(text))
    fitting = named or [run for run in runs if run.path.name.startswith(text) or run.id.startswith(text)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise RunError(
            f"{text!r} is the beginning of several runs",
            where=str(root),
            expected="one of " + ", ".join(run.path.name for run in fitting),
        )
    names = [name for run in runs for name in (run.path.name, run.id)]
    raise RunError(
        f"no run {text!r}",
        where=str(root),
        expected="latest, an id, a folder's name, the beginning of either, or a path",
        got=None if runs else "no runs at all",
        hint=nearest(text, names),
    )


def list_runs(root: Path) -> list[RunSummary]:
    """Sum up all runs in `root`, the oldest first."""
    return [run.summary() for run in _runs(root)]


def prune(root: Path, *, keep: int, older_than: timedelta | None = None, dry_run: bool = False) -> list[RunDirectory]:
    """Remove all runs but the newest `keep`, of these only those created longer ago than `older_than`; return them.

    A run that is alive stays. With `dry_run` all stay, and those that would go are returned. Raises RunError where a
    directory cannot be removed.
    """
    latest = datetime.now(UTC) - (older_than or timedelta(0))
    runs = _runs(root)
    doomed = [run for run in runs[: max(0, len(runs) - keep)] if run.created <= latest]
    if dry_run:
        return [run for run in doomed if writer_of(run.journal) is None]
    return [run for run in doomed if _remove(run)]


def numbers(metrics: Mapping[K, Any]) -> dict[K, float]:
    """Return recorded metrics as they were measured: NaN and infinities were written by name."""
    return {name: float(value) for name, value in metrics.items() if _is_number(value)}


def _remove(run: RunDirectory) -> bool:
    """Whether the run is gone; it is not when it is alive."""
    try:
        with contextlib.closing(Lock(lock_path(run.journal))):  # so that nobody resumes it meanwhile
            shutil.rmtree(run.path)
    except LogBusyError:
        return False
    except OSError as error:
        raise RunError("the run cannot be removed", where=str(run.path), got=error.strerror) from error
    return True


def compare(runs: Sequence[RunDirectory]) -> Comparison:
    """Return how runs differ: in their configs, and in the metrics of their latest epochs."""
    configs = [dict(_flat(config.read(run.config))) for run in runs]
    summaries = tuple(run.summary() for run in runs)
    return Comparison(
        runs=summaries,
        config={key: values for key, values in _beside(configs) if any(value != values[0] for value in values)},
        metrics=dict(_beside([summary.metrics for summary in summaries])),
    )


def _beside(mappings: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield each key of any mapping with the values in all of them, None where there is none."""
    for key in dict.fromkeys(key for mapping in mappings for key in mapping):
        yield key, tuple(mapping.get(key) for mapping in mappings)


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings under dotted keys, as `--set` takes them."""
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _runs(root: Path) -> list[RunDirectory]:
    """Return the runs in `root`, the oldest first; none where there is no such folder."""
    runs = []
    for file in root.glob("*/run.json"):
        if not file.parent.is_symlink():
            try:
                runs.append(RunDirectory.open(file.parent))
            except RunError as error:
                _log.warning("%s", error)
    return sorted(runs, key=lambda run: (run.created, run.path.name))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or value in ("NaN", "Infinity", "-Infinity")
