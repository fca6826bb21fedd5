"""Data out of a formula, to try a model on before its own data is there."""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta

from frameworm.data.splits import Splits, split_arrays

Count = Annotated[int, Meta(ge=1)]


def synthetic(
    inputs: Count = 10,
    targets: Count = 5,
    samples: Count = 1024,
    *,
    val_fraction: float = 0.2,
    seed: int = 0,
    classes: Annotated[int, Meta(ge=2)] | None = None,
    noise: Annotated[float, Meta(ge=0)] = 0.1,
) -> Splits:
    """A random linear map to be learned: x, float32 (inputs,), is standard normal and y is W x / sqrt(inputs) + noise.

    y is float32 (targets,), of unit variance but for the noise, whose standard deviation is `noise`. With `classes`,
    the map has that many outputs instead and y is the index of the largest, int64 ().
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, inputs, generator=generator)
    weights = torch.randn(inputs, classes or targets, generator=generator) / inputs**0.5
    outputs = x @ weights
    y = outputs + noise * torch.randn(outputs.shape, generator=generator)
    return split_arrays(x, y.argmax(1) if classes else y, val_fraction=val_fraction, seed=seed)
