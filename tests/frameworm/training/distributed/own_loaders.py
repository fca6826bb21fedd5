"""A program of one's own under torchrun, with data of one's own; its argument says which of the `CASES`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import frameworm
from frameworm import Trainer, TrainerConfig
from frameworm.config import Section
from frameworm.models.mlp import MLP
from frameworm.training.distributed.world import World

CASES = {
    "distributed": "",
    "streams": "",
    "all": "each of 2 processes would train on the same samples",
    "uneven": "the processes have different numbers of batches",
    "late": "the optimizer would not train the model",
    "unused": "",
    "fp16": "a sharded model does not train in fp16",
    "alone": "this is one of several processes, and would train alone",
}
"""What each says, if it is refused."""

SAMPLES = TensorDataset(torch.randn(40, 3), torch.arange(40) % 2)
Batches = list[tuple[Tensor, Tensor]]


class Stream:
    """Batches that do not say how many they are."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.batches)


def data_of(case: str, world: World) -> Iterable[Any]:
    """Return the training data of a process."""
    if case in {"distributed", "late", "unused", "fp16"}:
        return DataLoader(SAMPLES, 4, sampler=DistributedSampler(SAMPLES))
    if case == "all":
        return DataLoader(SAMPLES, 4, shuffle=True)
    batches: Batches = [SAMPLES[begin : begin + 4] for begin in range(0, 12 + 8 * world.rank, 4)]
    return Stream(batches) if case == "streams" else batches


def main(case: str) -> None:
    """Train."""
    options = TrainerConfig(epochs=2, device="cpu")
    if case == "alone":
        Trainer(MLP(Section({"model": {"inputs": 3, "outputs": 2}})), [SAMPLES[:4]], options=options)
    model = MLP(Section({"model": {"inputs": 3, "outputs": 2}}))
    optimizer: Any = "sgd"
    if case == "late":
        optimizer = SGD(model.parameters(), lr=0.1)
        options = TrainerConfig(epochs=2, device="cpu", strategy="fsdp")
    if case == "fp16":
        options = TrainerConfig(epochs=2, device="cpu", strategy="fsdp", precision="fp16")
    if case == "unused":
        model.never_asked = nn.Linear(2, 2)
        options = TrainerConfig(epochs=2, device="cpu", find_unused_parameters=True)
    with frameworm.joined() as world:
        trainer = Trainer(model, data_of(case, world), optimizer=optimizer, options=options)
        result = trainer.fit()
        assert result.status == "finished"
        assert trainer.step == {"distributed": 10, "unused": 10, "streams": 6}[case]


if __name__ == "__main__":
    main(sys.argv[1])
