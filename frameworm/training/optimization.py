"""One optimizer of a model, and how its steps are taken: with which schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from frameworm.errors import CheckpointError
from frameworm.training.schedules import Schedule


class Optimization:
    """Takes the steps of `optimizer`; a `schedule` moves after each of them or at the end of each epoch."""

    def __init__(self, optimizer: Optimizer, *, schedule: Schedule | None = None) -> None:
        self.optimizer = optimizer
        self.schedule = schedule

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on."""
        return {
            "type": type(self.optimizer).__name__,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.schedule.scheduler.state_dict() if self.schedule else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state. Raises CheckpointError when it is another optimizer's."""
        kind = type(self.optimizer).__name__
        if state["type"] != kind:  # torch itself would take it, and fail in the first step
            raise CheckpointError(
                "the checkpoint is of another optimizer",
                expected=kind,
                got=state["type"],
                hint="the optimizer section of that run's config.yaml",
            )
        self.optimizer.load_state_dict(state["optimizer"])
        if self.schedule is not None and state["scheduler"] is not None:
            self.schedule.scheduler.load_state_dict(state["scheduler"])
