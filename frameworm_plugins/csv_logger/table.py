"""A CSV file of a run's rows that can be added to, also under new columns, and never has a row twice."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from frameworm.errors import UserError

Row = Mapping[str, Any]


class Table:
    """The file at `path`, in which the rows of `run` are known by the whole number under `key`.

    It begins with `columns`. It may have rows of other runs, which stay; two runs at a time it does not serve. What a
    writer that was killed left of a line is cut off. Raises `UserError` for a file that is something else.
    """

    def __init__(self, path: Path, columns: Sequence[str], *, key: str, run: str) -> None:
        self._path = path
        self._key = key
        self._run = run
        self._columns = list(columns)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not _mend(path):
            self._rewrite([])
        self._columns = self._header()
        if not set(columns) <= set(self._columns):
            expected, got = f"the columns {', '.join(columns)}", ", ".join(self._columns)
            raise UserError("that file is not of the CSV logger", where=str(path), expected=expected, got=got)
        self.last = max(self._own(key), default=-1)
        """The highest key of the run, -1 where it has no row."""

    def add(self, rows: Sequence[Row]) -> None:
        """Put rows at the end, or in the place of those that have their keys; columns that are new are added."""
        if not rows:
            return
        new = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in self._columns]
        keys = {row[self._key]: row for row in rows}  # of equal keys the last
        if new or min(keys) <= self.last:
            self._columns += new
            self._rewrite(self._merged(keys))
        else:
            with self._path.open("ab", buffering=0) as file:
                file.write(self._lines(keys.values()))
        self.last = max(self.last, *keys)

    def forget(self, above: int) -> None:
        """Take out the run's rows behind a step."""
        if max(self._own("step"), default=-1) > above:
            self._rewrite(row for row in self._rows() if not (self._is_own(row) and int(row["step"]) > above))
            self.last = max(self._own(self._key), default=-1)

    def _merged(self, new: Mapping[int, Row]) -> Iterator[Row]:
        waiting = dict(new)
        for row in self._rows():
            yield waiting.pop(int(row[self._key]), row) if self._is_own(row) else row
        yield from waiting.values()

    def _is_own(self, row: Row) -> bool:
        return bool(row["run"] == self._run)

    def _own(self, column: str) -> Iterator[int]:
        return (int(row[column]) for row in self._rows() if self._is_own(row))

    def _rows(self) -> Iterator[Row]:
        with self._path.open(encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file)

    def _header(self) -> list[str]:
        with self._path.open(encoding="utf-8", newline="") as file:
            return next(csv.reader(file))

    def _lines(self, rows: Iterable[Row]) -> bytes:
        text = io.StringIO(newline="")
        csv.DictWriter(text, self._columns, lineterminator="\n").writerows(rows)
        return text.getvalue().encode()

    def _rewrite(self, rows: Iterable[Row]) -> None:
        """Replace the file at once: whoever reads it sees the old one or the new one."""
        other = self._path.with_name(f".{self._path.name}.new")
        with other.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self._columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            file.flush()
            os.fsync(file.fileno())
        other.replace(self._path)


def _mend(path: Path) -> bool:
    """Cut off what is behind the last whole line; return whether there is one."""
    try:
        with path.open("r+b") as file:
            end = file.seek(0, os.SEEK_END)
            while end:
                start = max(0, end - 4096)
                file.seek(start)
                newline = file.read(end - start).rfind(b"\n")
                if newline >= 0:
                    file.truncate(start + newline + 1)
                    return True
                end = start
    except FileNotFoundError:
        pass
    return False
