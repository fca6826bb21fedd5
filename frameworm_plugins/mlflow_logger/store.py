"""The door to MLflow: what it takes, in the portions and under the names that it takes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from frameworm.facts import RunView
from frameworm.plugins.tracking import Point, flat

T = TypeVar("T")

RUN_ID = "frameworm.run_id"
"""The tag by which a run that is resumed finds itself."""

ENDINGS = {"finished": "FINISHED", "stopped": "FINISHED", "interrupted": "KILLED"}  # all others: FAILED
LONGEST = 6000  # characters of a parameter's value that MLflow takes
LONGEST_KEY = 250
MOST_METRICS = 1000  # that it takes at once
MOST_PARAMETERS = 100

# The relay tries again, by its own measure; MLflow's own attempts would take four minutes. Nor is there a
# person to print addresses to.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class Store:
    """An MLflow store at `uri`, or where MLflow keeps it by itself; made at the first event, not before.

    All of its methods may be called again, and raise MLflow's own errors, which know their HTTP status.
    """

    def __init__(self, uri: str | None) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self._mlflow: Any = import_module("mlflow")
        # The client keeps no active run, of which there is one in a process, whoever trains in it.
        self._client: Any = self._mlflow.MlflowClient(tracking_uri=uri)

    def begin(self, experiment: str, run_name: str, view: RunView) -> str:
        """Return the id of the run's MLflow run, which is begun where there is none yet, with its parameters."""
        experiment_id = self._experiment(experiment)
        found = self._earlier(experiment_id, view.run_id)
        if found is None:
            tags = {RUN_ID: view.run_id} if view.run_id else {}
            started = milliseconds(view.time)
            found = self._client.create_run(experiment_id, started, tags=tags, run_name=run_name)
        run = str(found.info.run_id)
        self._log_parameters(run, view.config, found.data.params)
        return run

    def go_on(self, run: str, attempt: int) -> None:
        """Say that the run is running, in which attempt."""
        self._client.update_run(run, status="RUNNING")
        self._client.set_tag(run, "frameworm.attempt", str(attempt), synchronous=True)

    def log(self, run: str, points: Sequence[Point]) -> None:
        """Store points, whose keys are as MLflow takes them."""
        metric = self._mlflow.entities.Metric
        entries = [metric(point.key, point.value, milliseconds(point.time), point.step) for point in points]
        for some in _portions(entries, MOST_METRICS):
            self._client.log_batch(run, metrics=some, synchronous=True)

    def keep(self, run: str, directory: Path, under: str) -> None:
        """Keep a directory as artifacts; one that was removed meanwhile is no error."""
        try:
            if directory.is_dir():
                self._client.log_artifacts(run, str(directory), under)
        except FileNotFoundError:
            if directory.is_dir():
                raise

    def end(self, run: str, status: str, error: str | None, time: datetime) -> None:
        """End the run as it ended."""
        if error:
            self._client.set_tag(run, "frameworm.error", error[:LONGEST], synchronous=True)
        self._client.set_terminated(run, ENDINGS.get(status, "FAILED"), milliseconds(time))

    def reached(self, run: str) -> dict[str, int]:
        """Return the last step of each metric."""
        keys = self._client.get_run(run).data.metrics
        return {key: max(metric.step for metric in self._client.get_metric_history(run, key)) for key in keys}

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name))
            except self._mlflow.MlflowException:  # unless somebody else was faster
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def _earlier(self, experiment: str, run_id: str) -> Any:
        if not run_id:  # a run that is not kept is nobody's later attempt
            return None
        found = self._client.search_runs([experiment], filter_string=f"tags.`{RUN_ID}` = '{run_id}'", max_results=1)
        return found[0] if found else None

    def _log_parameters(self, run: str, config: Mapping[str, Any], known: Mapping[str, str]) -> None:
        """Log the parameters that are not there; MLflow refuses to change one."""
        values = {key_of(key): value[:LONGEST] for key, value in flat(config)}
        missing = [self._mlflow.entities.Param(key, value) for key, value in values.items() if key not in known]
        for some in _portions(missing, MOST_PARAMETERS):
            self._client.log_batch(run, params=some, synchronous=True)


def key_of(name: str) -> str:
    """Return a name as MLflow takes it: a relative path of letters, digits and ` _-.:/`, where others become `_`."""
    key = re.sub(r"[^/\w.\- :]", "_", name)[:LONGEST_KEY]
    return "/".join(word for word in key.split("/") if word.strip(".")).lstrip(".") or "_"


def milliseconds(time: datetime) -> int:
    """Return a time as MLflow counts it."""
    return int(time.timestamp() * 1000)


def _portions(entries: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    return (entries[first : first + most] for first in range(0, len(entries), most))
