"""Keeps a run's parameters, metrics and end in MLflow; MLflow is imported when a config asks for it, and not before."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from frameworm.core import register_callback
from frameworm.errors import UserError
from frameworm.facts import RunFacts
from frameworm.plugins.hooks import CallbackHook

RUN_ID = "frameworm.run_id"
"""The tag by which a run that is resumed finds itself."""

ENDINGS = {"finished": "FINISHED", "stopped": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
LONGEST = 6000  # characters of a parameter's value that MLflow takes
MOST = 100  # parameters that it takes at once


class MLflowLogger(CallbackHook):
    """Logs to `experiment` (the run's name when left out), as a run called `run_name` (its folder's name).

    `tracking_uri` is where MLflow keeps it; when left out, MLflow decides (`MLFLOW_TRACKING_URI`, else its own default
    in the current folder). A run that is resumed goes on in the MLflow run that it began in.
    """

    def __init__(
        self, experiment: str | None = None, tracking_uri: str | None = None, run_name: str | None = None
    ) -> None:
        if find_spec("mlflow") is None:
            message = "the callback mlflow needs MLflow, which is not installed"
            raise UserError(message, hint="pip install 'frameworm[mlflow]'")
        self.experiment = experiment
        self.run_name = run_name
        # The client keeps no active run, of which there is one in a process, whoever trains in it.
        self._client: Any = import_module("mlflow").MlflowClient(tracking_uri=tracking_uri)
        self._entities: Any = import_module("mlflow.entities")
        self._run: str | None = None

    def on_train_begin(self, trainer: RunFacts) -> None:
        """Begin the run in MLflow, or go on with the one that was begun."""
        experiment = self._experiment(self.experiment or trainer.name)
        name = self.run_name or (trainer.run_dir.name if trainer.run_dir else trainer.name)
        self._run = self._earlier(experiment, trainer.run_id)
        if self._run is None:
            tags = {RUN_ID: trainer.run_id} if trainer.run_id else {}
            self._run = self._client.create_run(experiment, tags=tags, run_name=name).info.run_id
            parameters = [self._entities.Param(key, value[:LONGEST]) for key, value in flat(trainer.config)]
            for first in range(0, len(parameters), MOST):
                self._client.log_batch(self._run, params=parameters[first : first + MOST])
        else:
            self._client.update_run(self._run, status="RUNNING")

    def on_epoch_end(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log the epoch's metrics; `epoch` is the step."""
        if self._run is not None:  # else its beginning has failed
            now = time.time_ns() // 1_000_000  # MLflow counts milliseconds
            entries = [self._entities.Metric(name, value, now, epoch) for name, value in metrics.items()]
            self._client.log_batch(self._run, metrics=entries)

    def on_train_end(self, trainer: RunFacts) -> None:
        """End the run as it ended."""
        if self._run is None:
            return
        if trainer.error:
            self._client.set_tag(self._run, "frameworm.error", trainer.error[:LONGEST])
        self._client.set_terminated(self._run, status=ENDINGS[trainer.status])
        self._run = None

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        return str(self._client.create_experiment(name) if found is None else found.experiment_id)

    def _earlier(self, experiment: str, run_id: str) -> str | None:
        if not run_id:  # a run that is not kept is nobody's later attempt
            return None
        found = self._client.search_runs([experiment], filter_string=f"tags.`{RUN_ID}` = '{run_id}'", max_results=1)
        return str(found[0].info.run_id) if found else None


def flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Return the values of a config as text, each under the path to it: `optimizer.lr`, `callbacks.0.mlflow.uri`."""
    for key, value in tree.items():
        path = f"{above}{key}"
        if isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
            yield from flat({str(index): item for index, item in enumerate(value)}, f"{path}.")
        elif isinstance(value, Mapping):
            yield from flat(value, f"{path}.")
        else:
            yield path, str(value)


def register() -> None:
    """Make the logger available to configs as `mlflow`; nothing is switched on, or imported, by that."""
    register_callback("mlflow", MLflowLogger)
