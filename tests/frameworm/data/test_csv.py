"""Tables from text files; errors point at the cell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from frameworm.core import create, get_dataset
from frameworm.data import ArrayDataset, Splits, csv
from frameworm.errors import DataError, UserError

TABLE = "height,weight,price,kind\n1,2,3,cat\n4,5.5,6e0,dog\n\n7,8,9,cat\n10,11,12,cow\n"


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Write a table to a file."""

    def write(text: str) -> Path:
        path = tmp_path / "table.csv"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def _columns(splits: Splits) -> tuple[torch.Tensor, torch.Tensor]:
    assert isinstance(splits.train, ArrayDataset)
    x, y = splits.train.columns
    return x, y


def test_regression_takes_the_target_column_apart(write: Callable[[str], Path]) -> None:
    """Inputs and targets are rows of float32; empty lines do not count."""
    x, y = _columns(csv(write(TABLE), "price", inputs=("height", "weight"), val_fraction=0))
    assert (x.dtype, x.tolist()) == (torch.float32, [[1, 2], [4, 5.5], [7, 8], [10, 11]])
    assert (y.dtype, y.tolist()) == (torch.float32, [[3], [6], [9], [12]])


def test_inputs_are_all_columns_but_the_targets(write: Callable[[str], Path]) -> None:
    """Unless they are listed."""
    x, y = _columns(csv(write("a,b,c\n1,2,3\n"), ("a", "c"), val_fraction=0))
    assert (x.tolist(), y.tolist()) == ([[2]], [[1, 3]])


def test_classes_are_numbered_in_order(write: Callable[[str], Path]) -> None:
    """Text in the order of the alphabet, numbers in their own."""
    path = write(TABLE)
    _, y = _columns(csv(path, "kind", inputs=("height",), classes=True, val_fraction=0))
    assert (y.dtype, y.tolist()) == (torch.int64, [0, 2, 0, 1])
    _, y = _columns(csv(path, "price", inputs=("height",), classes=True, val_fraction=0))
    assert y.tolist() == [0, 1, 2, 3]


def test_a_missing_class_is_not_a_class(write: Callable[[str], Path]) -> None:
    """An empty cell is pointed at."""
    path = write("a,kind\n1,cat\n2, \n")
    with pytest.raises(DataError, match="a cell is empty") as caught:
        csv(path, "kind", classes=True)
    assert caught.value.where == f"{path}:3, column 'kind'"


def test_other_delimiters_marks_and_quotes_are_read(write: Callable[[str], Path]) -> None:
    """A byte order mark, spaces in the header and quoted cells are how tables come."""
    x, y = _columns(csv(write('\ufeffa ; "b"\n"1"; 2\n'), "b", inputs=("a",), delimiter=";", val_fraction=0))
    assert (x.tolist(), y.tolist()) == ([[1]], [[2]])


def test_a_list_in_a_config_names_columns(write: Callable[[str], Path]) -> None:
    """YAML has lists, the signature tuples."""
    options = {"path": str(write(TABLE)), "target": ["price"], "inputs": ["height"], "val_fraction": 0.25}
    splits = create("dataset", "csv", get_dataset("csv"), options)
    assert isinstance(splits.val, ArrayDataset)
    assert len(splits.val) == 1


@pytest.mark.parametrize(
    ("text", "message", "place"),
    [
        ("a,b\n1,2\n3,x\n", "a cell is not a number(.|\n)*'x'", ":3, column 'b'"),
        ('a,b\n"1\n",2\n,4\n', "a cell is not a number(.|\n)*''", ":4, column 'a'"),
        ("a,b\n1,nan\n", "a cell is not a number(.|\n)*'nan'", ":2, column 'b'"),
        ("a,b\n1,2\n3\n", "a row of another length(.|\n)*2 cells(.|\n)*got: *1", ":3"),
        ("a,b\n1,2\n3,4,5\n", "a row of another length(.|\n)*got: *3", ":3"),
        ("a,a\n1,2\n", "two columns have one name(.|\n)*'a'", ":1"),
        ("a,target\n1,2\n", "no column 'b'(.|\n)*one of a, target", ":1"),
        ("", "the file has no rows(.|\n)*an empty file", ""),
        ("a,b\n", "the file has no rows(.|\n)*the names alone", ""),
        ('a,b\n1,"2\n', "the file is not a table", ":2"),
        ("b\n1\n", "these columns make no dataset", ""),
    ],
)
def test_what_is_wrong_is_pointed_at(write: Callable[[str], Path], text: str, message: str, place: str) -> None:
    """File, line and column, as far as they can be said."""
    path = write(text)
    with pytest.raises(DataError, match=message) as caught:
        csv(path, "b", val_fraction=0)
    assert caught.value.where == f"{path}{place}"


def test_a_missing_column_offers_the_nearest(write: Callable[[str], Path]) -> None:
    """Of the file's own columns."""
    with pytest.raises(DataError) as caught:
        csv(write(TABLE), "prise")
    assert caught.value.hint == "price"


@pytest.mark.parametrize(
    "options",
    [
        {"target": "price", "inputs": ("price", "height")},
        {"target": ("price", "kind"), "classes": True},
        {"target": (), "inputs": ("height",)},
        {"target": "price", "inputs": ()},
    ],
)
def test_columns_that_make_no_dataset_are_refused(write: Callable[[str], Path], options: dict[str, Any]) -> None:
    """A target among the inputs would be learned at once; nothing to learn or to learn from is no better."""
    with pytest.raises(DataError, match="these columns make no dataset"):
        csv(write(TABLE), **options)


def test_a_missing_file_and_other_bytes_are_refused(tmp_path: Path) -> None:
    """Neither ends in a traceback."""
    with pytest.raises(DataError, match="No such file"):
        csv(tmp_path / "table.csv", "a")
    (tmp_path / "table.csv").write_bytes(b"a,b\n\xff,1\n")
    with pytest.raises(DataError, match="not text"):
        csv(tmp_path / "table.csv", "b")


def test_a_wrong_delimiter_is_an_error_about_the_options(write: Callable[[str], Path]) -> None:
    """The csv module's own words are the cause."""
    with pytest.raises(UserError, match="delimiter"):
        create("dataset", "csv", get_dataset("csv"), {"path": str(write(TABLE)), "target": "price", "delimiter": ",,"})
