"""How much memory grows: under a flood of events whose listener does not get on, and in a very long training.

Each measurement is a process of its own, which tells the most memory that it ever had (its resident pages) against
what it had when the queue had just become full, or a thousand steps were done.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

from benchmarks.paired import Estimate, estimate

EVENTS = 1_000_000
POLICIES = ("drop_oldest", "drop_newest", "latest")

FLOOD = """
import sys, threading
from benchmarks.memory import kilobytes
from bus import EventBus
from frameworm.events import BatchEnd

def flood(channel, events):
    trainer = object()
    for batch_idx in range(events):
        channel.emit(BatchEnd(trainer, batch_idx, 0.5))

stuck = threading.Event()
bus = EventBus()
bus.subscribe(BatchEnd, lambda event: stuck.wait(), dispatch="async", overflow=sys.argv[1], timeout=None)
channel = bus.channel(BatchEnd)
flood(channel, 10_000)
before = kilobytes("VmRSS")
flood(channel, int(sys.argv[2]))
print(kilobytes("VmHWM") - before)
bus.close()
stuck.set()
"""


TRAINING = """
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
import torch
from benchmarks.memory import kilobytes
from benchmarks.stepping import Classifier, some_batches
from bus import EventBus
from frameworm.config import TrainerConfig
from frameworm.delivery.journal import Journal
from frameworm.events import BatchEnd, EpochEnd, OptimizerStepped
from frameworm.training.trainer import Trainer

steps = int(sys.argv[1])
torch.set_num_threads(1)
batches = some_batches() * 25  # a thousand steps an epoch
bus = EventBus()
losses = [0.0]
bus.subscribe(BatchEnd, lambda event: losses.__setitem__(0, float(event.loss)))
bus.subscribe(OptimizerStepped, lambda event: None, dispatch="async")
before = []
bus.subscribe(EpochEnd, lambda event: before.append(kilobytes("VmRSS")) if not before else None)
with TemporaryDirectory() as folder, Journal(Path(folder), run="benchmark", log_every=10) as journal:
    trainer = Trainer(Classifier(), batches, options=TrainerConfig(epochs=steps // 1000, device="cpu"), bus=bus)
    journal.position = trainer.position
    journal.attach(bus)
    trainer.fit()
assert trainer.step == steps
print(kilobytes("VmHWM") - before[0])
bus.close()
"""
STEPS = 100_000


def kilobytes(name: str) -> int:
    """Return a line of this process's status: VmRSS, the memory it has now, or VmHWM, the most it ever had."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().partition(name + ":")[2].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10  # macOS: the peak, in bytes


def training(*, steps: int = STEPS) -> Estimate:
    """Measure by how many MB a hundred thousand steps with three listeners make a process grow, from step 1000 on.

    A hook, an asynchronous listener, and the journal.
    """
    return estimate([_printed(TRAINING, str(steps)) * 1024 / 1e6])


def growth(*, events: int = EVENTS) -> Estimate:
    """Measure by how many MiB a million events into a full queue make a process grow, with the worst policy."""
    return estimate([max(_printed(FLOOD, policy, str(events)) for policy in POLICIES) / 1024])


def _printed(code: str, *arguments: str) -> int:
    """Run code in a process of its own, and return the number that it prints."""
    return int(
        subprocess.run([sys.executable, "-c", code, *arguments], check=True, text=True, stdout=subprocess.PIPE).stdout
    )
