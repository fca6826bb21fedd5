"""The part that metrics share which are a mean over samples."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from frameworm.errors import UserError


class MeanMetric(ABC):
    """A mean over all that was given to `update`, kept as a sum on the data's device.

    `update` never waits for the device; `compute` does, once.
    """

    def __init__(self) -> None:
        self.reset()

    @staticmethod
    @abstractmethod
    def sum(targets: Tensor, predictions: Tensor) -> tuple[Tensor, int]:
        """The sum over one batch, 0-dim, and how many values went into it; UserError if the shapes do not fit."""

    def reset(self) -> None:
        """Forget everything."""
        self._sum: Tensor | float = 0.0
        self._count = 0

    def update(self, targets: Tensor, predictions: Tensor) -> None:
        """Take in one batch."""
        total, count = self.sum(targets, predictions)
        self._sum = self._sum + total
        self._count += count

    def compute(self) -> float:
        """The mean so far; UserError before the first update."""
        if not self._count:
            raise UserError(f"{type(self).__name__} has seen no samples", expected="update() before compute()")
        return float(self._sum) / self._count

    def __call__(self, targets: Tensor, predictions: Tensor) -> float:
        """The mean over this batch alone."""
        fresh = type(self)()
        fresh.update(targets, predictions)
        return fresh.compute()


def unfit(metric: str, expected: str, targets: Tensor, predictions: Tensor) -> UserError:
    """The error for a batch that `metric` cannot be computed on."""
    got = f"targets {tuple(targets.shape)} {targets.dtype}, predictions {tuple(predictions.shape)} {predictions.dtype}"
    return UserError(
        f"metric {metric!r} does not fit the data", expected=expected, got=got, hint="other metrics, or metrics: []"
    )
