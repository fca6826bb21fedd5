"""What the loaders of files share: numbers as tensors that models can use, and errors that say why not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frameworm.errors import DataError, nearest


def as_tensor(array: NDArray[np.generic], *, name: str, where: str) -> Tensor:
    """`array` (n, ...) as float32 if it holds real numbers, as int64 if it holds whole ones or booleans.

    Raises DataError, with `name` and `where` in it, for other kinds of values, for nan and infinity, and for no items.
    """
    if array.dtype.kind not in "fiub":
        raise DataError(f"{name} does not hold numbers", expected="real numbers", got=str(array.dtype), where=where)
    if array.ndim == 0 or array.size == 0:
        raise DataError(f"{name} is empty", expected="one item per sample", got=f"shape {array.shape}", where=where)
    if array.dtype.kind != "f":
        return torch.from_numpy(array.astype(np.int64))
    finite = np.isfinite(array)
    if not finite.all():
        first = tuple(map(int, np.argwhere(~finite)[0]))
        got = f"{array[first]} at index {', '.join(map(str, first))}"
        raise DataError(f"{name} holds a missing value", expected="finite numbers", got=got, where=where)
    return torch.from_numpy(array.astype(np.float32))


def unreadable(path: Path, error: OSError) -> DataError:
    """The error for a file that cannot be opened; a file nearby with a similar name is offered."""
    folder = path.parent
    near = nearest(path.name, [other.name for other in folder.iterdir()]) if folder.is_dir() else None
    hint = str(folder / near) if near and near != path.name else None
    return DataError("the data file cannot be read", got=error.strerror, where=str(path), hint=hint)
