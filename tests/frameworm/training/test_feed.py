"""Batches of an epoch: from whatever gives them, in the right order, from any batch on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, TensorDataset

from frameworm.data.loading import loaders
from frameworm.data.splits import ArrayDataset, Splits
from frameworm.errors import DataError
from frameworm.training.feed import Feed

CPU = torch.device("cpu")


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
    """What comes before is skipped when `begin` returns; skipping more than there is gives nothing."""
    dataset = Numbers()
    batches = Feed(DataLoader(dataset, batch_size=4), CPU).begin(0, skip)
    assert dataset.loaded == list(range(min(10, 4 * skip)))
    assert values(batches) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]][skip:]
    assert list(Feed([1, 2], CPU).begin(0, 5)) == []


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
