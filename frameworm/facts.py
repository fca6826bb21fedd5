"""What a listener may read of a run in every lane, and the frozen value that carries it off the publishing thread."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec


class RunFacts(Protocol):
    """What every listener may read of a run, in whichever lane it is served."""

    @property
    def run_id(self) -> str:
        """The run's id, unique on this machine; empty for a run that is not recorded."""

    @property
    def name(self) -> str:
        """The run's name."""

    @property
    def run_dir(self) -> Path | None:
        """Where the run is recorded, if it is."""

    @property
    def config(self) -> Mapping[str, Any]:
        """The resolved configuration, secrets redacted."""

    @property
    def model_name(self) -> str:
        """The name under which the model was registered, or its class's."""

    @property
    def rank(self) -> int:
        """This process's rank among those that train together, from 0."""

    @property
    def attempt(self) -> int:
        """How many times this run was started, from 1."""

    @property
    def epoch(self) -> int:
        """The current epoch, from 0."""

    @property
    def epochs(self) -> int:
        """How many epochs are asked for."""

    @property
    def step(self) -> int:
        """Optimizer steps done since the run began, in all attempts."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """The metrics known so far, the latest value of each."""

    @property
    def status(self) -> str:
        """One of `running`, `finished`, `stopped`, `failed`, `interrupted`; off the process also `crashed`."""

    @property
    def error(self) -> str | None:
        """Why it failed, as `Type: text`."""


class RunView(msgspec.Struct, frozen=True, eq=False):
    """The facts of a run as they were when an event was published: the `source` of events off the publishing thread.

    `time` is when that was, in UTC; `seq` is the number of the event's record, 0 where it has none. It can be read
    and not steered: what would change the run is not there.
    """

    run_id: str
    name: str
    run_dir: Path | None
    config: Mapping[str, Any]
    model_name: str
    rank: int
    attempt: int
    epochs: int
    epoch: int
    step: int
    metrics: Mapping[str, float]
    status: str
    error: str | None
    time: datetime
    seq: int = 0
