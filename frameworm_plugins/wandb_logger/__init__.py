"""Keeps a run's config, metrics and end in Weights & Biases; wandb is imported at a run's first event, not before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from bus import Event
from frameworm.core import register_callback
from frameworm.errors import UserError
from frameworm.events import TrainBegin, TrainEnd
from frameworm.facts import RunView
from frameworm.plugins.hooks import CallbackHook
from frameworm.plugins.tracking import HighWater, Point, points
from frameworm_plugins.wandb_logger.remote import STEP, Remote


class WandbLogger(CallbackHook):
    """Logs to `project` (the run's name when left out) of `entity`, as a run called `name` (its folder's name).

    `mode` is `online` or `offline`; when left out, wandb decides (`WANDB_MODE`). `dir` is where its files go, the run's
    folder when left out. The run has the id of ours, so that one that is resumed goes on there.
    """

    dispatch = "process"
    events = ("train_begin", "batch_end", "epoch_end", "metrics_logged", "train_end")

    def __init__(
        self,
        project: str | None = None,
        entity: str | None = None,
        name: str | None = None,
        *,
        mode: Literal["online", "offline"] | None = None,
        dir: Path | None = None,  # noqa: A002  wandb's own name for it
        tags: tuple[str, ...] = (),
    ) -> None:
        if find_spec("wandb") is None:
            message = "the callback wandb needs wandb, which is not installed"
            raise UserError(message, hint="pip install 'frameworm[wandb]'")
        self.project = project
        self.entity = entity
        self.name = name
        self.mode = mode
        self.dir = dir
        self.tags = tags
        self._remote: Remote | None = None
        self._marks = HighWater()

    def deliver(self, events: Sequence[Event]) -> None:
        """Log the events; what is logged already, from an earlier call or attempt, is passed over."""
        marks = self._marks.copy()
        try:
            for event in events:
                view: RunView = event.source
                found = marks.take(view, points(event))
                if found or isinstance(event, TrainBegin | TrainEnd):
                    self._send(event, found)
            if self._remote is not None:
                self._remote.settle()
        except BaseException:
            self._abandon()
            raise
        self._marks = marks

    def state_dict(self) -> dict[str, Any]:
        """Return how far the run has come there."""
        return self._marks.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a logger was that had this state; a run other than that one's begins anew."""
        self._marks = HighWater.of(state)

    def _send(self, event: Event, found: Sequence[Point]) -> None:
        view: RunView = event.source
        if self._remote is None:
            self._remote = Remote.open(view, self._options(view))
        if found:
            values = {point.key: point.value for point in found}
            self._remote.log({**values, STEP: view.step, "_timestamp": view.time.timestamp()})
        if isinstance(event, TrainEnd):
            self._remote.finish(event.status, event.error)
            self._remote = None

    def _abandon(self) -> None:
        if self._remote is not None:
            self._remote.abandon()
            self._remote = None

    def _options(self, view: RunView) -> dict[str, Any]:
        folder = self.dir or view.run_dir
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)  # else wandb goes elsewhere
        return {
            "project": self.project or view.name,
            "entity": self.entity,
            "name": self.name or (view.run_dir.name if view.run_dir else view.name),
            "mode": self.mode,
            "dir": folder,
            "tags": self.tags or None,
        }


def register() -> None:
    """Make the logger available to configs as `wandb`; nothing is switched on, or imported, by that."""
    register_callback("wandb", WandbLogger)
