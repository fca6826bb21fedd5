"""A line per epoch for people, and the best one: the smallest plugin that is of use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from frameworm.core import register_callback
from frameworm.events import TrainerHandle
from frameworm.plugins.hooks import CallbackHook


class EpochReport(CallbackHook):
    """Prints `monitor` at each epoch's end, and remembers the epoch in which it was best.

    `mode` says whether a lower (`min`) or a higher value (`max`) is better. An epoch that has no such metric, because
    nothing was validated in it, and a NaN are never the best.
    """

    def __init__(self, monitor: str = "val_loss", mode: Literal["min", "max"] = "min") -> None:
        self.monitor = monitor
        self.mode = mode
        self.best: float | None = None
        self.best_epoch: int | None = None

    def on_epoch_end(self, trainer: TrainerHandle, epoch: int, metrics: Mapping[str, float]) -> None:
        """Print the epoch's metric, compared with the best."""
        value = metrics.get(self.monitor)
        if self._improves(value):
            self.best, self.best_epoch = value, epoch
        best = "best so far" if self.best_epoch == epoch else self._best()
        shown = "not taken" if value is None else f"{value:.4f}"
        print(f"[epoch_report] epoch {epoch + 1}/{trainer.epochs}: {self.monitor} {shown}, {best}")

    def on_train_end(self) -> None:
        """Print the best epoch."""
        print(f"[epoch_report] {self.monitor}: {self._best()}")

    def state_dict(self) -> dict[str, Any]:
        """Return the best value and its epoch, for the checkpoint."""
        return {"best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on comparing with a checkpoint's best."""
        self.best, self.best_epoch = state["best"], state["best_epoch"]

    def _improves(self, value: float | None) -> bool:
        if value is None or value != value:  # noqa: PLR0124  NaN
            return False
        return self.best is None or (value < self.best if self.mode == "min" else value > self.best)

    def _best(self) -> str:
        if self.best is None or self.best_epoch is None:
            return "no best yet"
        return f"best {self.best:.4f} in epoch {self.best_epoch + 1}"


def register() -> None:
    """Make the report available to configs as `epoch_report`; nothing is switched on by that."""
    register_callback("epoch_report", EpochReport)
