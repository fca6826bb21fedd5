"""Whole runs by command, with listeners that do their worst in both lanes: they end well, and say which it was."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from bus.lock import Owner
from frameworm.cli import main
from frameworm.delivery.status import relay_of
from frameworm.runs import list_runs
from frameworm.testing import isolated_plugins
from tests.faults.support import FULL, LONG, records, start, until
from tests.frameworm.delivery.listeners import lines
from tests.frameworm.delivery.recorded import environment, kill, new_run, writing

CONFIG = """
data: {name: synthetic, samples: 64, inputs: 4, targets: 3, batch_size: 8}
model: {name: mlp, inputs: 4, outputs: 3, loss: mse}
trainer: {epochs: 2, device: cpu, log_every: 1, drain_timeout: 10}
run: {name: tiny}
"""

USERS = '''
"""Listeners that one would rather not have."""
import json
import os
import time

from frameworm.errors import PermanentError
from frameworm.plugins.hooks import CallbackHook, HookRegistry

KEPT = []


class Good(CallbackHook):
    def __init__(self, path):
        self.path = path

    def on_batch_end(self, trainer, batch_idx):
        with open(self.path, "a") as file:
            file.write(json.dumps({"step": trainer.step}) + "\\n")


class Hangs(CallbackHook):
    def on_batch_end(self, trainer, batch_idx):
        if trainer.step == 3:
            time.sleep(3600)


class Raises(CallbackHook):
    def on_batch_end(self, trainer, batch_idx):
        raise PermanentError("never")


class Prints(CallbackHook):
    def on_batch_end(self, trainer, batch_idx):
        if trainer.step == 4:
            for _ in range(3000):
                print("x" * 1000)


class Exits(CallbackHook):
    def on_batch_end(self, trainer, batch_idx):
        if trainer.step == 5:
            os._exit(3)


class Leaks(CallbackHook):
    def on_batch_end(self, trainer, batch_idx):
        if trainer.step == 6:
            KEPT.append(bytearray(os.urandom(1) * 700 * 1024**2))
            time.sleep(1)  # long enough to be noticed before all is done


class Slow(CallbackHook):
    def on_batch_end(self, trainer):
        time.sleep(0.02)


class NeedsBatch(CallbackHook):
    dispatch = "process"

    def on_batch_begin(self, trainer, batch_idx, batch): ...
'''

STEPS = list(range(1, 15))

CLOSURE = """
from frameworm.plugins.hooks import HookRegistry

def register():
    def inside(trainer, epoch): ...
    HookRegistry.on("on_epoch_end", dispatch="process")(inside)
"""

HOOK = """
from frameworm.plugins.hooks import HookRegistry

def register():
    HookRegistry.on("on_batch_begin", dispatch="process")(hook)

def hook(trainer, batch_idx, batch): ...
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a project with these listeners."""
    (tmp_path / "users.py").write_text(USERS, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    return tmp_path


def frameworm(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    command = ["-m", "frameworm", *words]
    with start(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        output, errors = process.communicate(timeout=120)
    return subprocess.CompletedProcess(command, process.returncode, output.decode(), errors.decode())


def write_plugin(folder: Path, code: str) -> None:
    """Write a plugin, called as its folder."""
    folder.mkdir(parents=True)
    manifest = {"name": folder.name, "version": "0.1.0", "author": "me", "description": "-"}
    manifest["entry_point"] = f"{folder.name}:register"
    (folder / "plugin.yaml").write_text(json.dumps(manifest), "utf-8")
    (folder / "__init__.py").write_text(code, "utf-8")


def configured(*callbacks: str, more: str = "") -> str:
    """Write the config with these callbacks; return its name."""
    listed = "\n".join(f"  - {callback}" for callback in callbacks)
    Path("config.yaml").write_text(f"{CONFIG}{more}\ncallbacks:\n{listed or '  []'}\n", "utf-8")
    return "config.yaml"


@LONG
def test_bad_listeners_in_both_lanes(project: Path) -> None:
    """Faults 1 to 3 and 15: the run finishes, good listeners get everything, and each bad one is named."""
    lanes = ("{dispatch: process, timeout: 1}", "{dispatch: async, timeout: 1}")
    bad = [f'"users:{kind}": {lane}' for kind in ("Hangs", "Raises", "Prints") for lane in lanes]
    good = [f'"users:Good": {{path: {lane}, dispatch: {lane}}}' for lane in ("process", "async", "sync")]
    done = frameworm("train", "--config", configured(*bad, *good))
    assert done.returncode == 0, done.stderr
    for lane in ("process", "async", "sync"):
        assert [line["step"] for line in lines(project / lane)] == STEPS
    [run] = list_runs(Path("runs"))
    assert run.status == "finished"
    assert re.search(r"^users:Hangs has \d+ records before it \(hung\)", done.stdout, re.MULTILINE)
    assert re.search(r"^users:Hangs missed .*still waiting", done.stdout, re.MULTILINE)
    assert "users:Raises did not take 14 events: its dead letters" in done.stdout
    assert "users:Raises failed 14 times, last with PermanentError: never" in done.stdout
    shown = frameworm("runs", "show", str(run.path)).stdout
    assert "users:Hangs: hung" in shown
    assert "users:Raises: ok, 0 delivered, 0 pending, 14 dead letters" in shown
    assert "users:Prints: ok, 14 delivered" in shown
    assert (run.path / "relay" / "relay.log").stat().st_size < 1024 * 1024 + 10_000


@pytest.mark.skipif(not FULL, reason="a relay that has to be started again and again: FRAMEWORM_FAULTS=full")
@LONG
def test_listeners_that_take_the_relay_along(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault 15: one exits, one uses all memory; the run ends with everything delivered but the record that kills."""
    monkeypatch.setenv("FRAMEWORM_RELAY_MEMORY", "600MiB")
    bad = [f'"users:{kind}": {{dispatch: process}}' for kind in ("Exits", "Leaks")]
    config = configured(*bad, '"users:Good": {path: process, dispatch: process}')
    done = frameworm("train", "--config", config, "--set", "trainer.drain_timeout=60")
    assert done.returncode == 0, done.stderr
    [run] = list_runs(Path("runs"))
    assert sorted({line["step"] for line in lines(project / "process")}) == STEPS
    shown = frameworm("runs", "show", str(run.path)).stdout
    assert "users:Exits: ok, 13 delivered, 0 pending, 1 dead letter" in shown
    assert "users:Leaks: ok, 14 delivered, 0 pending, 0 dead letters" in shown
    assert "users:Good: ok, 14 delivered, 0 pending, 0 dead letters" in shown
    assert "are in use: another relay goes on with" in (run.path / "relay" / "relay.log").read_text("utf-8")


@pytest.mark.skipif(not FULL, reason="three processes with torch, two with MLflow: FRAMEWORM_FAULTS=full")
@LONG
def test_a_killed_run_goes_on_in_mlflow(project: Path) -> None:
    """Fault 9: the MLflow run ends FAILED with all that was recorded; resumed, it is the same one, each step once."""
    mlflow = 'mlflow: {experiment: digits, tracking_uri: "sqlite:///mlflow.db"}'
    config = configured(mlflow, '"users:Slow"')
    words = ["-m", "frameworm", "train", "--config", config, "--set", "trainer.epochs=30"]
    with start(*words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as trainer:
        until(lambda: list_runs(Path("runs")) and len(records(list_runs(Path("runs"))[0].path)) > 60, 60)
        [run] = list_runs(Path("runs"))
        kill(trainer)
    recorded = [entry["step"] for entry in records(run.path) if entry["event"] == "batch_end"]
    until(lambda: relay_of(run.path) is None, 90)
    assert stored(project) == ([("FAILED",)], recorded)
    done = frameworm("train", "--config", config, "--set", "trainer.epochs=30", "--resume", "latest")
    assert done.returncode == 0, done.stderr
    until(lambda: relay_of(run.path) is None, 60)
    assert stored(project) == ([("FINISHED",)], list(range(1, 211)))


def stored(folder: Path) -> tuple[list[tuple[str]], list[int]]:
    """Return the states of all MLflow runs, and the step of every point of the loss."""
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as store:
        runs = store.execute("SELECT status FROM runs").fetchall()
        points = store.execute("SELECT step FROM metrics WHERE key = 'batch_loss' ORDER BY step").fetchall()
    return runs, [step for (step,) in points]


def test_a_second_trainer_is_refused(project: Path) -> None:
    """Fault 15: it is told who trains there, and the run is as it was."""
    run = new_run(project)
    with writing(run) as write, isolated_plugins():
        write("train_begin", epochs=1)
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        done = CliRunner().invoke(main, ["train", "--config", configured(), "--resume", "latest"])
        assert done.exit_code == 2
        assert str(Owner.current()) in done.stderr
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("callback", "more", "says"),
    [
        ('"users:NeedsBatch"', "", "its parameter 'batch' exists only there"),
        ("csv: {overflow: drop_olddest}", "", "did you mean 'drop_oldest'"),
        ("csv: {queue_size: -3}", "", "queue_size must be a whole number of at least 1, got -3"),
        ("mlflow: {queue_size: 3}", "", "'queue_size' means nothing in the process lane"),
        ("mlflow: {timeout: -1}", "", "a number of seconds, above 0"),
        ("mlflow", "journal: {enabled: false}", "reads the run's record, and there is none"),
        ("", CLOSURE, "another process has to import it by its name"),
        ("", HOOK, "its parameter 'batch' exists only there"),
    ],
    ids=range(8),
)
def test_what_cannot_be_is_one_message(project: Path, callback: str, more: str, says: str) -> None:
    """Exit code 2, no traceback, and nothing is written."""
    if "def register" in more:
        write_plugin(project / "frameworm_plugins" / "wrong", more)
        more = "plugins: {wrong: {}}"
    config = configured(*filter(None, [callback]), more=more)
    with isolated_plugins(), pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(project)
        done = CliRunner().invoke(main, ["train", "--config", config])
    assert done.exit_code == 2, done.output
    assert says in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("error: ") == 1
    assert "Traceback" not in done.output
    assert not (project / "runs").exists()
