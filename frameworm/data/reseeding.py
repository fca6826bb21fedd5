"""Random numbers that a dataset draws, decided by seed, epoch and index: the same in any process and after any skip."""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Subset

_SEEDS = struct.Struct("<QIQ")  # of one number, numpy and torch would make the same sequence

Place = tuple[int, int, Any]
"""A seed, an epoch, and the index of a sample in the dataset."""


class Reseeded(Dataset[Any]):
    """The samples of `dataset`, each loaded with the global generators seeded by its place, for which it is asked.

    A generator that workers seed once and draw from in turn gives a sample other numbers with each number of workers,
    and with each batch that a resumed run need not load again. A dataset that loads whole batches (`__getitems__`) is
    seeded by the place of the first sample.
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset
        if _loads_batches(dataset):
            self.__getitems__ = self._samples  # which a DataLoader asks for where it is there

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]  # as_splits has looked for it

    def __getitem__(self, place: Place) -> Any:
        reseed(place)
        return self.dataset[place[-1]]

    def _samples(self, places: Sequence[Place]) -> list[Any]:
        reseed(places[0])
        samples: list[Any] = self.dataset.__getitems__([index for *_, index in places])  # type: ignore[attr-defined]
        return samples


def _loads_batches(dataset: Any) -> bool:
    while type(dataset) is Subset:  # has the method for the dataset that it is a part of
        dataset = dataset.dataset
    return hasattr(dataset, "__getitems__")


def reseed(place: Place) -> None:
    """Seed the generators of Python, numpy and torch (on the CPU); each other place gives other sequences."""
    digest = hashlib.blake2b(repr(place).encode(), digest_size=_SEEDS.size).digest()
    for_python, for_numpy, for_torch = _SEEDS.unpack(digest)
    random.seed(for_python)
    np.random.seed(for_numpy)  # noqa: NPY002  the global generator is what augmentations draw from
    torch.default_generator.manual_seed(for_torch)


@contextmanager
def generators_kept() -> Iterator[None]:
    """Leave the generators that `reseed` seeds as they were."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002  as above
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002  as above
        torch.set_rng_state(before[2])
