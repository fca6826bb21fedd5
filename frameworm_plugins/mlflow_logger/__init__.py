"""Keeps a run's parameters, metrics and end in MLflow; MLflow is imported at a run's first event, and not before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from bus import Event, EventBus
from frameworm.core import register_callback
from frameworm.errors import UserError
from frameworm.events import CheckpointSaved, TrainBegin, TrainEnd
from frameworm.facts import RunView
from frameworm.plugins.hooks import CallbackHook
from frameworm.plugins.tracking import HighWater, Point, points
from frameworm_plugins.mlflow_logger.store import Store, key_of


class MLflowLogger(CallbackHook):
    """Logs to `experiment` (the run's name when left out), as a run called `run_name` (its folder's name).

    `tracking_uri` is where MLflow keeps it; when left out, MLflow decides (`MLFLOW_TRACKING_URI`, else its own default
    in the current folder). With `checkpoints`, each is kept as an artifact. A run that is resumed goes on in the MLflow
    run that it began in, and every (metric, step) is there once.
    """

    dispatch = "process"
    events = (
        "train_begin",
        "train_resumed",
        "batch_end",
        "epoch_end",
        "metrics_logged",
        "checkpoint_saved",
        "train_end",
    )

    def __init__(
        self,
        experiment: str | None = None,
        tracking_uri: str | None = None,
        run_name: str | None = None,
        *,
        checkpoints: bool = False,
    ) -> None:
        if find_spec("mlflow") is None:
            message = "the callback mlflow needs MLflow, which is not installed"
            raise UserError(message, hint="pip install 'frameworm[mlflow]'")
        self.experiment = experiment
        self.tracking_uri = tracking_uri
        self.run_name = run_name
        self.checkpoints = checkpoints
        self._store: Store | None = None
        self._run: str | None = None
        self._marks = HighWater()
        self._on_bus = False  # where it is served from the record, nobody registers it

    def register(self, bus: EventBus | None = None, **options: Any) -> Self:
        """Register it in the process that trains, as any callback."""
        self._on_bus = True
        return super().register(bus, **options)

    def deliver(self, events: Sequence[Event]) -> None:
        """Store the events; what is stored already, from an earlier call or attempt, is passed over."""
        marks = self._marks.copy()
        waiting: list[Point] = []
        for event in events:
            view: RunView = event.source
            if view.run_id != marks.run:
                self._run = None
            store, run = self._begun(view)
            named = (point._replace(key=key_of(point.key)) for point in points(event))
            waiting += marks.take(view, named)
            if isinstance(event, TrainBegin | TrainEnd | CheckpointSaved):
                store.log(run, waiting)
                waiting = []
            match event:
                case TrainBegin():
                    store.go_on(run, view.attempt)
                    if self._on_bus and view.attempt > 1:  # the state is a checkpoint's: more was logged after it
                        marks.raise_to(store.reached(run))
                case CheckpointSaved(path=path) if self.checkpoints:
                    store.keep(run, Path(path), f"checkpoints/{Path(path).name}")
                case TrainEnd(status=status, error=error):
                    store.end(run, status, error, view.time)
        if self._store and self._run:
            self._store.log(self._run, waiting)
        self._marks = marks

    def state_dict(self) -> dict[str, Any]:
        """Return the id of the run in MLflow, and how far it has come there."""
        return {"remote": self._run, **self._marks.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a logger was that had this state; a run other than that one's begins anew."""
        self._run, self._marks = state["remote"], HighWater.of(state)

    def _begun(self, view: RunView) -> tuple[Store, str]:
        """Return the store and the run in it, which is found again or begun."""
        if self._store is None:
            self._store = Store(self.tracking_uri)
        if self._run is None:
            name = self.run_name or (view.run_dir.name if view.run_dir else view.name)
            self._run = self._store.begin(self.experiment or view.name, name, view)
        return self._store, self._run


def register() -> None:
    """Make the logger available to configs as `mlflow`; nothing is switched on, or imported, by that."""
    register_callback("mlflow", MLflowLogger)
