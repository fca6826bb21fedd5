"""Batches: their order, their speed's path, and what cannot be loaded."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from frameworm.data import ArrayDataset, EpochLoader, EpochSampler, Loaders, Splits, digits, loaders
from frameworm.data.reseeding import reseed
from frameworm.errors import DataError

# Python 3.12 and later warn of forking a process with threads, which torch's workers do on Linux.
FORKS = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


class Counted(Dataset[Any]):
    """Samples that are their own index; remembers which were loaded."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.loaded: list[int] = []

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        self.loaded.append(index)
        return index


class Noisy(Dataset[Any]):
    """Samples that draw from every global generator."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[int, float, float, float]:
        return index, torch.rand(()).item(), np.random.rand(), random.random()  # noqa: NPY002  as augmentations do


def _arrays(size: int) -> ArrayDataset:
    return ArrayDataset(torch.arange(size), torch.arange(size) * 10)


def _listed(batches: Iterable[Any]) -> list[list[int]]:
    return [(batch[0] if isinstance(batch, list | tuple) else batch).tolist() for batch in batches]


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    """Asked again or made anew, an epoch has its order; other epochs and seeds have others."""
    sampler = EpochSampler(20, 4, seed=1)
    first = list(sampler)
    assert list(sampler) == first
    sampler.set_epoch(1)
    second = list(sampler)
    assert second != first
    again = EpochSampler(20, 4, seed=1)
    again.set_epoch(1)
    assert list(again) == second
    assert list(EpochSampler(20, 4, seed=2)) != first
    assert sorted(index for batch in second for index in batch) == list(range(20))


def test_seeds_and_epochs_do_not_run_into_each_other() -> None:
    """Epoch 1 of seed 0 is not epoch 0 of seed 1."""
    one = EpochSampler(20, 20, seed=0)
    one.set_epoch(1)
    assert list(one) != list(EpochSampler(20, 20, seed=1))


def test_without_shuffling_the_order_is_the_datasets() -> None:
    """Every epoch runs from the first to the last; the last batch is what remains."""
    sampler = EpochSampler(5, 2, shuffle=False)
    sampler.set_epoch(3)
    assert list(sampler) == [[0, 1], [2, 3], [4]]
    assert len(sampler) == 3


def test_drop_last_leaves_out_the_partial_batch() -> None:
    """Only whole batches remain, whichever samples that leaves out."""
    sampler = EpochSampler(5, 2, drop_last=True)
    assert [len(batch) for batch in sampler] == [2, 2]
    assert len(sampler) == 2


@pytest.mark.parametrize("skip", [0, 1, 4, 5, 6])
def test_an_epoch_begins_at_any_batch(skip: int) -> None:
    """What follows the skipped batches is what would have followed anyway; the length stays a whole epoch's."""
    sampler = EpochSampler(9, 2, seed=3)
    sampler.set_epoch(2)
    whole = list(sampler)
    sampler.set_epoch(2, skip_batches=skip)
    assert list(sampler) == whole[skip:]
    assert len(sampler) == 5


@pytest.mark.parametrize(("size", "ranks"), [(24, 2), (23, 2), (25, 3), (50, 4), (5, 4)])
@pytest.mark.parametrize("skip", [0, 2])
def test_the_processes_parts_are_one_processs_batches(size: int, ranks: int, skip: int) -> None:
    """Each has as many batches of as many samples; together they are the whole ones, filled up from the beginning."""
    parts = [EpochSampler(size, 4, seed=1, rank=rank, ranks=ranks) for rank in range(ranks)]
    whole = EpochSampler(size, 4 * ranks, seed=1)
    for sampler in (*parts, whole):
        sampler.set_epoch(3, skip)
    batches = [list(part) for part in parts]
    assert {len(found) for found in batches} == {len(list(whole))}
    for own, together in zip(zip(*batches, strict=True), whole, strict=True):
        assert len({len(batch) for batch in own}) == 1
        joined = [index for batch in own for index in batch]
        assert joined[: len(together)] == together
        assert len(joined) - len(together) < ranks


@pytest.mark.parametrize(("size", "ranks"), [(24, 2), (23, 2), (25, 3), (50, 4), (33, 8), (5, 4)])
def test_what_is_judged_on_is_met_once(size: int, ranks: int) -> None:
    """In all processes' batches that count each sample is met once, and none has fewer batches than another."""
    parts = [EpochSampler(size, 4, shuffle=False, rank=rank, ranks=ranks, each_once=True) for rank in range(ranks)]
    batches = [list(part) for part in parts]
    assert len({len(found) for found in batches}) == 1
    assert all(batch for found in batches for batch in found)
    counted = [batch for part, found in zip(parts, batches, strict=True) for batch in found[: part.counted]]
    assert sorted(index for batch in counted for index in batch) == list(range(size))


def test_a_batch_for_more_processes_than_there_are_samples() -> None:
    """It is refused, and told how large a process's batch may be."""
    with pytest.raises(DataError, match="larger than the dataset") as raised:
        loaders(Splits(Counted(20), None), batch_size=8, rank=0, ranks=4)
    assert (raised.value.expected, raised.value.got) == ("at most 5", "8 in each of 4 processes, for 20 samples")


def test_skipped_samples_are_not_loaded() -> None:
    """A dataset that reads files is not asked for what is skipped."""
    dataset = Counted(6)
    train = loaders(Splits(dataset), batch_size=2).train
    whole = _listed(train)
    dataset.loaded.clear()
    train.set_epoch(0, skip_batches=2)
    assert _listed(train) == whole[2:]
    assert dataset.loaded == whole[2]


def test_arrays_and_other_datasets_come_in_one_order() -> None:
    """The path for arrays in memory gives the very batches that torch's would."""
    fast = loaders(Splits(_arrays(10)), batch_size=3, seed=5).train
    slow = loaders(Splits(Counted(10)), batch_size=3, seed=5).train
    assert _listed(fast) == _listed(slow) == _listed(DataLoader.__iter__(fast))
    assert len(fast) == len(slow) == 4


def test_a_batch_is_a_tuple_of_tensors() -> None:
    """The digits come as images (64, 1, 8, 8), float32, and labels (64,), int64."""
    x, y = next(iter(loaders(digits(), batch_size=64).train))
    assert (x.shape, x.dtype) == ((64, 1, 8, 8), torch.float32)
    assert (y.shape, y.dtype) == ((64,), torch.int64)


def test_validation_is_neither_shuffled_nor_cut() -> None:
    """Every sample to validate on comes once, in order, whatever the options for training."""
    made = loaders(Splits(_arrays(8), _arrays(3)), batch_size=2, drop_last=True)
    assert isinstance(made, Loaders)
    assert made.val is not None
    assert _listed(made.val) == [[0, 1], [2]]
    assert loaders(Splits(_arrays(8)), batch_size=2).val is None


def test_iterating_leaves_the_global_generators_alone() -> None:
    """The model's dropout does not depend on how the data is loaded."""
    before = torch.get_rng_state(), random.getstate()
    for train in (loaders(Splits(data), batch_size=2).train for data in (_arrays(4), Counted(4))):
        list(train)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


@FORKS
def test_workers_are_seeded_by_seed_and_epoch() -> None:
    """What workers draw is the same when an epoch is run again, and another in the next epoch and with another seed."""

    def drawn(seed: int, epoch: int) -> list[Tensor]:
        train = loaders(Splits(Noisy()), batch_size=2, num_workers=2, seed=seed).train
        train.set_epoch(epoch)
        return [torch.stack([part.double() for part in batch]) for batch in train]

    first = drawn(0, 1)
    assert all(map(torch.equal, first, drawn(0, 1)))
    for other in (drawn(0, 2), drawn(1, 1)):
        assert not any(torch.equal(a[1:], b[1:]) for a in first for b in other)


@FORKS
def test_random_numbers_follow_from_seed_epoch_and_index() -> None:
    """They are the same with and without workers, in whatever batch, and after a skip; every sample has its own."""

    def drawn(*, workers: int = 0, skip: int = 0, size: int = 2) -> dict[float, list[float]]:
        train = loaders(Splits(Noisy()), batch_size=size, num_workers=workers).train
        train.set_epoch(3, skip)
        rows = [torch.stack([part.double() for part in batch], dim=1) for batch in train]
        return {index: numbers for index, *numbers in torch.cat(rows).tolist()}

    alone = drawn()
    assert alone == drawn(workers=1) == drawn(workers=2) == drawn(size=4)
    assert drawn(skip=1).items() < alone.items()
    assert len({number for numbers in alone.values() for number in numbers}) == 4 * 3


def test_samples_that_are_loaded_by_the_batch_are_so() -> None:
    """A dataset that has `__getitems__` is asked for whole batches, seeded each."""

    class Batched(Noisy):
        def __getitems__(self, indices: list[int]) -> list[Any]:
            return [torch.tensor([float(index), torch.rand(()).item()]) for index in indices]

    first, second = (torch.cat(list(loaders(Splits(Batched()), batch_size=2).train)) for _ in range(2))
    assert torch.equal(first, second)
    assert sorted(first[:, 0].tolist()) == [0, 1, 2, 3]


def test_a_part_of_a_dataset_is_seeded_by_the_sample() -> None:
    """What `random_split` gives has `__getitems__` for the dataset's sake, and loads one by one where that does."""

    def drawn(size: int) -> list[list[float]]:
        train = loaders(Splits(Subset(Noisy(), range(4))), batch_size=size).train
        return sorted(torch.cat([torch.stack([x.double() for x in batch], dim=1) for batch in train]).tolist())

    assert drawn(2) == drawn(4)


def test_the_generators_do_not_run_in_step() -> None:
    """Numpy and torch have the same generator: seeded alike, they would draw the same noise."""
    reseed((0, 1, 2))
    ours = [int(torch.empty((), dtype=torch.int32).random_().item()) for _ in range(4)]
    theirs = [int(word) & 0x7FFFFFFF for word in np.random.randint(0, 2**32, 4, np.uint32)]  # noqa: NPY002
    assert not set(ours) & set(theirs)


def test_loading_leaves_the_global_generators_alone_though_it_draws() -> None:
    """What samples draw in this process is no part of what the model draws."""
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    for _ in loaders(Splits(Noisy()), batch_size=2).train:
        assert torch.equal(torch.get_rng_state(), before[0])
        assert random.getstate() == before[1]
        assert np.random.get_state()[1].tolist() == before[2]  # type: ignore[index]  # noqa: NPY002


@FORKS
def test_workers_load_arrays_in_the_same_order() -> None:
    """More processes change nothing about the batches."""
    alone = loaders(Splits(_arrays(6)), batch_size=2).train
    helped = loaders(Splits(_arrays(6)), batch_size=2, num_workers=1).train
    assert _listed(helped) == _listed(alone)


def test_the_loader_is_a_dataloader() -> None:
    """Whatever takes torch's DataLoader takes ours."""
    train = loaders(Splits(_arrays(6)), batch_size=2).train
    assert isinstance(train, DataLoader)
    assert isinstance(train, EpochLoader)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "wrong batch_size"),
        ({"batch_size": 2, "num_workers": -1}, "wrong num_workers"),
        ({"batch_size": 9}, "larger than the dataset"),
    ],
)
def test_sizes_that_make_no_batches_are_errors(options: dict[str, Any], message: str) -> None:
    """Each says what it expected and what it got."""
    with pytest.raises(DataError, match=message) as caught:
        loaders(Splits(_arrays(8)), **options)
    assert caught.value.expected is not None
    assert caught.value.got is not None


@pytest.mark.parametrize(("train", "val", "part"), [(0, None, "train"), (8, 0, "val")])
def test_an_empty_part_is_an_error(train: int, val: int | None, part: str) -> None:
    """There would be nothing to do."""
    splits = Splits(Counted(train), None if val is None else Counted(val))
    with pytest.raises(DataError, match=f"the {part} part of the dataset is empty"):
        loaders(splits, batch_size=2)
