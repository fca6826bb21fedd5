"""Batches of an epoch, on their device, from any batch of it on."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from frameworm.errors import DataError
from frameworm.training.device import move
from frameworm.training.distributed.sharing import agreed_length, while_all_have
from frameworm.training.distributed.world import ALONE, World
from frameworm.training.replaying import Replay, can_replay
from frameworm.training.seeding import isolated_rng
from frameworm.training.times import Times
from frameworm.training.workers import shelter_of, signals_held

log = logging.getLogger("frameworm")


class Feed:
    """Whatever gives batches when it is iterated, once an epoch: a `DataLoader`, a list, an object of one's own.

    Where it, its batch sampler or its sampler has `set_epoch(epoch)`, that is called before each epoch. An epoch that
    begins half-way loads nothing of what it skips, if that takes `skip_batches` or the data are a plain `DataLoader`
    over map-style data.

    An epoch has at most `limit` batches. That they are brought onto the device is timed in `times`. Of the processes of
    a `world` all have as many batches; where that is not known before, the first one that has no more ends the epoch.

    Raises `DataError` for what cannot give the batches of so many `epochs`, and if processes have different numbers.
    """

    def __init__(
        self,
        data: Iterable[Any],
        device: torch.device,
        *,
        epochs: int = 1,
        limit: int | None = None,
        times: Times | None = None,
        world: World = ALONE,
    ) -> None:
        _require_batches(data, epochs)
        self._replay = Replay(data) if can_replay(data) else None
        self._data = data if self._replay is None else self._replay.loader
        self._shelter = shelter_of(self._data)
        self._device = device
        self._limit = limit
        self._times = times or Times()
        parts = (data, getattr(data, "batch_sampler", None), getattr(data, "sampler", None))
        setters = (getattr(part, "set_epoch", None) for part in parts)
        self._set_epoch: Callable[..., Any] | None = next((setter for setter in setters if setter), None)
        self._world = world
        length = agreed_length(_length(data), world)
        self.length = length if length is None or limit is None else min(length, limit)
        """How many batches an epoch has; None where the data cannot tell for sure."""
        self.counted: int | None = getattr(data, "counted", None)
        """How many of them count, where processes share the data: those behind only fill a gap."""
        self._skips = self._set_epoch is not None and "skip_batches" in inspect.signature(self._set_epoch).parameters

    def begin(self, epoch: int = 0, skip: int = 0) -> Iterator[Any]:
        """Return the batches of an epoch behind the first `skip`, which have been skipped when this returns."""
        if self._set_epoch is not None and self._skips:
            self._set_epoch(epoch, skip_batches=skip)
            return self._placed(self._begun(), skip)
        if self._set_epoch is not None:
            self._set_epoch(epoch)
        batches = self._begun(epoch, skip)
        if self._replay is None:
            if skip and isinstance(self._data, DataLoader):
                log.info("%d batches are loaded once more, to be skipped: these data cannot begin half-way", skip)
            for _ in range(skip):
                next(batches, None)
        return self._placed(batches, skip)

    def state_dict(self) -> list[Tensor]:
        """Return the states of the generators that the data have of their own."""
        return self._replay.state_dict() if self._replay is not None else []

    def load_state_dict(self, states: Iterable[Tensor]) -> None:
        """Set them as they were."""
        if self._replay is not None:
            self._replay.load_state_dict(states)

    def lasting(self) -> AbstractContextManager[None]:
        """Keep workers from taking the run's signals for themselves while this lasts."""
        return self._shelter.lasting() if self._shelter is not None else nullcontext()

    def _begun(self, epoch: int = 0, skip: int = 0) -> Iterator[Any]:
        with signals_held() if self._shelter is not None else nullcontext():
            return iter(self._data) if self._replay is None else self._replay.begin(epoch, skip)

    def _placed(self, batches: Iterator[Any], skip: int) -> Iterator[Any]:
        """Bring each batch onto the device; on the CPU, where they are made, there is nothing to do."""
        if self._limit is not None:
            batches = islice(batches, max(0, self._limit - skip))
        if self.length is None and self._world.size > 1:
            batches = while_all_have(batches, self._world)
        if self._device.type == "cpu":
            return batches
        return map(self._times.timed("transfer", partial(move, device=self._device)), batches)


def first_batches(data: Iterable[Any], count: int) -> list[Any]:
    """Return the first so many batches, to be used again and again; the random generators are left as they are.

    Raises `DataError` if there are none.
    """
    with isolated_rng():
        if callable(set_epoch := getattr(data, "set_epoch", None)):
            set_epoch(0)
        batches = list(islice(data, count))
    if not batches:
        raise DataError("the training data have no batches", expected=f"{count}, to train and validate on")
    return batches


_ONE_SHOT = ("builtins", "itertools")  # whose iterators are used up for good; others' may start over


def _require_batches(data: Any, epochs: int) -> None:
    if epochs > 1 and isinstance(data, Iterator) and type(data).__module__ in _ONE_SHOT:
        got = f"{type(data).__name__}, which is used up after one of {epochs} epochs"
    elif isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        got = f"{type(data).__name__}, a dataset: it gives single samples"
    elif not hasattr(data, "__iter__") and not hasattr(data, "__getitem__"):
        got = type(data).__name__
    else:
        return
    raise DataError(
        "the data are no batches, an epoch at a time",
        expected="a DataLoader, a list of batches, or an object of one's own that can be iterated once an epoch",
        got=got,
        hint="DataLoader(dataset, batch_size=64)",
    )


def _length(data: Iterable[Any]) -> int | None:
    if isinstance(data, DataLoader) and isinstance(data.dataset, IterableDataset):
        return None
    return len(data) if isinstance(data, Sized) else None
