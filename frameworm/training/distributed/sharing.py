"""The data of several processes: each has its own part, and all have as many batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch.utils.data import IterableDataset

from frameworm.errors import DataError
from frameworm.training.distributed.world import World

_SHARES = ("ranks", "num_replicas")
"""What says for how many processes a sampler makes parts: ours, and torch's `DistributedSampler`."""


def require_own_part(data: Any, world: World) -> None:
    """Raise `DataError` if each of the processes would train on all of the data, as with torch's own samplers.

    What has other samplers, or none, has to know by itself which part is a process's.
    """
    samplers = [getattr(data, "batch_sampler", None), getattr(data, "sampler", None)]
    samplers.append(getattr(samplers[0], "sampler", None))
    said = [getattr(sampler, name) for sampler in samplers for name in _SHARES if hasattr(sampler, name)]
    if world.size == 1 or world.size in said or isinstance(getattr(data, "dataset", None), IterableDataset):
        return
    makes_all = [sampler for sampler in samplers if type(sampler).__module__.startswith("torch.utils.data")]
    if said or makes_all:
        got = f"parts for {said[0]}" if said else f"all samples, from a {type(makes_all[-1]).__name__}"
        raise DataError(
            f"each of {world.size} processes would train on the same samples",
            expected=f"a sampler that makes parts for {world.size} processes",
            got=got,
            hint="DistributedSampler(dataset), or frameworm.data.loaders(splits, rank=..., ranks=...)",
        )


def agreed_length(length: int | None, world: World) -> int | None:
    """Return how many batches an epoch has in each process; None if one of them does not know.

    Raises `DataError` when they differ: some would wait for ever for the others.
    """
    lengths = world.gathered(length)
    if len(set(lengths)) > 1 and None not in lengths:
        raise DataError(
            "the processes have different numbers of batches",
            expected="as many in each",
            got=", ".join(f"{length} in rank {rank}" for rank, length in enumerate(lengths)),
            hint="trainer.limit_train_batches or limit_val_batches, or a sampler that fills up, as DistributedSampler",
        )
    return None if None in lengths else lengths[0]


def while_all_have(batches: Iterable[Any], world: World) -> Iterator[Any]:
    """Return batches as long as each of the processes has another one."""
    for batch in batches:
        if world.any(False):
            return
        yield batch
    world.any(True)
