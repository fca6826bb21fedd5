"""Samples without targets, for a model that is trained: read as its dataset reads inputs."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from frameworm.data.arrays import unreadable
from frameworm.data.csv import read_columns
from frameworm.data.npz import inputs_of, read_arrays
from frameworm.errors import DataError


def read_inputs(path: Path, data: Mapping[str, Any]) -> Tensor:
    """Return the samples (n, ...) in an .npy file, in an array of an .npz, or in the columns of a .csv.

    `data` is the section of that name of the model's config. What it says of the dataset `npz` or `csv` (`inputs`,
    `target`, `delimiter`) says which array or columns are meant; else it is the array `x`, and all columns, in their
    order. The numbers become what these datasets make of them. Raises DataError as they do, and for other files.
    """
    said = data if data.get("name") == path.suffix.lower().removeprefix(".") else {}
    match path.suffix.lower():
        case ".npy":
            return inputs_of(_array(path), name="the array", where=str(path))
        case ".npz":
            name = said.get("inputs", "x")
            return inputs_of(read_arrays(path, [name])[name], name=f"array {name!r}", where=str(path))
        case ".csv":
            target = said.get("target", ())
            without = [target] if isinstance(target, str) else target
            return read_columns(path, said.get("inputs"), without=without, delimiter=said.get("delimiter", ","))
    raise DataError("that is no file of samples", expected="a name that ends with .npy, .npz or .csv", got=path.name)


def _array(path: Path) -> NDArray[np.generic]:
    try:
        with path.open("rb") as file:
            array = np.load(file, allow_pickle=False)
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        expected = "an array of numbers, as numpy.save writes it (pickled objects are refused)"
        raise DataError("not a usable .npy file", expected=expected, got=str(error), where=str(path)) from error
    if not isinstance(array, np.ndarray):
        raise DataError("the file holds several arrays by name", expected=".npz as its suffix", where=str(path))
    return array
