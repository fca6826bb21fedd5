"""Makes the events of a run as a listener off the publishing thread gets them, one second apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec

from bus import Event
from frameworm.events import (
    BatchEnd,
    CheckpointSaved,
    EpochEnd,
    MetricsLogged,
    TrainBegin,
    TrainEnd,
    TrainFailed,
    TrainResumed,
)
from frameworm.facts import RunView

START = datetime(2030, 1, 1, tzinfo=UTC)
CONFIG: Mapping[str, Any] = {"optimizer": {"name": "adamw", "lr": 0.001}, "callbacks": [{"c": {"token": "***"}}]}


class Story:
    """A run's events, in order: each call makes the next one."""

    def __init__(self, run_id: str = "r1", *, run_dir: Path | None = None, config: Any = CONFIG) -> None:
        self.run_id = run_id
        self.run_dir = run_dir
        self.config = config
        self.attempt = 1
        self.epoch = 0
        self.step = 0
        self.seq = 0

    def begin(self) -> TrainBegin:
        """The beginning of an attempt."""
        return TrainBegin(self.view(), 3)

    def batch(self, loss: float) -> BatchEnd:
        """A batch, with which a step is done."""
        self.step += 1
        return BatchEnd(self.view(), 0, loss)

    def epoch_end(self, **metrics: float) -> EpochEnd:
        """The end of an epoch; the next one is current then."""
        event = EpochEnd(self.view(), self.epoch, metrics)
        self.epoch += 1
        return event

    def logged(self, **metrics: float) -> MetricsLogged:
        """Metrics of somebody's own."""
        return MetricsLogged(self.view(), metrics)

    def saved(self, path: Path) -> CheckpointSaved:
        """A checkpoint."""
        return CheckpointSaved(self.view(), str(path))

    def failed(self, error: str) -> TrainFailed:
        """The failure of the attempt."""
        return TrainFailed(self.view("failed", error), cast("Any", None), error)

    def end(self, status: str = "finished", error: str | None = None) -> TrainEnd:
        """The end of the attempt."""
        return TrainEnd(self.view(status, error), status, None, error)

    def crash(self) -> TrainEnd:
        """The end of an attempt whose process is gone: it is not recorded, and has the number of the last record."""
        self.seq -= 1
        return self.end("crashed")

    def resume(self, *, step: int, epoch: int = 0) -> Sequence[Event]:
        """The next attempt, from a checkpoint at this step."""
        self.attempt += 1
        self.step, self.epoch = step, epoch
        return [self.begin(), TrainResumed(self.view(), f"checkpoints/step-{step:08d}")]

    def view(self, status: str = "running", error: str | None = None) -> Any:
        """The facts now; it is a second later each time."""
        self.seq += 1
        return RunView(
            run_id=self.run_id,
            name="digits",
            run_dir=self.run_dir,
            config=self.config,
            model_name="mlp",
            rank=0,
            attempt=self.attempt,
            epochs=3,
            epoch=self.epoch,
            step=self.step,
            metrics={},
            status=status,
            error=error,
            time=START + timedelta(seconds=self.seq),
            seq=self.seq,
        )


class Trainer(NamedTuple):
    """A source as it is in step with training: it gives a view of itself."""

    view: RunView

    def detached(self, _event: Event) -> RunView:
        """The facts as they are now."""
        return self.view


def live(event: Event) -> Event:
    """Return the event as it is published."""
    return msgspec.structs.replace(event, source=Trainer(event.source))
