"""Stops a run whose monitored metric no longer gets better."""

from __future__ import annotations

import math
from typing import Any, Literal

from bus import EventBus, Subscription
from frameworm.errors import UnknownNameError, UserError
from frameworm.events import EpochEnd, TrainingEvent, ValidationEnd
from frameworm.training.store import direction

Mode = Literal["auto", "min", "max"]


class EarlyStopping:
    """Stops training when `monitor` has not improved by more than `min_delta` for `patience` epochs in a row.

    `mode` says whether it should fall ("min") or rise ("max"); "auto" takes it from the metric's name. An epoch without
    the metric, because nothing was validated in it, does not count; a NaN is no improvement. With
    `trainer.validate_every_steps` a metric of validation is looked at, and `patience` counts, at each validation that
    comes by itself.

    Raises UserError for options that make no sense; at the end of the first epoch that should have the metric and has
    not, UnknownNameError ends the training.
    """

    def __init__(
        self, monitor: str = "val_loss", patience: int = 3, mode: Mode = "auto", min_delta: float = 0.0
    ) -> None:
        _check(monitor, patience, mode, min_delta)
        self.monitor = monitor
        self.patience = patience
        self.min_delta = float(min_delta)
        self.sign = 1.0 if direction(monitor, mode) == "max" else -1.0
        self.best: float | None = None
        self.waited = 0  # epochs, or validations, since the best one

    def register(self, bus: EventBus) -> tuple[Subscription[Any], ...]:
        """Listen on `bus`, behind the hooks that add metrics; cancelling the returned subscriptions undoes it."""
        return (
            bus.subscribe(EpochEnd, self._epoch_end, priority=90, on_error="raise", name="early_stopping", owner=self),
            bus.subscribe(
                ValidationEnd, self._validation_end, priority=90, on_error="raise", name="early_stopping", owner=self
            ),
        )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on waiting."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.best, self.waited = state["best"], state["waited"]

    def _epoch_end(self, event: EpochEnd) -> None:
        if self._is_by_the_steps(event):
            return
        value = event.metrics.get(self.monitor)
        if value is not None:
            self._look(value, event, "epoch")
        elif not (self.monitor.startswith("val_") and _validates_later(event)):
            raise UnknownNameError("metric", self.monitor, event.metrics, where="early_stopping: monitor")

    def _validation_end(self, event: ValidationEnd) -> None:
        if event.asked or not self._is_by_the_steps(event):
            return
        if self.monitor not in event.metrics:
            raise UnknownNameError("metric", self.monitor, event.metrics, where="early_stopping: monitor")
        self._look(event.metrics[self.monitor], event, "validation")

    def _is_by_the_steps(self, event: TrainingEvent) -> bool:
        return self.monitor.startswith("val_") and event.source.options.validate_every_steps is not None

    def _look(self, value: float, event: TrainingEvent, unit: str) -> None:
        if self._improves(value):
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            best = "ever" if self.best is None else f"on {self.best:.6g}"
            many = unit if self.waited == 1 else f"{self.waited} {unit}s"
            event.source.stop(f"early stopping: {self.monitor} did not improve {best} for {many}", by="early_stopping")

    def _improves(self, value: float) -> bool:
        if math.isnan(value):
            return False
        return self.best is None or self.sign * (value - self.best) > self.min_delta


def _validates_later(event: EpochEnd) -> bool:
    """Whether nothing was validated in this epoch because its turn has not come."""
    if any(name.startswith("val_") for name in event.metrics):
        return False
    return bool((event.epoch + 1) % event.source.options.validate_every)


def _check(monitor: Any, patience: Any, mode: Any, min_delta: Any) -> None:
    whole = isinstance(patience, int) and not isinstance(patience, bool)
    number = isinstance(min_delta, int | float) and not isinstance(min_delta, bool)
    options = {
        "monitor": (isinstance(monitor, str) and bool(monitor), "the name of a metric", monitor),
        "patience": (whole and patience >= 1, "a whole number of epochs, at least 1", patience),
        "mode": (mode in ("auto", "min", "max"), "auto, min or max", mode),
        "min_delta": (number and min_delta >= 0, "a number, at least 0", min_delta),
    }
    for option, (fits, expected, got) in options.items():
        if not fits:
            raise UserError(f"early_stopping: {option} is wrong", expected=expected, got=repr(got))
