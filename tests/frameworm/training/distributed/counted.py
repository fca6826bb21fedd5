"""A program under torchrun that counts what its processes agree on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

import frameworm
from frameworm import Trainer, TrainerConfig
from frameworm.config import Section
from frameworm.models.mlp import MLP

_AGREEING = ("all_gather_object", "broadcast_object_list", "all_reduce", "broadcast", "barrier", "all_gather")


def counting(name: str, counts: dict[str, int]) -> Callable[..., Any]:
    """Return the function of this name, counted."""
    function = getattr(dist, name)

    def counted(*args: Any, **kwargs: Any) -> Any:
        counts[name] += 1
        return function(*args, **kwargs)

    return counted


def agreements(steps: int) -> int:
    """Return how often the processes say something to each other in an epoch of so many steps, gradients aside."""
    batches = [(torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))] * steps
    options = TrainerConfig(epochs=1, device="cpu", clip_norm=1.0)
    trainer = Trainer(MLP(Section({"model": {"inputs": 3, "outputs": 2}})), batches, options=options)
    counts = dict.fromkeys(_AGREEING, 0)
    functions = {name: getattr(dist, name) for name in counts}
    for name in counts:
        setattr(dist, name, counting(name, counts))
    try:
        trainer.fit()
    finally:
        for name, function in functions.items():
            setattr(dist, name, function)
    assert trainer.step == steps
    return sum(counts.values())


if __name__ == "__main__":
    with frameworm.joined():
        few, many = agreements(10), agreements(100)
        assert few == many, (few, many)
        assert few > 0
