"""Writes a run's metrics to a CSV file: for whoever wants them in a spreadsheet, and needs no tracker for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bus import Event
from frameworm.core import register_callback
from frameworm.events import BatchEnd, EpochEnd, TrainBegin
from frameworm.facts import RunView
from frameworm.plugins.hooks import CallbackHook
from frameworm_plugins.csv_logger.table import Row, Table

COLUMNS = ("run", "epoch", "step", "time")


class CSVLogger(CallbackHook):
    """Writes a row per epoch to `path` (`metrics.csv` in the run's folder); with `steps`, each step's loss beside it.

    When a run is resumed, its rows behind the step from which it goes on are taken out: they come again.
    """

    dispatch = "async"
    events = ("train_begin", "batch_end", "epoch_end")

    def __init__(self, path: Path | None = None, *, steps: bool = False) -> None:
        self.path = path
        self.steps = steps
        self._files: _Files | None = None

    def deliver(self, events: Sequence[Event]) -> None:
        """Write the events; when they come again, the rows are the same."""
        files, self._files = self._files, None  # unless all goes well, what is in the files has to be looked at
        for event in events:
            view: RunView = event.source
            if files is None or files.run != view.run_id:
                files = _Files(self._path(view), view.run_id, steps=self.steps)
            match event:
                case TrainBegin():
                    files.write()
                    files.forget(view.step)
                case EpochEnd(epoch=epoch, metrics=metrics):
                    own = {f"{name}_" if name in COLUMNS else name: value for name, value in metrics.items()}
                    files.epoch({**_position(view), "epoch": epoch, **own})
                case BatchEnd(loss=loss):
                    files.batch({**_position(view), "loss": float(loss)})
        if files is not None:
            files.write()
        self._files = files

    def _path(self, view: RunView) -> Path:
        return self.path or (view.run_dir or Path()) / "metrics.csv"


class _Files:
    """The files of a run, and the rows that wait to be written to them."""

    def __init__(self, path: Path, run: str, *, steps: bool) -> None:
        self.run = run
        self._epochs = Table(path, COLUMNS, key="epoch", run=run)
        beside = path.with_name(f"{path.stem}.steps{path.suffix}")
        self._batches = Table(beside, (*COLUMNS, "loss"), key="step", run=run) if steps else None
        self._new_epochs: list[Row] = []
        self._new_batches: list[Row] = []

    def epoch(self, row: Row) -> None:
        """Have an epoch's row written."""
        self._new_epochs.append(row)

    def batch(self, row: Row) -> None:
        """Have a batch's row written, if it is the first of its step."""
        if self._batches is not None:
            last = self._new_batches[-1]["step"] if self._new_batches else self._batches.last
            if row["step"] > last:
                self._new_batches.append(row)

    def forget(self, above: int) -> None:
        """Take out the rows behind a step."""
        for table in filter(None, (self._epochs, self._batches)):
            table.forget(above)

    def write(self) -> None:
        """Write what waits."""
        self._epochs.add(self._new_epochs)
        if self._batches is not None:
            self._batches.add(self._new_batches)
        self._new_epochs, self._new_batches = [], []


def _position(view: RunView) -> dict[str, Any]:
    time = view.time.isoformat(timespec="milliseconds")
    return {"run": view.run_id, "epoch": view.epoch, "step": view.step, "time": time}


def register() -> None:
    """Make the logger available to configs as `csv`; nothing is switched on by that."""
    register_callback("csv", CSVLogger)
