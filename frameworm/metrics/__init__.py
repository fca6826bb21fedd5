"""Metrics that ship; any class or function of (targets, predictions) or (real_images, fake_images) is one as well."""

from frameworm.metrics.accuracy import Accuracy
from frameworm.metrics.frechet import FrechetPixels, frechet_distance
from frameworm.metrics.regression import MeanAbsoluteError, MeanSquaredError

__all__ = ["Accuracy", "FrechetPixels", "MeanAbsoluteError", "MeanSquaredError", "frechet_distance"]
