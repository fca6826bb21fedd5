"""Recorded runs for tests, written without training."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bus.log import LogWriter, Record
from frameworm.delivery.journal import journal_path
from frameworm.delivery.listener import ProcessListener, RelayOptions, RelayPlan, relay_folder, write_plan
from frameworm.delivery.retry import RetryPolicy
from frameworm.plugins.selection import Selection
from frameworm.runs import RunDirectory
from tests.frameworm.delivery import listeners as listeners_module

QUICK = RelayOptions(poll=0.02, gather=0.05, retry=RetryPolicy(first=0.02, longest=0.1))
NO_PLUGINS = Selection(others=False)
WHERE = "tests.frameworm.delivery.listeners"

TRAINING = """
import sys, time
from pathlib import Path
from tests.frameworm.delivery.recorded import writing
with writing(Path(sys.argv[1])) as write:
    write("train_begin", epochs=1)
    for index in range(int(sys.argv[2])):
        write("batch_end", batch_idx=index, loss=0.5)
        time.sleep(float(sys.argv[3]))
    write("train_end", status="finished", reason=None, error=None)
"""
"""A process that is trained in: its run's directory, how many batches, how long each takes."""


def new_run(root: Path) -> Path:
    """Make a run, and return its directory."""
    return RunDirectory.create(root / "runs", "digits").path


@contextlib.contextmanager
def writing(run_dir: Path, attempt: int = 1, v: int = 1) -> Iterator[Callable[..., None]]:
    """Be the writer of a run; give what records an event with its fields."""
    with LogWriter(journal_path(run_dir), gap=lambda first, last: {"event": "journal_gap"}) as log:
        step = log.last["step"] if log.last else 0

        def write(event: str, epoch: int = 0, **fields: Any) -> None:
            nonlocal step
            step += event == "batch_end"
            time = datetime.now(UTC)
            head: Record = {"v": v, "seq": 0, "attempt": attempt, "time": time, "run": "r1", "rank": 0, "event": event}
            log.append({**head, "epoch": epoch, "step": step, **fields})

        yield write


def record(run_dir: Path, batches: int, *, end: str | None = "finished", attempt: int = 1) -> None:
    """Record an attempt with so many batches; without an `end` it has crashed."""
    with writing(run_dir, attempt) as write:
        write("train_begin", epochs=1)
        for index in range(batches):
            write("batch_end", batch_idx=index, loss=0.5)
        if end is not None:
            write("train_end", status=end, reason=None, error=None)


def listener(name: str, kind: str, **options: Any) -> ProcessListener:
    """Describe a listener of the module `listeners`; paths in its options become text."""
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in options.items()}
    return ProcessListener(name, f"{WHERE}:{kind}", plain)


def plan(run_dir: Path, *listeners: ProcessListener, options: RelayOptions = QUICK) -> None:
    """Write what the relay is to do."""
    write_plan(run_dir, RelayPlan(tuple(listeners), NO_PLUGINS, None, options))


def environment() -> Mapping[str, str]:
    """Return that of a process which can import these modules."""
    file = listeners_module.__file__
    assert file is not None
    return {**os.environ, "PYTHONPATH": str(Path(file).parents[3])}


class Process(subprocess.Popen[bytes]):
    """A process that does not outlive its `with`."""

    def __exit__(self, *error: object) -> None:
        """Kill it, unless it has ended."""
        if self.poll() is None:
            self.kill()
        super().__exit__(*error)  # type: ignore[arg-type]  # as it came


def start(*arguments: str, **options: Any) -> Process:
    """Start Python with the arguments."""
    return Process([sys.executable, *arguments], env=environment(), **options)


def relay(run_dir: Path, *more: str) -> Process:
    """Start a relay by hand."""
    return start("-m", "frameworm", "relay", str(run_dir), *more, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process, and wait until it is gone."""
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=10)


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it has not happened in time"
        time.sleep(0.01)


def dead_letters(run_dir: Path, name: str) -> Sequence[dict[str, Any]]:
    """Return the dead letters of a listener."""
    return listeners_module.lines(relay_folder(run_dir) / f"{name}.dead.jsonl")
