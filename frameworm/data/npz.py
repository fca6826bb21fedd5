"""Arrays that somebody saved with NumPy, as a dataset."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from frameworm.data.arrays import as_tensor, unreadable
from frameworm.data.splits import Splits, split_arrays
from frameworm.errors import DataError, nearest


def npz(
    path: str | Path, inputs: str = "x", targets: str | None = "y", val_fraction: float = 0.2, seed: int = 0
) -> Splits:
    """Two arrays of an .npz file: `inputs` (n, ...) and `targets` (n, ...); without targets, samples are inputs alone.

    Real numbers become float32 and whole ones int64, except that inputs of unsigned bytes are taken for images: they
    become float32 in 0..1. Raises DataError for a file that is no .npz or needs pickle, which could run code; for an
    array that is not in it, does not hold finite numbers, or differs in length.
    """
    path = Path(path)
    arrays = read_arrays(path, [inputs] if targets is None else [inputs, targets])
    tensors = [inputs_of(arrays[inputs], name=f"array {inputs!r}", where=str(path))]
    if targets is not None:
        tensors.append(as_tensor(arrays[targets], name=f"array {targets!r}", where=str(path)))
    if len({len(tensor) for tensor in tensors}) > 1:
        got = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise DataError("the arrays differ in length", expected="as many targets as inputs", got=got, where=str(path))
    return split_arrays(*tensors, val_fraction=val_fraction, seed=seed)


def inputs_of(array: NDArray[np.generic], *, name: str, where: str) -> Tensor:
    """Return what a model is given of an array (n, ...): images in 0..1, else as `as_tensor`; errors call it `name`."""
    tensor = as_tensor(array, name=name, where=where)
    return tensor.float() / 255 if array.dtype == np.uint8 else tensor


def read_arrays(path: Path, names: list[str]) -> dict[str, NDArray[np.generic]]:
    """Return these arrays of an .npz file; raises DataError as `npz` does."""
    try:
        with path.open("rb") as file:
            arrays = np.load(file, allow_pickle=False)
            if not isinstance(arrays, np.lib.npyio.NpzFile):
                raise DataError("the file holds one array, not several by name", expected=".npz", where=str(path))
            for name in names:
                if name not in arrays.files:
                    expected = f"one of {', '.join(arrays.files)}"
                    hint = nearest(name, arrays.files)
                    raise DataError(f"no array {name!r} in the file", expected=expected, where=str(path), hint=hint)
            return {name: arrays[name] for name in names}
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        expected = "arrays of numbers, as numpy.savez writes them (pickled objects are refused)"
        raise DataError("not a usable .npz file", expected=expected, got=str(error), where=str(path)) from error
