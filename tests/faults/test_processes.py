"""Signals, forks and a full disk, in real processes that train or record; each one accounts for every event."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from frameworm.delivery.journal import journal_path
from frameworm.delivery.relay import Outcome
from frameworm.training.store import CheckpointStore
from tests.faults.support import FULL, LONG, Process, records, start, times
from tests.frameworm.delivery.listeners import lines
from tests.frameworm.delivery.recorded import environment, listener, new_run, plan, record, relay

# Fault 8: SIGTERM with a full queue

SLOW = """
import json, os, sys, time
from pathlib import Path
from frameworm.training.store import CheckpointStore
from tests.bus.events import account, balanced
from tests.frameworm.training.toys import Scripted, a_trainer

def compute(model, batch):
    if not full and account(trainer.bus, "slow").pending == 64:
        full.append(os.write(1, b"full\\n"))
    return {"loss": model.weight ** 2}

full = []
store = CheckpointStore(Path(sys.argv[1]), monitor=None)
trainer = a_trainer(Scripted(compute), [1] * 4, epochs=10**9, checkpoints=store)
trainer.bus.subscribe(
    "batch_end", lambda event: time.sleep(float(sys.argv[2])), dispatch="async", queue_size=64, name="slow"
)
trainer.bus.subscribe("train_end", lambda event: os.write(1, b"draining\\n"))
try:
    trainer.fit()
finally:
    row = account(trainer.bus, "slow")
    print(json.dumps([balanced(row), row.delivered, row.pending, trainer.step]), flush=True)
"""


def training_with_a_full_queue(folder: Path, seconds: float, grace: int) -> Process:
    """Start it, with so long a call for each event, and so much time after a SIGTERM; wait for a full queue."""
    process = start("-c", SLOW, str(folder), str(seconds), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"full\n"
    assert grace == int(os.environ["FRAMEWORM_GRACE"])
    return process


@pytest.mark.parametrize(("seconds", "grace"), [(0.3, 1), *([(0.01, 30)] if FULL else [])])
def test_sigterm_with_a_full_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, grace: int) -> None:
    """Fault 8: the step is done and saved, what time allows is delivered, the rest is accounted for; it says 143."""
    monkeypatch.setenv("FRAMEWORM_GRACE", str(grace))
    with training_with_a_full_queue(tmp_path, seconds, grace) as process:
        process.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        output, errors = process.communicate(timeout=40)
    draining, account = output.splitlines()
    balance, delivered, pending, step = json.loads(account)
    assert (process.returncode, draining, balance) == (143, b"draining", True), errors
    assert bool(pending) is (grace == 1)
    assert delivered > 0
    assert time.monotonic() - begin < (10 if pending else 30)
    (saved,) = CheckpointStore(tmp_path, monitor=None).list()
    assert (saved.manifest.step, saved.manifest.reason) == (step, "SIGTERM")


def test_a_second_sigterm_while_listeners_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault 8: nobody waits for the rest of a long drain then; the checkpoint is there already."""
    monkeypatch.setenv("FRAMEWORM_GRACE", "60")
    with training_with_a_full_queue(tmp_path, 1.0, 60) as process:
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        assert process.stdout.readline() == b"draining\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)  # it does wait for them
        begin = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code = process.wait(20)
        assert time.monotonic() - begin < 2
    assert code in (143, -signal.SIGTERM)
    assert len(CheckpointStore(tmp_path, monitor=None).list()) == 1


# Fault 12: a full disk

FILLING = """
import json, resource, sys
from pathlib import Path
from bus import EventBus
from frameworm.delivery.journal import Journal
from frameworm.events import BatchEnd, TrainBegin, TrainEnd
from tests.bus.events import account, balanced

class At:
    epoch, step = 0, 0
    def position(self):
        return self.epoch, self.step
    def detached(self, event):
        return self.step

def heard(event):
    got.append(event.batch_idx)

at, got, run = At(), [], Path(sys.argv[1])
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
with EventBus() as bus, Journal(run, run="r1", position=at.position, log_every=1) as journal:
    journal.attach(bus)
    bus.subscribe(BatchEnd, heard, dispatch="async", queue_size=10_000, name="heard")
    bus.publish(TrainBegin(at, 1))
    for index in range(int(sys.argv[2])):
        if index % 100 == 30:
            room = (run / "events.jsonl").stat().st_size + 1000
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        if index % 100 == 60:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        at.step += 1
        bus.publish(BatchEnd(at, index, 0.5))
    bus.publish(TrainEnd(at, "finished", None, None))
    drained = bus.drain(20)
    row = account(bus, "heard")
    print(json.dumps([drained, balanced(row), got, row.delivered, journal.statistics().lost]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's way to fill a disk")
@LONG
def test_a_disk_that_is_full_for_a_while(tmp_path: Path) -> None:
    """Fault 12: what is recorded is delivered, what is lost stands in exact gaps, and other listeners do not notice."""
    run, heard, count = new_run(tmp_path), tmp_path / "heard", times(300, 3000)
    plan(run, listener("a", "ToFile", path=heard))
    with start("-c", FILLING, str(run), str(count), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as writer:
        output, errors = writer.communicate(timeout=60)
        assert writer.returncode == 0, errors
    with relay(run) as process:
        _, trouble = process.communicate(timeout=60)
    assert process.returncode == Outcome.DELIVERED, trouble
    drained, balance, got, delivered, lost = json.loads(output)
    assert (drained, balance, got, delivered) == (True, True, list(range(count)), count)
    assert errors.count(b"No space") + errors.count(b"too large") <= 2  # once a minute at most
    read = records(run)
    gaps = [(entry["first"], entry["last"]) for entry in read if entry["event"] == "journal_gap"]
    missing = {seq for first, last in gaps for seq in range(first, last + 1)}
    assert (len(gaps), len(missing)) == (count // 100, lost)
    assert missing.isdisjoint(entry["seq"] for entry in read)
    assert sorted(missing | {entry["seq"] for entry in read}) == list(range(1, read[-1]["seq"] + 1))
    wanted = [entry["seq"] for entry in read if entry["event"] in ("batch_end", "train_end")]
    assert [line["seq"] for line in lines(heard)] == wanted


ON_A_FULL_DISK = """
import resource, sys
from frameworm.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
main(["relay", sys.argv[1]])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's way to fill a disk")
def test_a_relay_on_a_full_disk(tmp_path: Path) -> None:
    """Fault 12: it cannot note what it has delivered, says so, and the next one repeats it: nothing is missing."""
    run, heard = new_run(tmp_path), []
    record(run, 20)
    plan(run, listener("a", "Nothing"))
    for begin in (["-c", ON_A_FULL_DISK], ["-m", "frameworm", "relay"]):
        with start(*begin, str(run), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            output, errors = process.communicate(timeout=30)
        assert process.returncode == Outcome.DELIVERED, errors
        heard.append(output.decode().splitlines()[-1].split())
    assert heard[0][:5] == ["a", "ok", "20", "0", "22"]
    assert " ".join(heard[0][5:]).startswith("its state cannot be kept: OSError")
    assert heard[1][:5] == ["a", "ok", "20", "0", "0"]


# Fault 13: forks

FORKING = """
import gc, json, sys, threading, time
from pathlib import Path
import torch
from torch.utils.data import DataLoader, Dataset
from frameworm.delivery.journal import Journal
from tests.bus.events import account, balanced
from tests.frameworm.training.toys import a_perceptron, a_trainer

class Data(Dataset):
    def __len__(self):
        return 16
    def __getitem__(self, index):
        if index % 4 == 0:
            gc.collect()  # of all that torch has, which takes half a second
        trainer.log({"inside": index})  # published, in a worker, on the bus that it has inherited
        trainer.bus.statistics()
        return torch.randn(6), index % 3

def coroutine_or_thread(name):
    def note(event):
        heard[name] += 1
    async def anote(event):
        note(event)
    return anote if name == "coroutine" else note

heard = {"coroutine": 0, "thread": 0, "told": 0}
loader = DataLoader(Data(), batch_size=4, num_workers=2, multiprocessing_context="fork")
trainer = a_trainer(a_perceptron(), loader, epochs=int(sys.argv[2]))
with Journal(Path(sys.argv[1]), run="r1", position=trainer.position, log_every=1) as journal:
    journal.attach(trainer.bus)
    for name in ("coroutine", "thread"):
        trainer.bus.subscribe("batch_end", coroutine_or_thread(name), dispatch="async", name=name)
    trainer.bus.subscribe("metrics_logged", coroutine_or_thread("told"), dispatch="async", name="told")
    busy = threading.Event()
    def look():  # holds the bus's locks at whatever moment it forks
        while not busy.is_set():
            trainer.bus.statistics()
            trainer.bus.subscribe("epoch_end", lambda event: None).cancel()
            time.sleep(0.0005)
    threading.Thread(target=look).start()
    try:
        trainer.fit()
    finally:
        busy.set()
    print(json.dumps([heard, [balanced(row) for row in trainer.bus.statistics()]]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
@LONG
def test_forked_workers_collect_and_publish(tmp_path: Path) -> None:
    """Fault 13: nothing of what they do is heard or recorded, nothing hangs, and the parent's is complete."""
    epochs = times(2, 20)
    process: Any = subprocess.run(
        [sys.executable, "-c", FORKING, str(tmp_path), str(epochs)],
        env=environment(),
        capture_output=True,
        check=False,
        timeout=times(50, 800),
    )
    assert process.returncode == 0, process.stderr
    heard, balances = json.loads(process.stdout)
    assert heard == {"coroutine": 4 * epochs, "thread": 4 * epochs, "told": 0}
    assert all(balances)
    assert process.stderr == b""
    read = records(tmp_path)
    assert [entry["seq"] for entry in read] == list(range(1, len(read) + 1))
    assert sum(entry["event"] == "batch_end" for entry in read) == 4 * epochs
    assert all(entry["event"] != "metrics_logged" for entry in read)
    assert journal_path(tmp_path).exists()
