"""Checkpoints that another process writes: the same bytes, told of when they are durable, and never half of one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bus import Event
from frameworm.errors import CheckpointError
from frameworm.events import CheckpointSave, CheckpointSaved, OptimizerStepped, TrainEnd
from frameworm.training import checkpoint, writer
from frameworm.training.checkpoint import load, manifest_of, packed
from frameworm.training.manifest import list_checkpoints, verify
from frameworm.training.store import CheckpointStore, wait_for_writer
from frameworm.training.writer import Writer
from tests.frameworm.training.toys import a_trainer, same, some_batches, weights


def a_store(folder: Path, **options: Any) -> CheckpointStore:
    """Return a store whose checkpoints are written by another process."""
    return CheckpointStore(folder, monitor=None, background=True, **options)


def saving_each(step: int, by: str = "") -> Callable[[OptimizerStepped], None]:
    """Return a hook that has so-many-th steps saved."""

    def stepped(event: OptimizerStepped) -> None:
        if event.source.step % step == 0:
            event.source.save_now(f"step {event.source.step}", by=by)

    return stepped


def test_the_files_are_the_same(tmp_path: Path) -> None:
    """Byte for byte those that are written in the foreground, for every kind of weight and of state."""
    model = nn.Sequential(nn.Linear(3, 2, dtype=torch.bfloat16), nn.BatchNorm1d(2))
    model.register_buffer("transposed", torch.arange(6.0).view(2, 3).T)
    model.register_buffer("empty", torch.empty(0))
    same_tensor = torch.arange(5)
    state = {"a": [same_tensor, same_tensor], "b": (torch.tensor(True), {1: torch.randn(2, 2, dtype=torch.complex64)})}
    about: dict[str, Any] = {"run": "r", "model_name": "m", "epoch": 0, "step": 7, "metrics": {}, "reason": "test"}
    here = checkpoint.save(CheckpointStore(tmp_path / "here", monitor=None), model=model, state=state, **about)
    background = Writer(a_store(tmp_path / "there"))
    there = background.write(manifest_of(**about), packed(model, state)[0]).result()
    background.close()
    for file in packed(model, state)[0]:
        assert (here / file).read_bytes() == (there / file).read_bytes(), file
    loaded = load(there, model)
    assert loaded["a"][0] is loaded["a"][1]
    assert verify(there).files == verify(here).files


def test_a_run_is_told_when_they_are_durable(tmp_path: Path) -> None:
    """`checkpoint_saved` follows `checkpoint_save` when the checkpoint is complete, and the last before the end."""
    store = a_store(tmp_path, keep=99)
    trainer = a_trainer(train_data=some_batches(8), epochs=3, checkpoints=store)
    trainer.bus.subscribe(OptimizerStepped, saving_each(5))
    told: list[tuple[str, str]] = []

    def note(event: CheckpointSave | CheckpointSaved) -> None:
        told.append((event.name, event.path))
        if isinstance(event, CheckpointSaved):
            verify(Path(event.path))

    trainer.bus.subscribe(CheckpointSave, note, on_error="raise")
    trainer.bus.subscribe(CheckpointSaved, note, on_error="raise")
    trainer.bus.subscribe(TrainEnd, lambda event: told.append((event.name, "")))
    trainer.fit()
    paths = [str(tmp_path / f"step-{step:08d}") for step in (5, 10, 15, 20, 24)]
    assert told == [
        *((name, path) for path in paths for name in ("checkpoint_save", "checkpoint_saved")),
        ("train_end", ""),
    ]
    assert [str(found.path) for found in store.list()] == paths


def test_what_is_saved_is_the_moment_of_the_copy(tmp_path: Path) -> None:
    """Training that goes on meanwhile changes nothing in it: a run that is resumed from each ends the same."""
    store = a_store(tmp_path, keep=99)
    whole = a_trainer(train_data=some_batches(8), epochs=2, checkpoints=store)
    whole.bus.subscribe(OptimizerStepped, saving_each(3))
    whole.fit()
    for found in store.list():
        again = a_trainer(train_data=some_batches(8), epochs=2)
        again.resume(found.path)
        again.fit()
        assert same(weights(again.model), weights(whole.model)), found.path


def test_a_disk_that_does_not_take_it_fails_the_run(tmp_path: Path) -> None:
    """With the disk's words, at the next moment between two steps; what was saved before stays, and is told of."""
    store = a_store(tmp_path / "checkpoints")
    trainer = a_trainer(train_data=some_batches(8), checkpoints=store)
    trainer.bus.subscribe(OptimizerStepped, saving_each(1))
    saved: list[str] = []

    def note(event: CheckpointSaved) -> None:
        saved.append(event.path)
        for folder in (4, 5):  # in the way of the next ones
            (store.root / f".tmp-step-{folder:08d}").write_text("")

    trainer.bus.subscribe(CheckpointSaved, note)
    with pytest.raises(CheckpointError, match="could not be written"):
        trainer.fit()
    assert [str(found.path) for found in store.list()] == saved[-2:]


def test_a_writer_that_is_gone_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Killed between two checkpoints, for want of memory say: that one is written here, the next by another."""
    store = a_store(tmp_path, keep=99)
    trainer = a_trainer(train_data=some_batches(9), checkpoints=store)
    trainer.bus.subscribe(OptimizerStepped, saving_each(3))
    pids: list[int] = []

    def kill(event: Event) -> None:
        if event.source.step == 4:
            trainer._saving.settle()
            background = trainer._saving._writer
            assert background is not None
            assert background.process is not None
            pids.append(background.process.pid)
            os.kill(pids[-1], signal.SIGKILL)
            background.process.wait()

    trainer.bus.subscribe(OptimizerStepped, kill, on_error="raise")
    trainer.fit()
    assert len(pids) == 1
    assert "it is written here" in caplog.text
    assert [found.manifest.step for found in store.list()] == [3, 6, 9]
    for found in store.list():
        verify(found.path)


ORPHAN = """
import os, signal, sys, time
from pathlib import Path
from torch import nn
from frameworm.training.checkpoint import manifest_of, packed
from frameworm.training.store import CheckpointStore
from frameworm.training.writer import Writer

store = CheckpointStore(Path(sys.argv[1]), monitor=None, background=True)
writer = Writer(store)
for step in (1, 2):
    about = dict(run="r", model_name="m", epoch=0, step=step, metrics={}, reason="test")
    writing = writer.write(manifest_of(**about), packed(nn.Linear(2000, 2000), {})[0])
    if step == 1:
        writing.result()
while not list(store.root.glob(".tmp-*")) and len(store.list()) < 2:
    pass
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_writer_finishes_what_it_has_begun(tmp_path: Path) -> None:
    """The training is killed while a checkpoint is being written: whoever waits for the writer finds it complete."""
    done = subprocess.run([sys.executable, "-c", ORPHAN, str(tmp_path)], check=False, timeout=50)
    assert done.returncode == -signal.SIGKILL
    wait_for_writer(tmp_path)
    assert [found.manifest.step for found in list_checkpoints(tmp_path)] == [1, 2]
    for found in list_checkpoints(tmp_path):
        verify(found.path)


def test_it_ends_though_a_worker_of_the_training_lives_on(tmp_path: Path) -> None:
    """One that was forked, and does not notice that the training was killed, holds on to the pipe."""
    forked = ORPHAN.replace("os.kill(os.getpid()", "if os.fork() == 0:\n    time.sleep(60)\nos.kill(os.getpid()")
    with subprocess.Popen([sys.executable, "-c", forked, str(tmp_path)], start_new_session=True) as process:
        assert process.wait(50) == -signal.SIGKILL
        try:
            begin = time.monotonic()
            wait_for_writer(tmp_path)
            assert time.monotonic() - begin < 30
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    assert [found.manifest.step for found in list_checkpoints(tmp_path)] == [1, 2]


def test_the_process_ends_with_the_run(tmp_path: Path) -> None:
    """It is there while the run is, and not longer."""
    trainer = a_trainer(train_data=some_batches(4), checkpoints=a_store(tmp_path))
    trainer.bus.subscribe(OptimizerStepped, saving_each(1))
    processes: list[subprocess.Popen[bytes]] = []

    def look(_event: CheckpointSaved) -> None:
        background = trainer._saving._writer
        if background is not None and background.process is not None:
            processes.append(background.process)

    trainer.bus.subscribe(CheckpointSaved, look)
    trainer.fit()
    [process] = set(processes)
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.returncode == 0


@pytest.mark.parametrize("urgent", ["from the beginning", "in a rest", "never", "the training is gone"])
def test_it_rests_while_nobody_waits(monkeypatch: pytest.MonkeyPatch, urgent: str) -> None:
    """Between two pieces, several times as long as one took; not when somebody waits, nor when nobody can any more."""
    monkeypatch.setattr(writer, "_PIECE", 2)
    memory = bytearray(64 + 5)
    now, naps = [0.0], list[float]()

    def nap(seconds: float) -> None:
        now[0] += seconds
        naps.append(seconds)
        if urgent == "in a rest" and len(naps) == 3:
            memory[0] = 1

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(time, "sleep", nap)
    memory[0] = urgent == "from the beginning"
    training = os.getppid() + (urgent == "the training is gone")
    pieces = []
    for piece in writer.paced(memoryview(memory), 64, 69, training):
        now[0] += 0.1  # for writing it
        pieces.append(len(piece))
    assert pieces == [2, 2, 1]
    rested = {"from the beginning": 0, "in a rest": 3, "never": 24, "the training is gone": 0}[urgent]
    assert len(naps) == pytest.approx(rested, abs=1 if urgent == "never" else 0)


def test_the_process_needs_no_torch() -> None:
    """It starts at once, and is small."""
    code = f"import sys, {writer.__name__}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
