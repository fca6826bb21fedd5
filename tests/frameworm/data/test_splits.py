"""In-memory datasets, and the parts a dataset comes in."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.utils.data import DataLoader

from frameworm.data import ArrayDataset, Splits, as_splits, split_arrays
from frameworm.errors import DataError


@pytest.fixture
def dataset() -> ArrayDataset:
    """Five samples, whose target is ten times their input."""
    x = torch.arange(5.0)
    return ArrayDataset(x, x * 10)


def test_a_sample_is_the_tuple_of_the_columns_items(dataset: ArrayDataset) -> None:
    """One index gives one sample, tensors without the first dimension."""
    assert len(dataset) == 5
    assert dataset[3] == (torch.tensor(3.0), torch.tensor(30.0))


def test_a_batch_is_collated(dataset: ArrayDataset) -> None:
    """Many indices give the stacked samples, in their order."""
    x, y = dataset.batch(torch.tensor([4, 0]))
    assert x.tolist() == [4, 0]
    assert y.tolist() == [40, 0]


def test_a_plain_dataloader_takes_it(dataset: ArrayDataset) -> None:
    """`__getitems__` gives what torch's own collate function expects."""
    batches = [(x.tolist(), y.tolist()) for x, y in DataLoader(dataset, batch_size=3)]
    assert batches == [([0, 1, 2], [0, 10, 20]), ([3, 4], [30, 40])]


@pytest.mark.parametrize("columns", [(torch.zeros(2), torch.zeros(3)), ()])
def test_columns_have_one_length(columns: tuple[torch.Tensor, ...]) -> None:
    """Arrays of unequal length, or none, are no dataset."""
    with pytest.raises(DataError, match="differ in length"):
        ArrayDataset(*columns)


def test_splits_do_not_change(dataset: ArrayDataset) -> None:
    """They are a value."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Splits(dataset).val = dataset  # type: ignore[misc]  # that is the point


def test_as_splits_takes_what_people_have(dataset: ArrayDataset) -> None:
    """Splits stay; tuples of two or three and a single dataset become Splits."""
    splits = Splits(dataset)
    assert as_splits(splits) is splits
    assert as_splits((dataset, None)) == Splits(dataset)
    assert as_splits((dataset, dataset, dataset)) == Splits(dataset, dataset, dataset)
    assert as_splits(dataset) == Splits(dataset)
    assert len(as_splits([(1.0, 2.0)]).train) == 1  # type: ignore[arg-type]  # a list has a length


@pytest.mark.parametrize(
    ("data", "got"),
    [(None, "NoneType"), ({"train": []}, "dict"), ("digits", "str"), (([], 3), "int"), (iter([]), "list")],
)
def test_as_splits_refuses_what_has_no_samples(data: object, got: str) -> None:
    """The error says what came instead of a dataset."""
    with pytest.raises(DataError, match="is not a dataset") as caught:
        as_splits(data)
    assert caught.value.got is not None
    assert got in caught.value.got


def test_split_arrays_is_a_permutation_fixed_by_the_seed() -> None:
    """Every sample is in one part, inputs stay with their targets, and the same seed gives the same parts."""
    x = torch.arange(10)

    def parts(seed: int) -> tuple[list[int], list[int]]:
        splits = split_arrays(x, x * 10, val_fraction=0.3, seed=seed)
        train, val = splits.train, splits.val
        assert isinstance(train, ArrayDataset)
        assert isinstance(val, ArrayDataset)
        assert torch.equal(train.columns[1], train.columns[0] * 10)
        return train.columns[0].tolist(), val.columns[0].tolist()

    train, val = parts(0)
    assert len(val) == 3
    assert sorted(train + val) == x.tolist()
    assert parts(0) == (train, val)
    assert parts(1) != (train, val)


def test_no_fraction_leaves_no_validation_part() -> None:
    """With 0 the samples stay in their order."""
    splits = split_arrays(torch.arange(3), val_fraction=0.0, seed=0)
    assert splits.val is None
    assert isinstance(splits.train, ArrayDataset)
    assert splits.train.columns[0].tolist() == [0, 1, 2]


@pytest.mark.parametrize(("size", "fraction"), [(0, 0.0), (0, 0.5), (2, 0.1), (2, 0.9)])
def test_no_part_is_empty(size: int, fraction: float) -> None:
    """Too few samples for the fraction are an error, not an empty part."""
    with pytest.raises(DataError, match="too few samples"):
        split_arrays(torch.zeros(size), val_fraction=fraction, seed=0)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_the_fraction_is_one(fraction: float) -> None:
    """At least 0 and less than 1."""
    with pytest.raises(DataError, match="at least 0, less than 1"):
        split_arrays(torch.zeros(9), val_fraction=fraction, seed=0)
