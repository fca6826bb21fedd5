"""Metrics: values computed by hand, streaming, and batches they cannot take."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from frameworm.core import get_metric
from frameworm.errors import UserError
from frameworm.metrics import Accuracy, FrechetPixels, MeanAbsoluteError, MeanSquaredError, frechet_distance

LOGITS = torch.tensor([[0.1, 0.9], [2.0, 1.0], [0.0, 1.0]])


def test_accuracy_is_the_fraction_of_largest_logits() -> None:
    """Two of three."""
    assert Accuracy()(torch.tensor([1, 0, 0]), LOGITS) == pytest.approx(2 / 3)


def test_accuracy_of_every_pixel() -> None:
    """Classes are the second dimension; what follows is counted one by one."""
    logits = torch.zeros(1, 3, 2, 2)
    logits[0, 1] = 1
    assert Accuracy()(torch.tensor([[[1, 1], [1, 0]]]), logits) == 0.75


def test_errors_are_means_over_all_numbers() -> None:
    """Squared and absolute."""
    targets, predictions = torch.tensor([[0.0, 1.0], [2.0, 3.0]]), torch.tensor([[1.0, 1.0], [2.0, 0.0]])
    assert MeanSquaredError()(targets, predictions) == 10 / 4
    assert MeanAbsoluteError()(targets, predictions) == 4 / 4


def test_regression_targets_may_lack_the_last_dimension() -> None:
    """(n,) against (n, 1) is compared one by one, never broadcast."""
    assert MeanAbsoluteError()(torch.tensor([1, 2]), torch.tensor([[1.0], [4.0]])) == 1.0


@pytest.mark.parametrize("name", ["accuracy", "mse", "mae", "frechet_pixels"])
def test_streaming_equals_one_batch(name: str) -> None:
    """Batches of unequal size count by their samples; calling does not disturb the stream, and reset forgets it."""
    generator = torch.Generator().manual_seed(0)
    produced = torch.rand(7, 3, generator=generator)
    real = torch.arange(7) % 3 if name == "accuracy" else torch.rand(7, 3, generator=generator)
    metric = get_metric(name)()
    expected = metric(real, produced)
    metric.update(real[:4], produced[:4])
    metric(real, produced)
    metric.update(real[4:], produced[4:])
    assert metric.compute() == pytest.approx(expected)
    metric.reset()
    metric.update(real, produced)
    assert metric.compute() == pytest.approx(expected)
    assert isinstance(metric.compute(), float)


@pytest.mark.parametrize("metric", [Accuracy, MeanSquaredError, MeanAbsoluteError, FrechetPixels])
def test_nothing_seen_is_an_error(metric: type[Accuracy | FrechetPixels]) -> None:
    """There is no mean of nothing."""
    with pytest.raises(UserError):
        metric().compute()


@pytest.mark.parametrize(
    ("metric", "targets", "predictions"),
    [
        (Accuracy, torch.zeros(3), LOGITS),
        (Accuracy, torch.zeros(2).long(), LOGITS),
        (Accuracy, torch.zeros(3).long(), torch.zeros(3)),
        (MeanSquaredError, torch.zeros(3), LOGITS),
        (MeanAbsoluteError, torch.zeros(2, 3), LOGITS),
    ],
)
def test_shapes_that_do_not_fit_are_said(
    metric: type[Accuracy | MeanSquaredError], targets: Tensor, predictions: Tensor
) -> None:
    """The error says what is expected and both shapes."""
    with pytest.raises(UserError, match="does not fit the data") as caught:
        metric()(targets, predictions)
    assert caught.value.got is not None
    assert str(tuple(predictions.shape)) in caught.value.got
    assert caught.value.hint == "other metrics, or metrics: []"


def test_frechet_in_one_dimension() -> None:
    """(m - n)² + (s - t)², for standard deviations s and t: here 2² + (√2 - √8)² = 4 + 2."""
    real = torch.tensor([[0.0], [2.0]])  # mean 1, variance 2
    fake = torch.tensor([[1.0], [5.0]])  # mean 3, variance 8
    assert FrechetPixels()(real, fake) == pytest.approx(6.0)


def test_frechet_of_diagonal_gaussians() -> None:
    """Dimensions add up: 3² + (1 - 2)² and 4² + (3 - 3)²."""
    mean, other = torch.tensor([0.0, 0.0]).double(), torch.tensor([3.0, 4.0]).double()
    a, b = torch.diag(torch.tensor([1.0, 9.0]).double()), torch.diag(torch.tensor([4.0, 9.0]).double())
    assert frechet_distance(mean, a, other, b) == pytest.approx(26.0)


def test_frechet_of_gaussians_with_other_axes() -> None:
    """A = diag(1, 4) and B, the same turned by a right angle, differ by 2 (5 - 4), as A B = 4 I."""
    a, b = torch.diag(torch.tensor([1.0, 4.0]).double()), torch.diag(torch.tensor([4.0, 1.0]).double())
    assert frechet_distance(torch.zeros(2).double(), a, torch.zeros(2).double(), b) == pytest.approx(2.0)


def test_frechet_of_correlated_gaussians() -> None:
    """Against the identity, tr(A^½) is the sum of the roots of A's eigenvalues, here 3 and 1: 2 + 4 - 2 (√3 + 1)."""
    a = torch.tensor([[2.0, 1.0], [1.0, 2.0]]).double()
    distance = frechet_distance(torch.zeros(2).double(), a, torch.zeros(2).double(), torch.eye(2).double())
    assert distance == pytest.approx(4 - 2 * math.sqrt(3))


def test_frechet_sees_no_difference_where_there_is_none() -> None:
    """Also for a singular covariance, with fewer images than pixels; and it is symmetric."""
    images, others = torch.rand(2, 5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert FrechetPixels()(images, images) == pytest.approx(0.0, abs=1e-6)
    assert FrechetPixels()(images, others) == pytest.approx(FrechetPixels()(others, images), rel=1e-6)


def test_frechet_needs_images_of_one_shape_and_two_of_each() -> None:
    """Neither is a matter of luck."""
    with pytest.raises(UserError, match="do not look like the real ones"):
        FrechetPixels()(torch.rand(4, 1, 8, 8), torch.rand(4, 3, 8, 8))
    with pytest.raises(UserError, match="at least 2 images"):
        FrechetPixels()(torch.rand(4, 1, 8, 8), torch.rand(1, 1, 8, 8))
