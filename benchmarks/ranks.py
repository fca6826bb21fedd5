"""What a training step costs where two processes train together, against loops written by hand for as many.

`python -m benchmarks.ranks ddp` starts two processes of gloo on this machine. In each the trainer and the other loop
take turns, block by block and in the same order, over the same group of torch.distributed; what is told is rank zero's.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import msgspec
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

import frameworm
from benchmarks.paired import PAIRS, Pair, Ratio, measure, summarize
from benchmarks.stepping import Batch, Classifier, Stepping, adamw
from bus import EventBus
from frameworm.config import Named, TrainerConfig
from frameworm.training.distributed.world import World
from frameworm.training.trainer import Trainer

Strategy = Literal["ddp", "fsdp"]

LIVES = 15  # how often the loops are made anew
_PAIRS = 2 * PAIRS  # four loops wait for each other: a block is disturbed more often
_FOREVER = 10_000_000


def ddp_against_by_hand() -> Ratio:
    """Measure the trainer with replicated models."""
    return _launched("ddp", "trainer")


def ddp_by_hand_against_itself() -> Ratio:
    """Measure the noise of that."""
    return _launched("ddp", "itself")


def fsdp_against_by_hand() -> Ratio:
    """Measure the trainer with a sharded model."""
    return _launched("fsdp", "trainer")


def fsdp_by_hand_against_itself() -> Ratio:
    """Measure the noise of that."""
    return _launched("fsdp", "itself")


class _Long:
    """Batches of which nobody asks how many there are: they say that they are very many."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Batch]:
        return self._batches

    def __len__(self) -> int:
        return _FOREVER


def _fit_by_hand(strategy: Strategy, batches: Iterator[Batch]) -> None:
    model: nn.Module = Classifier()
    if strategy == "ddp":
        model = DistributedDataParallel(model)
    else:
        fully_shard(model)
    optimizer = adamw(model, fused=True)
    for x, y in batches:
        optimizer.zero_grad()
        loss: Tensor = functional.cross_entropy(model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        optimizer.step()


def _fit_trainer(strategy: Strategy, batches: Iterator[Batch]) -> None:
    options = TrainerConfig(epochs=1, device="cpu", strategy=strategy)
    Trainer(Classifier(), _Long(batches), optimizer=Named("adamw", {"lr": 1e-3}), bus=EventBus(), options=options).fit()


def _measured(strategy: Strategy, what: Literal["trainer", "itself"], world: World) -> list[Pair]:
    """Return the pairs of this process, which has a core of its own where there are enough."""
    torch.set_num_threads(1)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) >= world.size:
        os.sched_setaffinity(0, {cores[world.rank]})
    by_hand: Callable[[Iterator[Batch]], None] = lambda batches: _fit_by_hand(strategy, batches)  # noqa: E731
    ours = by_hand if what == "itself" else lambda batches: _fit_trainer(strategy, batches)
    measured: list[Pair] = []
    for life in range(LIVES):
        first, second = Stepping(ours), Stepping(by_hand)
        with ExitStack() as running:
            for loop in (first, second) if life % 2 else (second, first):
                running.enter_context(loop)
                loop()
            measured += measure(first, second, pairs=_PAIRS // LIVES, seed=life)
    return measured


def _launched(strategy: Strategy, what: Literal["trainer", "itself"]) -> Ratio:
    words = ["--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    words += ["--local-addr", "127.0.0.1", "-m", "benchmarks.ranks", strategy, what]
    answer = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *words],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        check=True,
    )
    return summarize(msgspec.json.decode(answer.stdout, type=list[Pair]))


def main(strategy: Strategy, what: Literal["trainer", "itself"] | None = None) -> None:
    """Print the ratio; of `what`, in a process that was launched for it, the pairs as JSON."""
    if what is None:
        print(_launched(strategy, "trainer"))
        return
    with frameworm.joined() as world:
        pairs = _measured(strategy, what, world)
        if world.is_first:
            sys.stdout.buffer.write(msgspec.json.encode(pairs))


if __name__ == "__main__":
    main(*sys.argv[1:])  # type: ignore[arg-type]  # whoever gives other words sees what comes of it
