"""Kills a training again and again, at random moments, and resumes it.

    python -m tests.faults.cuts WORKERS KILLS SEED

Works in the current folder. Each attempt is forked from this process, which has imported everything once. What is
trained has all that makes a resume hard: an order, dropout, augmentation in the workers, windows, an average, a
schedule, and a checkpoint every third step that another process writes.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from frameworm import app, config
from frameworm.runs import find
from frameworm.training.checkpoint import WEIGHTS, load
from frameworm.training.manifest import list_checkpoints, verify
from frameworm.training.store import wait_for_writer

CONFIG = """
run: {name: cut}
model: {name: "tests.faults.cuts:Net"}
data: {name: "tests.faults.cuts:Augmented", batch_size: 4, num_workers: WORKERS}
optimizer: {name: adamw, lr: 0.01}
scheduler: {name: cosine}
trainer: {epochs: 3, device: cpu, accumulate: 3, ema: 0.9, clip_norm: 1.0}
checkpoint: {every_steps: 3}
"""
_LONGEST = 1.2  # seconds until an attempt is killed


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """Numbers with noise from every global generator."""

    def __len__(self) -> int:
        return 90

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        time.sleep(0.002)
        noise = torch.tensor([random.random(), np.random.rand(), torch.rand(()).item()])  # noqa: NPY002
        return index / 90 + 0.1 * noise, torch.tensor([index / 90])


class Net(nn.Module):
    """A small network with dropout."""

    def __init__(self, _config: object) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 16), nn.Dropout(0.3), nn.ReLU(), nn.Linear(16, 1))

    def compute_loss(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Return the mean squared error."""
        return {"loss": nn.functional.mse_loss(self.layers(x), y)}


def started(train: Callable[[], object]) -> int:
    """Return the number of a process that trains, and ends with 0 when it has."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    output = os.open("output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    try:
        train()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def trained(folder: str, workers: int) -> None:
    """Train, or go on with what was trained."""
    checked = config.parse(CONFIG.replace("WORKERS", str(workers)), overrides=[f"run.dir={folder}"])
    resume = "latest" if Path(folder).exists() and any(Path(folder).iterdir()) else None
    with app.session(checked, resume=resume) as trainer:
        trainer.fit()


def weights(folder: str) -> str:
    """Return the hash of the last weights."""
    return list_checkpoints(find(Path(folder), "latest").checkpoints)[-1].manifest.files[WEIGHTS].sha256


def newest_is_sound(folder: str) -> bool:
    """Load what a resume would go on with, if anything was saved so far."""
    if not Path(folder).exists() or not any(Path(folder).iterdir()):
        return False
    root = find(Path(folder), "latest").checkpoints
    wait_for_writer(root)
    found = list_checkpoints(root)
    for checkpoint in found:
        verify(checkpoint.path)
    assert sorted(root.glob("step-*")) == sorted(path for path, _ in found)
    if found:
        load(found[-1].path, Net(None))
    return bool(found)


def main() -> None:
    """Cut runs until there were so many kills; say how many there were, with how many runs, and what was found."""
    workers, kills, seed = map(int, sys.argv[1:])
    torch.set_num_threads(1)
    moments = random.Random(seed)
    trained("whole", workers)  # in this process: then all is imported for those that are forked from it
    expected = weights("whole")
    killed = runs = sound = 0
    while killed < kills:
        folder = f"cut-{runs}"
        while True:
            pid = started(lambda: trained(folder, workers))  # noqa: B023  it is called at once
            time.sleep(moments.uniform(0, _LONGEST))
            os.kill(pid, signal.SIGKILL)
            status = os.waitpid(pid, 0)[1]
            if status == 0:
                break
            assert os.WTERMSIG(status) == signal.SIGKILL, Path("output").read_text()
            killed += 1
            sound += newest_is_sound(folder)
        runs += 1
        assert weights(folder) == expected, f"{folder} ended with other weights"
    print(f"{killed} kills, {sound} of them behind a checkpoint, {runs} runs ended as the whole one")


if __name__ == "__main__":
    main()
