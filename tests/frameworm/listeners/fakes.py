"""A trainer that does not train: it has the facts, publishes what it is told and remembers what was asked of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bus import EventBus
from frameworm.config import TrainerConfig
from frameworm.events import (
    BatchBegin,
    BatchEnd,
    EpochBegin,
    EpochEnd,
    TrainBegin,
    TrainEnd,
    ValidationBegin,
)


@dataclass
class FakeTrainer:
    """Everything a listener may see of a trainer."""

    bus: EventBus = field(default_factory=EventBus)
    epochs: int = 3
    batches_per_epoch: int | None = 4
    config: Mapping[str, Any] = field(default_factory=dict)
    options: TrainerConfig = field(default_factory=TrainerConfig)
    run_id: str = "digits-1"
    name: str = "digits"
    run_dir: Path | None = Path("runs/digits-1")
    model_name: str = "cnn"
    model: Any = None
    optimizer: Any = None
    optimizers: Any = field(default_factory=dict)
    rank: int = 0
    attempt: int = 1
    epoch: int = 0
    step: int = 0
    status: str = "running"
    error: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)

    def stop(self, reason: str = "", *, by: str | None = None) -> None:
        """Remember that it was asked to stop."""
        self.asked.append(("stop", reason))

    def skip_batch(self, reason: str = "", *, by: str | None = None) -> None:
        """Remember that it was asked to skip a batch."""
        self.asked.append(("skip", reason))

    def validate_now(self, reason: str = "", *, by: str | None = None) -> None:
        """Remember that it was asked to validate."""
        self.asked.append(("validate", reason))

    def save_now(self, reason: str = "", *, by: str | None = None) -> None:
        """Remember that it was asked to save."""
        self.asked.append(("save", reason))

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Remember the metrics."""
        self.metrics |= metrics

    def end_epoch(self, epoch: int, **metrics: float) -> None:
        """Publish the end of an epoch."""
        self.epoch = epoch
        self.bus.publish(EpochEnd(self, epoch, metrics))

    def train(
        self, epochs: Sequence[Mapping[str, float]], batch: Any = None, loss: Any = 0.5, status: str = "finished"
    ) -> None:
        """Publish a whole run whose epochs end with these metrics."""
        self.bus.publish(TrainBegin(self, self.epochs))
        for epoch, metrics in enumerate(epochs):
            self.epoch = epoch
            self.bus.publish(EpochBegin(self, epoch))
            for index in range(self.batches_per_epoch or 2):
                self.bus.publish(BatchBegin(self, index, batch))
                self.step += 1
                self.bus.publish(BatchEnd(self, index, loss))
            self.bus.publish(ValidationBegin(self))
            self.end_epoch(epoch, **metrics)
        self.bus.publish(TrainEnd(self, status, None, None))
