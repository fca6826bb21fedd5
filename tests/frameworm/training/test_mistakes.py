"""Mistakes of other trainers that must not be made here; each has a test that fails when it is.

| mistake | its test |
|---|---|
| 1 an exception is swallowed because somebody attached a logging handler | here |
| 2 one failing error hook starves the rest | here |
| 3 end hooks do not fire after a crash | `test_endings.py` (one ending) |
| 4 the old checkpoint is deleted before the new one is safe | `test_store.py` (a kill at any moment) |
| 5 all ranks rename one directory, or write one state of the data | `distributed/test_worlds.py` (exact resume) |
| 6 generators are restored before the skip, or a failed restore is a remark | `test_resume.py`, `test_seeding.py` |
| 7 resume picks the newest directory, complete or not | here |
| 8 an agreement on SIGTERM is asked for in each step | `distributed/test_worlds.py` (nothing in a step) |
| 9 a NaN is replaced by a mean in the log while the step goes ahead | `test_nonfinite.py` (the log shows it) |
| 10 lists of durations grow for ever | here; the guard's 100 000 steps |
| 11 signal handlers are installed at import | here |
| 12 the state of listeners is keyed by their class | `test_saving.py`, `test_early_stopping.py` (two instances) |
| 13 a batch index is saved and never used | `test_resume.py` (stopped within an epoch) |
| 14 a misspelt event is silently no event | `tests/bus/test_bus.py`, `tests/frameworm/plugins/test_hooks.py` |
| 15 the batch is counted after its event, and a checkpoint taken there is off by one | here |
| 16 metrics crash the JSON writer | `tests/frameworm/delivery/test_journal.py` (numbers of any library) |
| 17 progress bars ruin log files | `tests/frameworm/cli/test_train.py` (a plain run) |

The numbers are those of the design.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from frameworm.events import BatchEnd, OptimizerStepped, TrainEnd, TrainFailed, TrainingEvent
from frameworm.training.manifest import find_checkpoint
from frameworm.training.store import CheckpointStore
from tests.frameworm.training.toys import a_trainer, some_batches


def test_a_logging_handler_swallows_nothing() -> None:
    """1: what ends the run is raised, whoever listens to the log, and though a handler fails itself."""

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError(record.getMessage())

    log, handler = logging.getLogger("frameworm"), Broken()
    trainer = a_trainer()
    trainer.bus.subscribe(BatchEnd, lambda _event: 1 / 0, on_error="raise")
    log.addHandler(handler)
    try:
        with pytest.raises(ZeroDivisionError):
            trainer.fit()
    finally:
        log.removeHandler(handler)
    assert trainer.status == "failed"


def test_a_failing_error_hook_starves_nobody() -> None:
    """2: the others hear of the failure and of the end, and what failed first is what is raised."""
    heard: list[str] = []

    def fail(_event: TrainingEvent) -> None:
        raise LookupError("an error of the error hook")

    trainer = a_trainer()
    trainer.bus.subscribe(BatchEnd, lambda _event: 1 / 0, on_error="raise")
    for event in (TrainFailed, TrainEnd):
        trainer.bus.subscribe(event, fail, priority=1)
        trainer.bus.subscribe(event, lambda event: heard.append(event.name), priority=2)
    with pytest.raises(ZeroDivisionError):
        trainer.fit()
    assert heard == ["train_failed", "train_end"]


def test_what_is_newest_but_incomplete_is_not_resumed(tmp_path: Path) -> None:
    """7: neither a directory without its manifest, nor one that a writer has left behind."""
    store = CheckpointStore(tmp_path, monitor=None)
    a_trainer(train_data=some_batches(3), checkpoints=store).fit()
    (tmp_path / "step-00000099").mkdir()
    (tmp_path / "step-00000099" / "model.safetensors").write_bytes(b"half")
    (tmp_path / ".tmp-step-00000100").mkdir()
    assert find_checkpoint(tmp_path) == tmp_path / "step-00000003"
    trainer = a_trainer(train_data=some_batches(3), epochs=2)
    trainer.resume(tmp_path)
    assert trainer.step == 3


def test_what_is_timed_does_not_grow() -> None:
    """10: however many steps are timed, the counters are as many numbers as before."""
    trainer = a_trainer(train_data=some_batches(4), epochs=1)
    trainer.times.stride = 1
    trainer.fit()
    few = trainer.times.seconds.keys(), trainer.times.counts.keys(), len(vars(trainer.times))
    longer = a_trainer(train_data=some_batches(4), epochs=20)
    longer.times.stride = 1
    longer.fit()
    assert longer.times.counts["forward"] == 80
    assert (longer.times.seconds.keys(), longer.times.counts.keys(), len(vars(longer.times))) == few
    values = [*longer.times.seconds.values(), *longer.times.counts.values()]
    assert all(isinstance(value, int | float) for value in values)


def test_importing_installs_no_signal_handlers() -> None:
    """11: not even importing all that trains, in a process of its own."""
    code = (
        "import signal\n"
        "numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)\n"
        "before = [signal.getsignal(number) for number in numbers]\n"
        "import frameworm, frameworm.app, frameworm.cli.train, frameworm.verifying\n"
        "assert [signal.getsignal(number) for number in numbers] == before\n"
        "assert signal.set_wakeup_fd(-1) == -1\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("event", [BatchEnd, OptimizerStepped])
def test_what_is_saved_at_an_event_has_counted_it(tmp_path: Path, event: type[BatchEnd | OptimizerStepped]) -> None:
    """15: a checkpoint that a hook asks for at the third batch has three steps, and goes on with the fourth batch."""
    store = CheckpointStore(tmp_path, monitor=None)
    trainer = a_trainer(train_data=some_batches(5), checkpoints=store)
    seen: list[tuple[int, int]] = []

    def third(happened: BatchEnd | OptimizerStepped) -> None:
        if happened.source.step == 3:
            happened.source.stop()

    trainer.bus.subscribe(event, third)
    trainer.fit()
    latest = store.latest()
    assert latest is not None
    assert latest.manifest.step == 3
    again = a_trainer(train_data=some_batches(5))
    again.resume(tmp_path)
    again.bus.subscribe(BatchEnd, lambda event: seen.append((event.batch_idx, event.source.step)))
    again.fit()
    assert seen == [(3, 4), (4, 5)]
