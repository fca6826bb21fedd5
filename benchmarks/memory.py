"""How much memory a flood of events takes whose listener does not get on: its queue is full, and gets no longer.

Each measurement is a process of its own, which tells the most memory that it ever had (its resident pages) against
what it had when the queue had just become full.
"""

from __future__ import annotations

import subprocess
import sys

from benchmarks.paired import Estimate, estimate

EVENTS = 1_000_000
POLICIES = ("drop_oldest", "drop_newest", "latest")

FLOOD = """
import resource, sys, threading
from pathlib import Path
from bus import EventBus
from frameworm.events import BatchEnd

def kilobytes(name):
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().partition(name + ":")[2].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10  # macOS: the peak, in bytes

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


def growth(*, events: int = EVENTS) -> Estimate:
    """Measure by how many MiB a million events into a full queue make a process grow, with the worst policy."""
    return estimate([max(_kilobytes(policy, events) for policy in POLICIES) / 1024])


def _kilobytes(policy: str, events: int) -> int:
    command = [sys.executable, "-c", FLOOD, policy, str(events)]
    return int(subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout)
