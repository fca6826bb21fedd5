"""A DataLoader of the user's own that can begin anywhere in an epoch, without loading what lies before."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any, TypeGuard

import torch
from torch.utils.data import DataLoader, IterableDataset

from frameworm.data.reseeding import Place, Reseeded

_OPTIONS = frozenset(inspect.signature(DataLoader).parameters) - {
    *("batch_size", "shuffle", "sampler", "batch_sampler", "drop_last"),  # of which the order is made
}


class Replay:
    """The batches of `loader`, a DataLoader over map-style data, from any batch of an epoch on.

    It draws from the generators what `loader` itself would draw, in the same order: skipped batches are left out of the
    sampler's order, and the order is the same. What is drawn while samples are loaded in workers is decided by torch's
    initial seed, the epoch and the index, since workers that skip have no other way to go on as they would have.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        batches = loader.batch_sampler
        self._order = _Order(loader.sampler if batches is None else batches, places=loader.num_workers > 0)
        options = {name: getattr(loader, name) for name in _OPTIONS if hasattr(loader, name)}
        options |= {"batch_size": None, "sampler": self._order} if batches is None else {"batch_sampler": self._order}
        if loader.num_workers:
            options["dataset"] = Reseeded(loader.dataset)
        if loader.persistent_workers:
            # They draw a seed once in a process, and not once in a run: not from a generator that is part of its state.
            options["generator"] = torch.Generator()
        self.loader: DataLoader[Any] = DataLoader(**options)
        parts = (loader, batches, loader.sampler, getattr(batches, "sampler", None))
        found = [getattr(part, "generator", None) for part in parts]
        self._generators = list({id(one): one for one in found if isinstance(one, torch.Generator)}.values())

    def begin(self, epoch: int, skip: int) -> Iterator[Any]:
        """Return the batches of an epoch behind the first `skip`, whose order has been drawn when this returns."""
        self._order.epoch, self._order.skip = epoch, skip
        batches = iter(self.loader)
        self._order.begin()
        return batches

    def state_dict(self) -> list[torch.Tensor]:
        """Return the states of the generators that are the loader's own."""
        return [generator.get_state() for generator in self._generators]

    def load_state_dict(self, states: Iterable[torch.Tensor]) -> None:
        """Set them as they were."""
        for generator, state in zip(self._generators, states, strict=True):
            generator.set_state(state)


def can_replay(data: Any) -> TypeGuard[DataLoader[Any]]:
    """Whether `data` is a DataLoader that a `Replay` can stand for."""
    return type(data) is DataLoader and not isinstance(data.dataset, IterableDataset)


class _Order:
    """A sampler's order without its beginning; with `places`, each index has the seed and the epoch beside it."""

    def __init__(self, sampler: Iterable[Any], *, places: bool) -> None:
        self._sampler = sampler
        self._places = places
        self._rest: Iterator[Any] = iter(())
        self._left = 0
        self.epoch = 0
        self.skip = 0

    def __iter__(self) -> Iterator[Any]:
        # Nothing is drawn here but what the sampler itself draws: a DataLoader draws its own seed behind this, and
        # before the first index is asked for.
        self._rest, self._left = iter(self._sampler), self.skip
        return self._placed()

    def begin(self) -> None:
        """Leave out the beginning, if that has not been done."""
        for _ in range(self._left):
            next(self._rest, None)
        self._left = 0

    def __len__(self) -> int:
        return len(self._sampler)  # type: ignore[arg-type]  # asked for only where a DataLoader would ask it

    def _placed(self) -> Iterator[Any]:
        self.begin()
        seed = torch.initial_seed()
        for indices in self._rest:
            yield self._placed_at(seed, indices) if self._places else indices

    def _placed_at(self, seed: int, indices: Any) -> list[Place] | Place:
        if isinstance(indices, list | tuple):
            return [(seed, self.epoch, index) for index in indices]
        return (seed, self.epoch, indices)
