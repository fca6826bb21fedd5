"""What the fault tests share: how long they may be, listeners that fail, and looking at what arrived."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from bus.log import LogReader, Record
from frameworm.delivery.journal import journal_path
from frameworm.delivery.listener import ProcessListener
from tests.frameworm.delivery.listeners import Batches, ToFile
from tests.frameworm.delivery.recorded import Process, start, until

__all__ = [
    "FULL",
    "LONG",
    "Burning",
    "Pedantic",
    "Process",
    "described",
    "records",
    "repeated",
    "start",
    "ticking",
    "times",
    "until",
]

FULL = os.environ.get("FRAMEWORM_FAULTS") == "full"
"""Whether there is time: `make faults` says so."""

LONG = pytest.mark.timeout(900 if FULL else 180)
"""For tests with a server whose start takes what it takes, or with many rounds."""


def times(reduced: int, full: int) -> int:
    """Return how many rounds there is time for."""
    return full if FULL else reduced


def described(name: str, kind: type, **options: Any) -> ProcessListener:
    """Describe a listener of this module; paths in its options become text."""
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in options.items()}
    return ProcessListener(name, f"{kind.__module__}:{kind.__qualname__}", plain)


class Burning(ToFile):
    """Calculates for ever, in Python, at the batch `at`."""

    def __init__(self, path: Path, at: int) -> None:
        super().__init__(path)
        self.at = at

    def on_batch_end(self, trainer: Any, batch_idx: int, loss: float) -> None:
        """Note it, unless it is the one."""
        while batch_idx == self.at:
            pass
        super().on_batch_end(trainer, batch_idx, loss)


class Pedantic(Batches):
    """Takes batches, and does not come back from one that has the batch `at`."""

    def __init__(self, path: Path, at: int) -> None:
        super().__init__(path)
        self.at = at

    def deliver(self, events: list[Any]) -> None:
        """Take the whole process along, unless all are good."""
        if self.at in {getattr(event, "batch_idx", None) for event in events}:
            os._exit(9)
        super().deliver(events)


def records(run_dir: Path) -> list[Record]:
    """Return what can be read of a run's journal."""
    with contextlib.closing(LogReader(journal_path(run_dir))) as reader:
        return list(reader)


def repeated(lines: Sequence[dict[str, Any]]) -> list[int]:
    """Return how many records each process that wrote the lines has delivered again, one after the other."""
    delivered, again = set[int](), dict[int, int]()
    for line in lines:
        again.setdefault(line["pid"], 0)
        again[line["pid"]] += line["seq"] in delivered
        delivered.add(line["seq"])
    return list(again.values())


@contextlib.contextmanager
def ticking(write: Callable[..., None], seconds: float) -> Iterator[list[float]]:
    """Record a batch every so many seconds, on a thread; give how long each took."""
    took: list[float] = []
    end = threading.Event()

    def tick() -> None:
        while not end.wait(seconds):
            begin = time.perf_counter()
            write("batch_end", batch_idx=len(took), loss=0.5)
            took.append(time.perf_counter() - begin)

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        yield took
    finally:
        end.set()
        thread.join()
