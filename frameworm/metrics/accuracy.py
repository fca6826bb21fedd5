"""How often a classifier is right."""

from __future__ import annotations

from torch import Tensor

from frameworm.metrics.mean import MeanMetric, unfit


class Accuracy(MeanMetric):
    """The fraction of targets (n, ...), whole numbers, whose logits (n, classes, ...) are the largest, in 0..1."""

    @staticmethod
    def sum(targets: Tensor, predictions: Tensor) -> tuple[Tensor, int]:
        """How many of the targets are predicted, and how many there are."""
        one_each = predictions.dim() > 1 and targets.shape == predictions.shape[:1] + predictions.shape[2:]
        if targets.is_floating_point() or not one_each:
            raise unfit("accuracy", "classes (n,), int64, and logits (n, classes)", targets, predictions)
        return (predictions.argmax(1) == targets).sum(), targets.numel()
