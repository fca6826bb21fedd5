"""Cuts datasets into batches in an order that seed and epoch alone decide, so that any run can be taken up again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from frameworm.data.reseeding import Place, Reseeded, generators_kept
from frameworm.data.splits import ArrayDataset, Splits
from frameworm.errors import DataError


class EpochSampler(Sampler[list[int]]):
    """Batches of indices, in an order that depends only on `seed` and the epoch that was set last.

    Its length is that of a whole epoch, also when `set_epoch` skips some of it.

    Of several processes each has `batch_size` indices of its own in a batch; `rank` says which of the `ranks` this is.
    All have as many batches. The samples that a last batch lacks are taken from the beginning of the order, so that
    each process has as many; not where `each_once`: then they share what there is, and a process that is left with
    nothing has a batch beyond the `counted` ones, for the sake of the others.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        rank: int = 0,
        ranks: int = 1,
        each_once: bool = False,
    ) -> None:
        self.size = size
        self.batch_size = batch_size
        self.rank = rank
        self.ranks = ranks
        self.each_once = each_once
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.epoch = 0
        self.skip_batches = 0

    def set_epoch(self, epoch: int, skip_batches: int = 0) -> None:
        """Iterate over `epoch` from now on, without its first `skip_batches` batches."""
        self.epoch = epoch
        self.skip_batches = skip_batches

    def batches(self) -> Iterator[Tensor]:
        """The indices of one batch of this process after the other, int64 (batch_size,)."""
        if self.shuffle:
            order = torch.from_numpy(np.random.default_rng((self.seed, self.epoch)).permutation(self.size))
        else:
            order = torch.arange(self.size)
        whole = self.batch_size * self.ranks
        for batch in range(self.skip_batches, len(self)):
            indices = order[batch * whole : (batch + 1) * whole]
            yield indices if self.ranks == 1 else self._share(indices, order)

    def __iter__(self) -> Iterator[list[int]]:
        return (batch.tolist() for batch in self.batches())

    def _share(self, indices: Tensor, order: Tensor) -> Tensor:
        """This process's part of the indices of all."""
        if self.each_once:
            own = indices.tensor_split(self.ranks)[self.rank]
            return own if len(own) else order[:1]
        missing = -len(indices) % self.ranks
        filled = torch.cat([indices, order.repeat(-(-missing // self.size))[:missing]]) if missing else indices
        return filled.chunk(self.ranks)[self.rank]

    @property
    def counted(self) -> int:
        """How many batches of an epoch have samples that are not met elsewhere as well."""
        rest = self.size % (self.batch_size * self.ranks)
        return len(self) - (self.each_once and 0 < rest <= self.rank)

    def __len__(self) -> int:
        whole = self.batch_size * self.ranks
        return self.size // whole if self.drop_last else -(-self.size // whole)


class _Places(Sampler[list[Place]]):
    """A sampler's batches, each index with the seed and the epoch."""

    def __init__(self, sampler: EpochSampler) -> None:
        self._sampler = sampler

    def __iter__(self) -> Iterator[list[Place]]:
        seed, epoch = self._sampler.seed, self._sampler.epoch
        return ([(seed, epoch, index) for index in batch] for batch in self._sampler)

    def __len__(self) -> int:
        return len(self._sampler)


class EpochLoader(DataLoader[Any]):
    """A DataLoader over `sampler`'s batches, whose random numbers follow from its seed, the epoch and the index alone.

    They are the same with and without workers, and after batches that were skipped. An ArrayDataset draws none: it is
    not seeded, and without workers it is indexed once per batch and needs no collating. The global random generators
    are left alone.
    """

    def __init__(
        self, dataset: Dataset[Any], sampler: EpochSampler, *, num_workers: int = 0, pin_memory: bool = False
    ) -> None:
        self._workers_seed = torch.Generator()
        draws = not isinstance(dataset, ArrayDataset)
        super().__init__(
            Reseeded(dataset) if draws else dataset,
            batch_sampler=_Places(sampler) if draws else sampler,
            num_workers=num_workers,
            pin_memory=pin_memory and torch.accelerator.is_available(),
            generator=self._workers_seed,
        )
        self._sampler = sampler

    @property
    def counted(self) -> int:
        """How many batches count, where several processes share the data: one behind those only fills a gap."""
        return self._sampler.counted

    def set_epoch(self, epoch: int, skip_batches: int = 0) -> None:
        """Iterate over `epoch` from now on; its first `skip_batches` batches are left out without being loaded."""
        self._sampler.set_epoch(epoch, skip_batches)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch promises its private iterator class
        if isinstance(self.dataset, ArrayDataset) and not self.num_workers:
            return self._in_memory(self.dataset)
        seed = np.random.SeedSequence((self._sampler.seed, self._sampler.epoch, 1)).generate_state(1, np.uint64)
        self._workers_seed.manual_seed(int(seed[0]))
        return super().__iter__() if self.num_workers else _apart(super().__iter__())

    def _in_memory(self, dataset: ArrayDataset) -> Iterator[tuple[Tensor, ...]]:
        for indices in self._sampler.batches():
            batch = dataset.batch(indices)
            yield tuple(column.pin_memory() for column in batch) if self.pin_memory else batch


def _apart(batches: Iterator[Any]) -> Iterator[Any]:
    """The batches, made without a trace in the global generators of this process."""
    while True:
        with generators_kept():
            try:
                batch = next(batches)
            except StopIteration:
                return
        yield batch


@dataclass(frozen=True)
class Loaders:
    """The batches to train on and, if there are any, those to validate on and those to test on at last."""

    train: EpochLoader
    val: EpochLoader | None
    test: EpochLoader | None = None


def loaders(
    splits: Splits,
    *,
    batch_size: int,
    num_workers: int = 0,
    shuffle: bool = True,
    drop_last: bool = False,
    seed: int = 0,
    pin_memory: bool = False,
    rank: int = 0,
    ranks: int = 1,
) -> Loaders:
    """Loaders over the parts of a dataset; `shuffle` and `drop_last` are about the training part.

    Of several processes (`ranks`) each gets its own part of each batch, `batch_size` samples.

    Raises DataError for an empty part, and for a batch larger than the training part.
    """
    for option, value, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0)):
        if value < least:
            raise DataError(f"wrong {option}", expected=f"at least {least}", got=str(value))
    size = _size(splits.train, "train")
    if batch_size * ranks > size:
        got = f"{batch_size}{f' in each of {ranks} processes' if ranks > 1 else ''}, for {size} samples"
        raise DataError("the batch size is larger than the dataset", expected=f"at most {size // ranks}", got=got)
    order = EpochSampler(size, batch_size, seed=seed, shuffle=shuffle, drop_last=drop_last, rank=rank, ranks=ranks)
    train = EpochLoader(splits.train, order, num_workers=num_workers, pin_memory=pin_memory)

    def judged_on(dataset: Dataset[Any] | None, part: str) -> EpochLoader | None:
        if dataset is None:
            return None
        order = EpochSampler(
            _size(dataset, part), batch_size, seed=seed, shuffle=False, rank=rank, ranks=ranks, each_once=True
        )
        return EpochLoader(dataset, order, num_workers=num_workers, pin_memory=pin_memory)

    return Loaders(train, judged_on(splits.val, "val"), judged_on(splits.test, "test"))


def _size(dataset: Dataset[Any], part: str) -> int:
    size = len(dataset)  # type: ignore[arg-type]  # as_splits has looked for __len__
    if not size:
        raise DataError(f"the {part} part of the dataset is empty", expected="at least one sample")
    return size
