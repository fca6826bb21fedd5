"""What a dataset factory gives: the parts of a dataset, and the in-memory dataset that the shipped ones are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from frameworm.errors import DataError


@dataclass(frozen=True)
class Splits:
    """The parts of a dataset; only the one to train on must be there."""

    train: Dataset[Any]
    val: Dataset[Any] | None = None
    test: Dataset[Any] | None = None


class ArrayDataset(Dataset[tuple[Tensor, ...]]):
    """Samples held in memory as tensors of one length, such as inputs (n, ...) and targets (n, ...).

    Sample `i` is the tuple of the tensors' `i`-th items. Raises DataError if the lengths differ.
    """

    def __init__(self, *columns: Tensor) -> None:
        lengths = [len(column) for column in columns]
        if len(set(lengths)) != 1:
            got = ", ".join(map(str, lengths)) or "no arrays"
            raise DataError("the arrays of a dataset differ in length", expected="as many inputs as targets", got=got)
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(column[index] for column in self.columns)

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, ...]]:
        """The samples at `indices`, as a DataLoader asks for them before it collates."""
        return list(zip(*(column.unbind() for column in self.batch(torch.tensor(indices))), strict=True))

    def batch(self, indices: Tensor) -> tuple[Tensor, ...]:
        """The samples at `indices` (k,), int64, already collated: each tensor is (k, ...)."""
        return tuple([column.index_select(0, indices) for column in self.columns])


def as_splits(data: Any) -> Splits:
    """`data` as Splits: itself, a tuple (train, val) or (train, val, test), or one dataset to train on.

    A dataset is map-style: it has `__len__` and `__getitem__`. Raises DataError for anything else.
    """
    if isinstance(data, Splits):
        splits = data
    elif isinstance(data, tuple) and len(data) in (2, 3):
        splits = Splits(*data)
    else:
        splits = Splits(data)
    for part, dataset in (("train", splits.train), ("val", splits.val), ("test", splits.test)):
        if not (_is_dataset(dataset) or (dataset is None and part != "train")):
            raise DataError(
                f"the {part} part is not a dataset",
                expected="an object with __len__ and __getitem__",
                got=type(dataset).__name__,
                hint="Trainer takes any DataLoader, for data of other kinds",
            )
    return splits


def split_arrays(*arrays: Tensor, val_fraction: float, seed: int) -> Splits:
    """Cut arrays of equal length into a part to train on and one to validate on, by a permutation fixed by `seed`.

    `val_fraction` is in [0, 1); 0 leaves no validation part. Raises DataError if a part would be empty.
    """
    if not 0 <= val_fraction < 1:
        raise DataError("wrong val_fraction", expected="at least 0, less than 1", got=str(val_fraction))
    whole = ArrayDataset(*arrays)
    size = len(whole)
    held_out = round(size * val_fraction)
    if held_out in (0, size) and (val_fraction or not size):
        got = f"{size} samples, val_fraction {val_fraction}"
        raise DataError("too few samples", expected="at least one to train on and one to validate on", got=got)
    if not held_out:
        return Splits(whole)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(size))
    return Splits(ArrayDataset(*whole.batch(order[held_out:])), ArrayDataset(*whole.batch(order[:held_out])))


def _is_dataset(data: Any) -> bool:
    return hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, Mapping | str)
