"""The exponential moving average of a model's weights, which is often better than the weights themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from frameworm.training.distributed.shards import as_part_of, own_part, spread


class MovingAverage:
    """The average of a model's parameters: `decay` * itself + (1 - `decay`) * the weights, after each step.

    Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992. It begins as a copy of the weights
    after the first step, and is what torch's `AveragedModel` with `get_ema_multi_avg_fn(decay)` computes, bit for bit.
    Buffers, such as the statistics of a batch norm, are not averaged: the model's own count.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._named = named = {name: parameter.detach() for name, parameter in model.named_parameters()}
        self._weights = [own_part(weight) for weight in named.values()]  # each process averages its own
        self._averages = [weight.clone() for weight in self._weights]
        self._update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        kinds = {(weight.device, weight.dtype) for weight in self._weights}
        self._groups = [
            [index for index, weight in enumerate(self._weights) if (weight.device, weight.dtype) == kind]
            for kind in kinds
        ]
        self._count = 0

    def update(self) -> None:
        """Take in the weights as they are after a step."""
        if self._count == 0:
            torch._foreach_copy_(self._averages, self._weights)
        else:
            for group in self._groups:
                averages, weights = self._averages, self._weights
                self._update([averages[index] for index in group], [weights[index] for index in group], self._count)
        self._count += 1

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Have the model compute with the average inside; afterwards the weights are what they were, bit for bit.

        They are copied to and fro: a compiled model holds on to the memory that they lie in.
        """
        if self._count == 0:
            yield
            return
        kept = [weight.clone() for weight in self._weights]
        torch._foreach_copy_(self._weights, self._averages)
        try:
            yield
        finally:
            torch._foreach_copy_(self._weights, kept)

    def state_dict(self) -> dict[str, Any]:
        """Return the average, under the parameters' names, and how many steps are in it."""
        pairs = zip(self._named.items(), self._averages, strict=True)
        return {"count": self._count, "averages": {name: as_part_of(own, weight) for (name, weight), own in pairs}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        averages: Mapping[str, Tensor] = state["averages"]
        for (name, weight), average in zip(self._named.items(), self._averages, strict=True):
            average.copy_(own_part(spread(averages[name], weight)))
        self._count = int(state["count"])


def use_average(model: nn.Module, state: Mapping[str, Any]) -> bool:
    """Give a model the average that a checkpoint's `state` has of its weights; return whether there is one.

    It is what was validated while training.
    """
    average = state.get("parts", {}).get("ema")
    if average is None or not average["count"]:
        return False
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(average["averages"][name])
    return True
