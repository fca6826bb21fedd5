"""Real images in the package, so that the first run needs no download."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import torch

from frameworm.data.splits import Splits, split_arrays


def digits(val_fraction: float = 0.2, seed: int = 0, *, flatten: bool = False) -> Splits:
    """Handwritten digits: 1797 grey images, float32 (1, 8, 8) in 0..1, and their labels 0..9, int64 ().

    `flatten` makes the images (64,). Which images are held out for validation depends on `seed` alone.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998,
    https://doi.org/10.24432/C50P49, the test part; CC BY 4.0, see digits.LICENSE.
    """
    with (files("frameworm.data") / "digits.npz").open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        images = torch.from_numpy(arrays["images"]).to(torch.float32) / 16
        labels = torch.from_numpy(arrays["labels"]).to(torch.int64)
    images = images.flatten(1) if flatten else images.unsqueeze(1)
    return split_arrays(images, labels, val_fraction=val_fraction, seed=seed)
