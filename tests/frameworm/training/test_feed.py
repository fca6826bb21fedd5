"""Batches of an epoch: from whatever gives them, in the right order, from any batch on."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    TensorDataset,
)

from frameworm.data.loading import EpochSampler, loaders
from frameworm.data.splits import ArrayDataset, Splits
from frameworm.errors import DataError
from frameworm.training.feed import Feed

CPU = torch.device("cpu")

# Python 3.12 and later warn of forking a process with threads, which torch's workers do on Linux.
FORKS = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


class Numbers(Dataset[Tensor]):
    """Ten numbers that remember who was loaded."""

    def __init__(self) -> None:
        self.loaded: list[int] = []

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Tensor:
        self.loaded.append(index)
        return torch.tensor(index)


class Shuffled(Sampler[int]):
    """An order that changes with the epoch, as a DistributedSampler's does."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Take the order of this epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(10, generator=torch.Generator().manual_seed(self.epoch)).tolist())

    def __len__(self) -> int:
        return 10


class Stream(IterableDataset[int]):
    """Numbers without end in sight."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(4))


class Counted(Stream):
    """One that says how many, which several workers make wrong."""

    def __len__(self) -> int:
        return 4


def values(batches: Iterable[Tensor]) -> list[list[int]]:
    """Return the numbers in the batches."""
    return [batch.tolist() for batch in batches]


def test_an_epoch_is_what_iterating_gives() -> None:
    """A list, an object of one's own, a DataLoader."""
    assert list(Feed([1, 2, 3], CPU).begin()) == [1, 2, 3]
    assert list(Feed(Stream(), CPU).begin()) == [0, 1, 2, 3]
    assert values(Feed(DataLoader(Numbers(), batch_size=4), CPU).begin()) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize("skip", range(4))
def test_an_epoch_may_begin_half_way(skip: int) -> None:
    """What comes before is skipped, and not loaded; skipping more than there is gives nothing."""
    dataset = Numbers()
    batches = Feed(DataLoader(dataset, batch_size=4), CPU).begin(0, skip)
    assert values(batches) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]][skip:]
    assert dataset.loaded == list(range(10))[4 * skip :]
    assert list(Feed([1, 2], CPU).begin(0, 5)) == []


def test_what_cannot_begin_half_way_is_loaded_again(caplog: pytest.LogCaptureFixture) -> None:
    """A stream, and a DataLoader of another make; that is said."""

    class Own(DataLoader[Any]):
        pass

    dataset = Numbers()
    with caplog.at_level("INFO", logger="frameworm"):
        assert values(Feed(Own(dataset, batch_size=4), CPU).begin(0, 2)) == [[8, 9]]
    assert dataset.loaded == list(range(10))
    assert "2 batches are loaded once more" in caplog.text
    assert values(Feed(DataLoader(Stream(), batch_size=2), CPU).begin(0, 1)) == [[2, 3]]


def by_global() -> DataLoader[Any]:
    """Shuffles with the global generator."""
    return DataLoader(Numbers(), batch_size=4, shuffle=True)


def by_its_own() -> DataLoader[Any]:
    """Shuffles with a generator of its own, epoch after epoch."""
    return DataLoader(Numbers(), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(3))


def one_by_one() -> DataLoader[Any]:
    """Does not batch."""
    return DataLoader(Numbers(), batch_size=None, sampler=RandomSampler(Numbers(), generator=torch.Generator()))


def by_batches() -> DataLoader[Any]:
    """Has batches of its own making, collated in its own way."""
    sampler = BatchSampler(RandomSampler(Numbers(), replacement=True), batch_size=3, drop_last=True)
    return DataLoader(Numbers(), batch_sampler=sampler, collate_fn=lambda batch: torch.stack(batch) + 100)


class Eager(BatchSampler):
    """Draws its order as soon as it is asked for an iterator."""

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(10).tolist()
        return iter([order[start : start + 3] for start in range(0, 10, 3)])


def eagerly() -> DataLoader[Any]:
    """Has such an order."""
    return DataLoader(Numbers(), batch_sampler=Eager(SequentialSampler(Numbers()), batch_size=3, drop_last=False))


def in_workers() -> DataLoader[Any]:
    """Loads in workers, which draw random numbers."""
    return DataLoader(Drawing(), batch_size=4, shuffle=True, num_workers=2)


def in_lasting_workers() -> DataLoader[Any]:
    """Keeps them from one epoch to the next."""
    return DataLoader(Drawing(), batch_size=4, shuffle=True, num_workers=2, persistent_workers=True)


class Drawing(Numbers):
    """Numbers with random ones beside them, from each global generator."""

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor([index, torch.rand(()).item(), np.random.rand(), random.random()])  # noqa: NPY002


@FORKS
@pytest.mark.parametrize(
    "make", [by_global, by_its_own, one_by_one, by_batches, eagerly, in_workers, in_lasting_workers]
)
def test_a_loader_of_one_s_own_goes_on_as_it_would_have(make: Callable[[], DataLoader[Any]]) -> None:
    """From any batch of the second epoch on, all batches are those of a run that was not cut, and of a plain loop."""
    torch.manual_seed(7)
    feed = Feed(make(), CPU)
    before: list[Any] = []
    epochs = []
    for epoch in range(3):
        before.append((torch.get_rng_state(), feed.state_dict()))
        epochs.append(values(feed.begin(epoch)))
    assert epochs[0] != epochs[1]
    if make is not in_workers and make is not in_lasting_workers:
        torch.manual_seed(7)
        loader = make()
        assert [values(loader) for _ in range(3)] == epochs
    for skip in range(1, len(epochs[1])):
        torch.manual_seed(99)
        again = Feed(make(), CPU)
        torch.set_rng_state(before[1][0])
        again.load_state_dict(before[1][1])
        rest = again.begin(1, skip)
        assert values(rest) == epochs[1][skip:]
        assert values(again.begin(2)) == epochs[2]


class Many(Numbers):
    """So many that a hundred thousand batches of two are not all of them."""

    def __len__(self) -> int:
        return 200_006


@pytest.mark.parametrize("ours", [True, False])
def test_nothing_is_loaded_of_a_hundred_thousand_batches(ours: bool) -> None:  # noqa: FBT001
    """The samples behind them are those that are loaded, and those that come in the same order without skipping."""
    dataset = Many()

    def feed() -> Feed:
        if ours:
            return Feed(loaders(Splits(dataset), batch_size=2).train, CPU)
        return Feed(DataLoader(dataset, batch_size=2, shuffle=True), CPU)

    torch.manual_seed(1)
    batches = feed().begin(0, 100_000)
    assert dataset.loaded == []
    rest = [index for batch in values(batches) for index in batch]
    assert dataset.loaded == rest
    torch.manual_seed(1)
    if ours:
        [order] = EpochSampler(200_006, 200_006)
    else:
        torch.empty((), dtype=torch.int64).random_()  # a DataLoader draws its own seed first
        order = list(RandomSampler(dataset))
    assert rest == order[200_000:]


def test_a_sampler_hears_of_the_epoch() -> None:
    """As those for several processes want it."""
    feed = Feed(DataLoader(Numbers(), batch_size=5, sampler=Shuffled()), CPU)
    first, second = values(feed.begin(0)), values(feed.begin(1))
    assert first != second
    assert values(feed.begin(0)) == first
    assert values(feed.begin(1, 1)) == second[1:]


def test_a_loader_that_can_skip_loads_nothing_of_what_it_skips() -> None:
    """The trainer's own does so."""
    splits = Splits(ArrayDataset(torch.arange(10)))
    feed = Feed(loaders(splits, batch_size=4, seed=3).train, CPU)
    whole = [batch[0].tolist() for batch in feed.begin(2)]
    assert [batch[0].tolist() for batch in feed.begin(2, 1)] == whole[1:]
    dataset = Numbers()
    batches = Feed(loaders(Splits(dataset), batch_size=4, shuffle=False).train, CPU).begin(0, 1)
    assert dataset.loaded == []
    assert values(batches) == [[4, 5, 6, 7], [8, 9]]


def test_batches_are_brought_onto_the_device() -> None:
    """Whatever they are made of; the skipped ones are not."""
    meta = torch.device("meta")
    data = [{"x": torch.ones(2), "id": ["a"]}, {"x": torch.ones(3), "id": ["b"]}]
    (batch,) = Feed(data, meta).begin(0, 1)
    assert batch["x"].device == meta
    assert batch["id"] == ["b"]
    assert next(Feed(data, CPU).begin()) is data[0]


@pytest.mark.parametrize(
    ("data", "length"),
    [
        ([1, 2, 3], 3),
        (DataLoader(Numbers(), batch_size=4), 3),
        (DataLoader(Numbers(), batch_size=4, drop_last=True), 2),
        (DataLoader(Stream(), batch_size=2), None),
        (DataLoader(Counted(), batch_size=2), None),
        (Stream(), None),
    ],
)
def test_a_length_is_only_what_is_sure(data: Any, length: int | None) -> None:
    """Streams only estimate it."""
    assert Feed(data, CPU).length == length


@pytest.mark.parametrize(
    ("data", "got"),
    [
        (iter([1, 2]), "used up after one of 2 epochs"),
        ((batch for batch in [1, 2]), "generator, which"),
        (map(int, "12"), "map, which"),
        (TensorDataset(torch.ones(4)), "TensorDataset, a dataset"),
        (ArrayDataset(torch.ones(4)), "ArrayDataset, a dataset"),
        (5, "int"),
    ],
)
def test_what_cannot_give_batches_every_epoch_is_refused_at_the_door(data: Any, got: str) -> None:
    """A one-shot iterator would fail after the first epoch, a dataset would train on single samples."""
    with pytest.raises(DataError) as caught:
        Feed(data, CPU, epochs=2)
    assert got in str(caught.value.got)
    assert "DataLoader" in str(caught.value)


class StartsOver:
    """An iterator that begins again when it is iterated again, as some fast loaders do."""

    def __iter__(self) -> Iterator[int]:
        self.left = [2, 1]
        return self

    def __next__(self) -> int:
        if not self.left:
            raise StopIteration
        return self.left.pop()


def test_an_iterator_that_starts_over_is_welcome() -> None:
    """It gives the batches of every epoch."""
    feed = Feed(StartsOver(), CPU, epochs=2)
    assert [list(feed.begin(epoch)) for epoch in range(2)] == [[1, 2], [1, 2]]


def test_one_epoch_may_come_from_an_iterator() -> None:
    """It is enough for that."""
    assert list(Feed(iter([1, 2]), CPU, epochs=1).begin()) == [1, 2]
