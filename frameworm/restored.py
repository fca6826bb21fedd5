"""What listeners are given as the trainer where nothing is trained: the facts of a run at one of its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from bus import EventBus
from frameworm import config as configs
from frameworm.config import Config, TrainerConfig
from frameworm.events import MetricsLogged
from frameworm.training.device import resolve_device
from frameworm.training.manifest import Checkpoint
from frameworm.training.means import number


@dataclass
class Restored:
    """The facts of the run, which can be read; what is asked of it is not done, since nothing is trained."""

    bus: EventBus
    model: nn.Module
    options: TrainerConfig
    run_id: str
    name: str
    run_dir: Path | None
    config: Mapping[str, Any]
    model_name: str
    epoch: int
    epochs: int
    step: int
    metrics: dict[str, float] = field(default_factory=dict)
    optimizer: None = None
    optimizers: Mapping[str, Any] = field(default_factory=dict)
    batches_per_epoch: int | None = None
    rank: int = 0
    attempt: int = 1
    status: str = "ready"
    error: str | None = None

    def stop(self, reason: str = "", *, by: str | None = None) -> None:
        """Do nothing: nothing is trained."""

    def skip_batch(self, reason: str = "", *, by: str | None = None) -> None:
        """Do nothing: nothing is trained."""

    def save_now(self, reason: str = "", *, by: str | None = None) -> None:
        """Do nothing: it is saved."""

    def validate_now(self, reason: str = "", *, by: str | None = None) -> None:
        """Do nothing: nothing is trained."""

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Publish metrics, as a trainer does."""
        values = {name: number(value) for name, value in metrics.items()}
        self.metrics |= values
        self.bus.publish(MetricsLogged(self, values))


def restored(config: Config, found: Checkpoint, model: nn.Module, bus: EventBus) -> Restored:
    """Return the facts of the checkpoint's run; the model goes to the device that the config says."""
    run_dir = found.path.parent.parent
    return Restored(
        bus=bus,
        model=model.to(resolve_device(config.trainer.device)),
        options=config.trainer,
        run_id=found.manifest.run,
        name=config.run.name,
        run_dir=run_dir if (run_dir / "run.json").exists() else None,
        config=configs.redact(config.stored),
        model_name=config.model.name,
        epoch=found.manifest.epoch,
        epochs=config.trainer.epochs,
        step=found.manifest.step,
    )
