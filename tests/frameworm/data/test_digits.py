"""The bundled digits are the source's, and come as models want them."""

from __future__ import annotations

import hashlib
from importlib.resources import files

import numpy as np
import torch

from frameworm.data import ArrayDataset, Splits, digits


def _columns(splits: Splits) -> tuple[torch.Tensor, torch.Tensor]:
    train, val = splits.train, splits.val
    assert isinstance(train, ArrayDataset)
    assert isinstance(val, ArrayDataset)
    x, y = (torch.cat(columns) for columns in zip(train.columns, val.columns, strict=True))
    return x, y


def test_the_numbers_are_the_sources() -> None:
    """1797 images with values 0..16 and as many of each digit as the source says; the bytes are known."""
    with (files("frameworm.data") / "digits.npz").open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    assert (images.shape, images.dtype, images.max()) == ((1797, 8, 8), np.uint8, 16)
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    sha256 = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    assert sha256 == "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"


def test_images_are_scaled_and_shaped() -> None:
    """float32 (1, 8, 8) in 0..1 and int64 labels; a fifth of them to validate on."""
    splits = digits()
    x, y = _columns(splits)
    assert (x.shape, x.dtype) == ((1797, 1, 8, 8), torch.float32)
    assert (x.min().item(), x.max().item()) == (0, 1)
    assert (y.shape, y.dtype) == ((1797,), torch.int64)
    assert isinstance(splits.val, ArrayDataset)
    assert len(splits.val) == 359


def test_flatten_gives_rows_of_pixels() -> None:
    """The same images, as (64,)."""
    assert torch.equal(_columns(digits(flatten=True))[0], _columns(digits())[0].flatten(1))


def test_the_seed_alone_decides_what_is_held_out() -> None:
    """The same seed holds out the same images, another one others."""
    assert torch.equal(_columns(digits(seed=1))[0], _columns(digits(seed=1))[0])
    assert not torch.equal(_columns(digits(seed=1))[0], _columns(digits(seed=2))[0])


def test_the_attribution_is_beside_the_data() -> None:
    """CC BY 4.0 asks for the authors, the source, the licence and what was changed."""
    text = (files("frameworm.data") / "digits.LICENSE").read_text("utf-8")
    for word in ("Alpaydin", "Kaynak", "10.24432/C50P49", "creativecommons.org/licenses/by/4.0", "Changes"):
        assert word in text
