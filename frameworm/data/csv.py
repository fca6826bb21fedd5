"""A table of numbers as a dataset."""

from __future__ import annotations

import csv as stdlib
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from frameworm.data.arrays import unreadable
from frameworm.data.splits import Splits, split_arrays
from frameworm.errors import DataError, nearest


def csv(
    path: str | Path,
    target: str | tuple[str, ...],
    inputs: tuple[str, ...] | None = None,
    *,
    classes: bool = False,
    delimiter: str = ",",
    val_fraction: float = 0.2,
    seed: int = 0,
) -> Splits:
    """The rows of a UTF-8 file whose first line names the columns: x, float32 (inputs,), and y, float32 (targets,).

    `inputs` are all columns but the target ones, unless given. With `classes`, the one target column holds classes,
    as numbers or as text; y is then int64 (), the class's place among all of them in order.

    Raises DataError, with the file's line and column, for what is missing, not a finite number, or ragged.
    """
    table = _read(Path(path), delimiter)
    targets = [target] if isinstance(target, str) else list(target)
    inputs_ = [name for name in table.header if name not in targets] if inputs is None else list(inputs)
    if not inputs_ or not targets or set(inputs_) & set(targets) or (classes and len(targets) > 1):
        expected = "inputs, and one target column with classes" if classes else "inputs and targets, none of them both"
        got = f"inputs: {', '.join(inputs_)}; targets: {', '.join(targets)}"
        raise DataError("these columns make no dataset", expected=expected, got=got, where=str(path))
    y = table.classes(targets[0]) if classes else table.numbers(targets)
    return split_arrays(table.numbers(inputs_), y, val_fraction=val_fraction, seed=seed)


def read_columns(
    path: Path, inputs: Sequence[str] | None = None, *, without: Sequence[str] = (), delimiter: str = ","
) -> Tensor:
    """Return x alone, float32 (n, inputs): the columns `inputs`, or all but those `without`, which need not be there.

    Raises DataError as `csv` does.
    """
    table = _read(path, delimiter)
    return table.numbers([name for name in table.header if name not in without] if inputs is None else inputs)


@dataclass(frozen=True)
class _Table:
    path: Path
    header: list[str]
    rows: list[list[str]]
    lines: list[int]  # where each row ends in the file; a quoted cell may hold a newline

    def column(self, name: str) -> int:
        if name not in self.header:
            expected = f"one of {', '.join(self.header)}"
            hint = nearest(name, self.header)
            raise DataError(f"no column {name!r}", expected=expected, where=f"{self.path}:1", hint=hint)
        return self.header.index(name)

    def numbers(self, names: Sequence[str]) -> Tensor:
        columns = [self.column(name) for name in names]
        cells = [
            self._number(row, line, column)
            for row, line in zip(self.rows, self.lines, strict=True)
            for column in columns
        ]
        return torch.tensor(cells, dtype=torch.float32).view(-1, len(columns))

    def _number(self, row: list[str], line: int, column: int) -> float:
        try:
            value = float(row[column])
        except ValueError:
            value = math.nan
        if math.isfinite(value):
            return value
        where = self._place(line, column)
        raise DataError("a cell is not a number", expected="a finite number", got=repr(row[column]), where=where)

    def _place(self, line: int, column: int) -> str:
        return f"{self.path}:{line}, column {self.header[column]!r}"

    def classes(self, name: str) -> Tensor:
        column = self.column(name)
        cells = np.array([row[column].strip() for row in self.rows])
        if (cells == "").any():
            first = int(np.argmax(cells == ""))
            where = self._place(self.lines[first], column)
            raise DataError("a cell is empty", expected="a class", where=where)
        with suppress(ValueError):  # classes by name
            cells = cells.astype(np.float64)
        return torch.from_numpy(np.unique(cells, return_inverse=True)[1])


def _read(path: Path, delimiter: str) -> _Table:
    lines: list[int] = []
    rows: list[list[str]] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = stdlib.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
            for row in reader:
                if row:
                    rows.append(row)
                    lines.append(reader.line_num)
    except OSError as error:
        raise unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise DataError("the file is not text", expected="UTF-8", got=str(error), where=str(path)) from error
    except stdlib.Error as error:
        raise DataError("the file is not a table", got=str(error), where=f"{path}:{reader.line_num}") from error
    if len(rows) < 2:
        got = "the names alone" if rows else "an empty file"
        raise DataError("the file has no rows", expected="a line of column names, then rows", got=got, where=str(path))
    header = [name.strip() for name in rows[0]]
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise DataError("two columns have one name", got=repr(twice), where=f"{path}:{lines[0]}")
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(header):
            expected = f"{len(header)} cells, one per column"
            raise DataError("a row of another length", expected=expected, got=str(len(row)), where=f"{path}:{line}")
    return _Table(path, header, rows[1:], lines[1:])
