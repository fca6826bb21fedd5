"""How far a regression is off."""

from __future__ import annotations

from torch import Tensor

from frameworm.metrics.mean import MeanMetric, unfit


class MeanSquaredError(MeanMetric):
    """The mean of the squared differences between targets and predictions of one shape (n, ...)."""

    @staticmethod
    def sum(targets: Tensor, predictions: Tensor) -> tuple[Tensor, int]:
        """The sum of squared differences, and how many there are."""
        return _differences("mse", targets, predictions).square().sum(), targets.numel()


class MeanAbsoluteError(MeanMetric):
    """The mean of the absolute differences between targets and predictions of one shape (n, ...)."""

    @staticmethod
    def sum(targets: Tensor, predictions: Tensor) -> tuple[Tensor, int]:
        """The sum of absolute differences, and how many there are."""
        return _differences("mae", targets, predictions).abs().sum(), targets.numel()


def _differences(metric: str, targets: Tensor, predictions: Tensor) -> Tensor:
    if targets.numel() != predictions.numel() or len(targets) != len(predictions):  # broadcasting would hide it
        raise unfit(metric, "as many targets as predictions", targets, predictions)
    return predictions.float() - targets.reshape(predictions.shape).float()
