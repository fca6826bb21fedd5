"""Arrays from NumPy files, and what is wrong with those that are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from frameworm.data import ArrayDataset, Splits, npz
from frameworm.errors import DataError


def _columns(splits: Splits) -> tuple[torch.Tensor, ...]:
    assert isinstance(splits.train, ArrayDataset)
    return splits.train.columns


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Four samples with real inputs and whole targets, and arrays that are no use."""
    path = tmp_path / "data.npz"
    np.savez(
        path,
        x=np.arange(8.0).reshape(4, 2),
        y=np.array([0, 1, 0, 1], np.int32),
        short=np.zeros(3),
        text=np.array(["a"] * 4),
        holes=np.array([[1.0, 2.0], [3.0, np.nan]]),
        scalar=np.float64(3),
        images=np.full((4, 1, 2, 2), 255, np.uint8),
        nothing=np.zeros((0, 2)),
    )
    return path


def test_real_numbers_and_whole_ones_become_float32_and_int64(file: Path) -> None:
    """Whatever width they were saved in."""
    x, y = _columns(npz(file, val_fraction=0))
    assert (x.dtype, x.tolist()) == (torch.float32, [[0, 1], [2, 3], [4, 5], [6, 7]])
    assert (y.dtype, y.tolist()) == (torch.int64, [0, 1, 0, 1])


def test_unsigned_bytes_are_images(file: Path) -> None:
    """They are scaled to 0..1."""
    x, _ = _columns(npz(file, inputs="images", val_fraction=0))
    assert x.dtype == torch.float32
    assert (x == 1).all()


def test_inputs_alone_will_do(file: Path) -> None:
    """A generative model needs no targets."""
    assert len(_columns(npz(str(file), targets=None, val_fraction=0))) == 1


def test_a_part_is_held_out(file: Path) -> None:
    """As for every dataset that ships."""
    splits = npz(file, val_fraction=0.25)
    assert isinstance(splits.val, ArrayDataset)
    assert len(splits.val) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("texts", "no array 'texts'(.|\n)*one of x, y(.|\n)*try: *text$"),
        ("short", r"differ in length(.|\n)*short \(3,\), y \(4,\)"),
        ("text", "array 'text' does not hold numbers(.|\n)*<U1"),
        ("holes", "array 'holes' holds a missing value(.|\n)*nan at index 1, 1"),
        ("scalar", r"array 'scalar' is empty(.|\n)*shape \(\)"),
        ("nothing", r"array 'nothing' is empty(.|\n)*shape \(0, 2\)"),
    ],
)
def test_an_unusable_array_is_named(file: Path, name: str, message: str) -> None:
    """The error says which array, in which file, and what is wrong with it."""
    with pytest.raises(DataError, match=message) as caught:
        npz(file, inputs=name)
    assert caught.value.where == str(file)


def test_a_missing_file_offers_its_neighbour(file: Path) -> None:
    """A slip in the name is easily mended."""
    with pytest.raises(DataError, match="No such file") as caught:
        npz(file.with_name("date.npz"))
    assert caught.value.hint == str(file)
    with pytest.raises(DataError, match="No such file"):
        npz(file.parent / "no_folder" / "data.npz")
    with pytest.raises(DataError, match="directory"):
        npz(file.parent)


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    """They could run code."""
    path = tmp_path / "objects.npz"
    np.savez(path, x=np.array([{}], dtype=object), y=np.zeros(1))
    with pytest.raises(DataError, match="pickled objects are refused"):
        npz(path)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut off"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    """An empty file, text, and half an archive."""
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"not a usable \.npz file"):
        npz(path)


def test_a_damaged_archive_is_refused(file: Path) -> None:
    """An archive whose bytes were changed does not become data."""
    content = bytearray(file.read_bytes())
    content[100:140] = bytes(40)
    file.write_bytes(content)
    with pytest.raises(DataError):
        npz(file)


def test_a_single_array_is_no_npz(tmp_path: Path) -> None:
    """A .npy file has no names to look up."""
    path = tmp_path / "data.npy"
    np.save(path, np.zeros(3))
    with pytest.raises(DataError, match="one array"):
        npz(path)
