"""Synthetic data has the shapes that were asked for, and can be learned."""

from __future__ import annotations

import pytest
import torch

from frameworm.core import create, get_dataset
from frameworm.data import ArrayDataset, Splits, synthetic
from frameworm.errors import UserError


def _columns(splits: Splits) -> tuple[torch.Tensor, torch.Tensor]:
    assert isinstance(splits.train, ArrayDataset)
    x, y = splits.train.columns
    return x, y


def test_regression_is_linear_but_for_the_noise() -> None:
    """Least squares finds the map; what remains is the noise."""
    x, y = _columns(synthetic(inputs=7, targets=3, samples=2000, noise=0.1, val_fraction=0))
    assert (x.shape, y.shape, x.dtype, y.dtype) == ((2000, 7), (2000, 3), torch.float32, torch.float32)
    weights = torch.linalg.lstsq(x, y).solution
    assert (y - x @ weights).std() == pytest.approx(0.1, rel=0.05)


def test_classes_can_be_told_apart() -> None:
    """Labels are all the classes, and a linear map tells most of them."""
    x, y = _columns(synthetic(inputs=7, samples=2000, classes=4, val_fraction=0))
    assert (y.shape, y.dtype) == ((2000,), torch.int64)
    assert sorted(set(y.tolist())) == [0, 1, 2, 3]
    scores = x @ torch.linalg.lstsq(x, torch.nn.functional.one_hot(y).float()).solution
    assert (scores.argmax(1) == y).float().mean() > 0.8


def test_the_seed_decides() -> None:
    """The same seed gives the same data, the global generator has no part in it."""
    torch.manual_seed(1)
    first = _columns(synthetic(seed=4))
    torch.manual_seed(2)
    assert all(map(torch.equal, first, _columns(synthetic(seed=4))))
    assert not torch.equal(first[0], _columns(synthetic(seed=5))[0])


def test_a_config_with_nonsense_is_an_error_about_the_option() -> None:
    """The limits are in the signature."""
    with pytest.raises(UserError, match=r"'inputs' of dataset 'synthetic'(.|\n)*at least 1"):
        create("dataset", "synthetic", get_dataset("synthetic"), {"inputs": 0})
