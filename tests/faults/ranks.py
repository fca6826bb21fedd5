"""Trouble for one of several processes that train together, and how they are started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from frameworm.models.mlp import MLP
from frameworm.plugins.hooks import CallbackHook
from frameworm.training.distributed.shards import is_sharded

ROOT = Path(__file__).parents[2]
AT = 30
"""The step at which there is trouble."""

CONFIG = """
run: {name: ranks, dir: runs, seed: 3}
model: {name: "tests.faults.ranks:Faulty"}
data: {name: digits, batch_size: 32}
optimizer: {name: adamw, lr: 1.0e-3}
trainer: {epochs: 4000, device: cpu, log_every: 10, validate_every: 5}
checkpoint: {every_epochs: 2}
metrics: [accuracy]
callbacks:
  - tests.faults.ranks:Trouble: {what: "WHAT", rank: 1, ranks: all}
"""
"""Write `WHAT` for what happens to rank 1."""


class Faulty(MLP):
    """A model whose loss cannot be had in a process where somebody says so, or is not a number, once."""

    faulty = False
    spoilt = False

    def compute_loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """Return what the model does, if it can."""
        if self.faulty:
            raise ArithmeticError("this batch is too much")
        found = super().compute_loss(x, y)
        if self.spoilt:
            self.spoilt = False
            found["loss"] = found["loss"] * float("nan")
        return found


class Plain(MLP):
    """A model that is asked for its predictions by themselves."""

    def compute_loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """Return the loss alone."""
        return {"loss": super().compute_loss(x, y)["loss"]}


class Pair(nn.Module):
    """Reads digits, and judges what it has read: two losses, whose graphs go through both."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.reader = nn.Linear(64, 10)
        self.judge = nn.Linear(10, 1)

    def configure_optimizers(self) -> dict[str, nn.Module]:
        """The judge first."""
        return {"judge": self.judge, "reader": self.reader}

    def compute_loss(self, x: Tensor, y: Tensor | None = None, *, optimizer: str) -> dict[str, Tensor]:
        """Return the loss of one of them."""
        assert y is not None
        read = self.reader(x.flatten(1))
        judged = self.judge(read)[:, 0]
        if optimizer == "judge":
            return {"loss": functional.mse_loss(judged, y / 9)}
        return {"loss": functional.cross_entropy(read, y) + 0.1 * judged.square().mean()}


class Trouble(CallbackHook):
    """Does `what`, in the process of `rank`, at one step; says on the standard output who is who."""

    def __init__(self, what: str, rank: int) -> None:
        self.what = what
        self.rank = rank

    def on_train_begin(self, trainer: Any) -> None:
        """Say it."""
        os.write(1, f"rank {trainer.rank} is {os.getpid()}\n".encode())

    def on_epoch_end(self, trainer: Any, epoch: int, metrics: Any) -> None:
        """Add a metric, in the first process alone: all of them have it."""
        if trainer.rank == 0:
            metrics["added"] = float(epoch)

    def on_train_end(self, trainer: Any) -> None:
        """Leave behind what it has come to."""
        if not any(is_sharded(weight) for weight in trainer.model.parameters()):
            save_file(trainer.model.state_dict(), trainer.run_dir / f"weights.r{trainer.rank}.safetensors")

    def on_optimizer_stepped(self, trainer: Any) -> None:
        """Do it."""
        if trainer.step == AT:
            os.write(1, f"rank {trainer.rank} is there\n".encode())
            if self.what == "thaw":
                frozen = [weight for weight in trainer.model.parameters() if not weight.requires_grad]
                trainer.model.requires_grad_(True)
                trainer.optimizer.add_param_group({"params": frozen})
        if trainer.step != AT or trainer.rank != self.rank:
            return
        if self.what == "stop":
            trainer.stop("enough")
        elif self.what == "skip":
            trainer.skip_batch("no good")
        elif self.what == "hook":
            raise LookupError("the hook does not know")
        elif self.what == "loss":
            trainer.model.faulty = True
        elif self.what == "nan":
            trainer.model.spoilt = True


class Launched:
    """`torchrun` at work, and what its processes have said on their standard output."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.pids: dict[int, int] = {}

    def until_all_are_there(self, ranks: int = 2) -> None:
        """Read on until all processes are at the step `AT`."""
        there = 0
        assert self.process.stdout is not None
        while there < ranks:
            line = self.process.stdout.readline()
            assert line, self.end()[1]
            words = line.split()
            if line.startswith("rank ") and words[2] == "is" and words[3].isdigit():
                self.pids[int(words[1])] = int(words[3])
            there += line.endswith("is there\n")

    def end(self, seconds: float = 60) -> tuple[int, str]:
        """Wait for the end; return the exit code and the errors."""
        _, errors = self.process.communicate(timeout=seconds)
        return self.process.returncode, errors


def a_free_port() -> int:
    """Return a port of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def torchrun(*options: str) -> list[str]:
    """Return the command, with the options, for two processes on this machine unless they say something else."""
    words = list(options) or ["--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    return [sys.executable, "-m", "torch.distributed.run", "--local-addr", "127.0.0.1", *words]


@contextmanager
def launched(folder: Path, arguments: Sequence[str], *, options: Sequence[str] = ()) -> Iterator[Launched]:
    """Start `python -m ARGUMENTS` by torchrun in a folder; whatever is left at the end is killed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment["PYTHONFAULTHANDLER"] = "1"  # a process that torch aborts says where its threads were
    process = subprocess.Popen(
        [*torchrun(*options), "-m", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    one = Launched(process)
    try:
        yield one
    finally:
        for pid in one.pids.values():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def trained(folder: Path, *overrides: str, config: str = CONFIG, ranks: int = 2, resume: str = "") -> Path:
    """Train what the config says, the trouble aside, and return the run's directory."""
    folder.mkdir(exist_ok=True)
    file = folder / "config.yaml"
    file.write_text(config, "utf-8")
    before = set((folder / "runs").iterdir()) if (folder / "runs").exists() else set()
    words = ["frameworm", "train", "--config", str(file), *(word for text in overrides for word in ("--set", text))]
    options = ["--nproc-per-node", str(ranks), "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    words += ["--resume", resume] if resume else []
    with launched(folder, words, options=options) as one:
        code, errors = one.end()
    assert code == 0, errors
    found = set((folder / "runs").iterdir()) - before
    return found.pop() if found else max((folder / "runs").iterdir(), key=lambda path: path.stat().st_mtime)
