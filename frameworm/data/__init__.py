"""Datasets that ship, and how any dataset becomes batches."""

from frameworm.data.csv import csv
from frameworm.data.digits import digits
from frameworm.data.loading import EpochLoader, EpochSampler, Loaders, loaders
from frameworm.data.npz import npz
from frameworm.data.splits import ArrayDataset, Splits, as_splits, split_arrays
from frameworm.data.synthetic import synthetic

__all__ = [
    "ArrayDataset",
    "EpochLoader",
    "EpochSampler",
    "Loaders",
    "Splits",
    "as_splits",
    "csv",
    "digits",
    "loaders",
    "npz",
    "split_arrays",
    "synthetic",
]
