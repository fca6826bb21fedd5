"""Writes a run's metrics for TensorBoard; nothing of TensorBoard is imported before a run's first event."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bus import Event
from frameworm.core import register_callback
from frameworm.errors import UserError
from frameworm.events import TrainBegin
from frameworm.facts import RunView
from frameworm.plugins.hooks import CallbackHook
from frameworm.plugins.tracking import points
from frameworm_plugins.tensorboard_logger import eventfile


class TensorBoardLogger(CallbackHook):
    """Writes an event file, in `tensorboard` in the run's folder, or in a folder of the run's name in `log_dir`.

    A run has one file, which its later attempts go on with; steps that they redo take the place of the earlier ones.
    """

    dispatch = "process"
    events = ("train_begin", "batch_end", "epoch_end", "metrics_logged")

    def __init__(self, log_dir: Path | None = None) -> None:
        if find_spec("tensorboard") is None:
            message = "the callback tensorboard needs TensorBoard, which is not installed"
            raise UserError(message, hint="pip install 'frameworm[tensorboard]'")
        self.log_dir = log_dir
        self._run: str | None = None
        self._size = 0

    def deliver(self, events: Sequence[Event]) -> None:
        """Write the events behind those of the last call that succeeded."""
        view: RunView = events[0].source
        path = self._path(view)
        size = self._beginning(path, events[0])
        begins = [] if size else [eventfile.header(view.time)]
        self._size = eventfile.write(path, size, [*begins, *_entries(events)])
        self._run = view.run_id

    def state_dict(self) -> dict[str, Any]:
        """Return of which run how many bytes are written."""
        return {"run": self._run, "size": self._size}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a logger was that had this state; a run other than that one's begins anew."""
        self._run, self._size = state["run"], state["size"]

    def _path(self, view: RunView) -> Path:
        folder = view.run_dir.name if view.run_dir else view.name
        home = view.run_dir / "tensorboard" if view.run_dir and self.log_dir is None else None
        return (home or (self.log_dir or Path("tensorboard")) / folder) / f"events.out.tfevents.{view.run_id or 'run'}"

    def _beginning(self, path: Path, event: Event) -> int:
        """Return behind how many bytes of the file to write."""
        view: RunView = event.source
        if view.run_id == self._run:
            return eventfile.whole(path, self._size)
        is_first = isinstance(event, TrainBegin) and view.attempt == 1
        return 0 if is_first else eventfile.whole(path)  # without a state, not even the run's first event is known


def _entries(events: Sequence[Event]) -> Iterator[Any]:
    for event in events:
        view: RunView = event.source
        if isinstance(event, TrainBegin) and view.attempt > 1:
            yield eventfile.restart(view.time, view.step + 1 if view.step else 0)
        elif found := points(event):
            yield eventfile.scalars(found)


def register() -> None:
    """Make the logger available to configs as `tensorboard`; nothing is switched on, or imported, by that."""
    register_callback("tensorboard", TensorBoardLogger)
