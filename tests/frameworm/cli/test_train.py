"""`frameworm train` trains, tells what happens in the form that was asked for, and ends truthfully."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from frameworm.cli import main
from frameworm.runs import list_runs

CONFIG = """
data: {name: synthetic, samples: 64, inputs: 4, targets: 3, batch_size: 16}
model: {name: "users:Linear"}
trainer: {epochs: 2, device: cpu}
run: {name: tiny}
"""

USERS = '''
"""What a user brings along."""
import logging
import time
import warnings

from torch import nn

from frameworm.plugins.hooks import CallbackHook


class Linear(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def compute_loss(self, x, y=None):
        return {"loss": nn.functional.mse_loss(self.layer(x), y)}


class Bug(Linear):
    def compute_loss(self, x, y=None):
        return {"loss": self.layer(x[:, 1:]).mean()}


class NoLoss(Linear):
    def compute_loss(self, x, y=None):
        return {}


class Slow(Linear):
    def compute_loss(self, x, y=None):
        time.sleep(0.02)
        return super().compute_loss(x, y)


class Talkative(CallbackHook):
    def on_epoch_end(self, trainer, epoch, metrics):
        print("custom:", epoch)
        warnings.warn("careful")
        logging.getLogger("lib").warning("from a library")


class Failing(CallbackHook):
    def on_epoch_end(self, trainer, epoch, metrics):
        raise ValueError("no such table")


class Misnamed(CallbackHook):
    def on_epoch_ends(self, trainer): ...


class Leaving(CallbackHook):
    def __init__(self, code):
        self.code = code

    def on_epoch_end(self, trainer, epoch, metrics):
        raise SystemExit(self.code)
'''


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in a folder with a config and a module of the user's."""
    (tmp_path / "config.yaml").write_text(CONFIG, "utf-8")
    (tmp_path / "users.py").write_text(USERS, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("users", None)


def train(*arguments: str) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(main, ["train", *arguments])


def json_lines(text: str) -> list[dict[str, Any]]:
    """The lines of a text, each of which is one JSON object."""
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


def status_of_the_run() -> str:
    """How the only run there is ended, as its record says."""
    [run] = list_runs(Path("runs"))
    return run.status


def test_a_plain_run() -> None:
    """Off a terminal: what is trained, a line an epoch, what came of it; a run is kept, nothing overwrites a line."""
    done = train()
    assert (done.exit_code, done.stderr) == (0, "")
    begin, first, second, ended, *rest = done.stdout.splitlines()
    [run] = list_runs(Path("runs"))
    assert begin == f"training users:Linear for 2 epochs, in {run.path}"
    assert first.startswith("epoch 1/2  loss ")
    assert second.startswith("epoch 2/2  loss ")
    assert ended.startswith("finished: 2 epochs, 8 steps, ")
    assert f"run: {run.path}" in rest
    assert any(line.startswith("  journal") for line in rest)
    assert "\r" not in done.stdout
    assert run.status == "finished"


@pytest.mark.filterwarnings("always:careful")
def test_a_json_run() -> None:
    """With json every line is an object that knows the run, whoever wrote it; nothing goes to stderr."""
    done = train("--log-format", "json", "--set", "callbacks=[users:Talkative]")
    assert (done.exit_code, done.stderr) == (0, "")
    lines = json_lines(done.stdout)
    events = [line["event"] for line in lines]
    assert [events[0], events[-1]] == ["train_begin", "summary"]
    assert events.count("epoch_end") == 2
    assert {"stdout", "careful", "from a library"} <= set(events)
    [run] = list_runs(Path("runs"))
    assert {line["run"] for line in lines} == {run.id}
    assert [line["text"] for line in lines if line["event"] == "stdout"] == ["custom: 0", "custom: 1"]
    assert [(line["epoch"], line["step"]) for line in lines if line["event"] == "epoch_end"] == [(0, 4), (1, 8)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config", "absent.yaml"], "no such config file"),
        (["--set", "nonsense"], "nonsense"),
        (["--set", "trainer.epochs=many"], "trainer.epochs"),
        (["--set", "data.batch_size=0"], "data.batch_size"),
        (["--set", "trainr.epochs=1"], "trainer"),
        (["--model", "mlpp"], "unknown model 'mlpp'"),
        (["--model", "users:Absent"], "Absent"),
        (["--epochs", "0"], "trainer.epochs"),
        (["--set", "run.dir=config.yaml"], "run.dir"),
        (["--set", "callbacks=[{early_stopping: {patients: 1}}]"], "patience"),
        (["--set", "callbacks=[users:Misnamed]"], "unknown hook 'on_epoch_ends'"),
        (["--model", "users:NoLoss", "--dry-run"], "returned no loss"),
        (["--resume", "absent"], "no run 'absent'"),
    ],
)
def test_wrong_input(arguments: list[str], said: str) -> None:
    """Wrong input is one message and exit code 2; nothing is written. As JSON the message is a line of stdout."""
    done = train(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    asked = train(*arguments, "--log-format", "json")
    [line] = json_lines(asked.stdout)
    assert (asked.exit_code, asked.stderr, line["level"]) == (2, "", "error")
    assert said in line["event"]
    assert not Path("runs").exists()


def test_without_a_config() -> None:
    """Where there is no config, the way to one is said."""
    Path("config.yaml").unlink()
    assert "frameworm init" in train().stderr


def test_debug_shows_where_an_error_arose() -> None:
    """`--debug` adds the traceback of an error that is only a message otherwise."""
    done = train("--config", "absent.yaml", "--debug")
    assert done.exit_code == 2
    assert done.stderr.startswith("Traceback (most recent call last):\n")
    assert "no such config file" in done.stderr


def test_named_options_win() -> None:
    """`--model` and `--epochs` win over `--set`, which wins over the file."""
    done = train("--set", "trainer.epochs=3", "--set", "model.name=cnn", "--epochs", "1", "--model", "users:Linear")
    assert done.stdout.startswith("training users:Linear for 1 epoch, in")


def test_a_dry_run() -> None:
    """A dry run says what would be trained, and writes nothing."""
    done = train("--dry-run", "--model", "users:Linear")
    assert done.exit_code == 0
    assert "users:Linear: 15 parameters, on cpu, 2 epochs of 4 batches" in done.stdout
    [line] = json_lines(train("--dry-run", "--model", "users:Linear", "--log-format", "json").stdout)
    assert (line["event"], line["parameters"], line["batches_per_epoch"]) == ("dry_run", 15, 4)
    assert not Path("runs").exists()


def test_a_dry_run_of_a_run_that_goes_on() -> None:
    """It loads what would be gone on from, says what that is, and leaves the run as it was."""
    train("--epochs", "1")
    [run] = list_runs(Path("runs"))
    [checkpoint] = (run.path / "checkpoints").glob("step-*")
    before = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")}
    done = train("--dry-run", "--resume", "latest")
    assert done.exit_code == 0, done.stderr
    assert f"it goes on from {checkpoint}\n" in done.stdout
    refused = train("--dry-run", "--resume", "latest", "--set", "optimizer.name=adam")
    assert refused.exit_code == 2
    assert "the checkpoint is of another optimizer" in refused.stderr
    assert "no run 'absent'" in train("--dry-run", "--resume", "absent").stderr
    assert {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")} == before


def test_a_model_with_a_bug() -> None:
    """A bug in a model is shown where it is; the run is kept and named."""
    done = train("--model", "users:Bug")
    assert done.exit_code == 1
    assert done.stderr.startswith('Traceback (most recent call last):\n  File "')
    assert done.stderr.splitlines()[1].endswith("in compute_loss")
    assert "RuntimeError: mat1 and mat2 shapes" in done.stderr
    assert "the run is kept, as failed: runs/tiny-" in done.stderr
    assert "failed (RuntimeError: mat1 and mat2" in done.stdout
    assert status_of_the_run() == "failed"


def test_a_bug_as_json() -> None:
    """As JSON the same is one line, with the traceback in it."""
    done = train("--model", "users:Bug", "--log-format", "json")
    *_, summary, failure = json_lines(done.stdout)
    assert (done.exit_code, done.stderr, summary["status"]) == (1, "", "failed")
    assert (failure["error"], failure["exception"]["type"]) == ("RuntimeError", "builtins.RuntimeError")
    assert "compute_loss" in failure["exception"]["traceback"]
    assert failure["run_dir"].startswith("runs/tiny-")


def test_a_broken_contract() -> None:
    """What our own errors say needs no traceback; the run existed, so the exit code is 1."""
    done = train("--model", "users:NoLoss")
    assert done.exit_code == 1
    assert done.stderr.startswith("error: model 'users:NoLoss': compute_loss returned no loss")
    assert "Traceback" not in done.stderr
    assert status_of_the_run() == "failed"


def test_a_failing_listener() -> None:
    """A listener that fails costs a line at the end; with `--strict` it costs the run."""
    tolerated = train("--set", "callbacks=[users:Failing]")
    assert tolerated.exit_code == 0
    assert "users:Failing failed 2 times, last with ValueError: no such table" in tolerated.stdout
    strict = train("--set", "callbacks=[users:Failing]", "--strict")
    assert strict.exit_code == 1
    assert "failed (ValueError: no such table): 1 epoch" in strict.stdout


@pytest.mark.parametrize(("code", "exit_code", "said"), [("3", 3, ""), ("enough", 1, "enough\n"), ("null", 0, "")])
def test_a_hook_that_leaves(code: str, exit_code: int, said: str) -> None:
    """`sys.exit` in a hook ends the run, with its summary, and then the process as it would in any program."""
    with started("--set", f"callbacks=[users:Leaving: {{code: {code}}}]") as process:
        output, errors = process.communicate()
    assert (process.returncode, errors) == (exit_code, said)
    assert "interrupted (SystemExit): 1 epoch" in output
    assert status_of_the_run() == "interrupted"


def test_resuming() -> None:
    """`--resume latest` goes on with the run; its report is about all of it."""
    train("--epochs", "1")
    done = train("--resume", "latest")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("training users:Linear for 2 epochs, attempt 2, in runs/tiny-")
    assert "finished: 2 epochs, 8 steps" in done.stdout
    [run] = list_runs(Path("runs"))
    assert (run.attempts, run.epochs) == (2, 2)


def test_from_below_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From inside a plugin's folder the root's config is used as if from there: the run is kept at the root."""
    plugin = tmp_path / "frameworm_plugins" / "mine"
    plugin.mkdir(parents=True)
    monkeypatch.chdir(plugin)
    done = train("--config", "config.yaml", "--epochs", "1", "--model", "users:Linear")
    assert done.exit_code == 0, done.stderr
    assert done.stderr == f"using config.yaml of the project at {tmp_path}\n"
    assert Path.cwd() == plugin
    assert list_runs(tmp_path / "runs")
    listed = CliRunner().invoke(main, ["runs", "list"])
    assert "finished" in listed.stdout


# In a real process


def started(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Start the command in a process of its own."""
    command = [sys.executable, "-m", "frameworm", "train", "--log-format", "plain", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals(number: signal.Signals, code: int) -> None:
    """After Ctrl-C or SIGTERM the step is finished, the run is saved, and the exit code is the usual one."""
    with started("--model", "users:Slow", "--epochs", "1000") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.readline()
        process.send_signal(number)
        output, errors = process.stdout.read(), process.stderr.read()
    assert process.returncode == code
    assert f"interrupted ({number.name})" in output
    assert "--resume runs/tiny-" in output
    assert errors == ""
    assert status_of_the_run() == "interrupted"


def test_the_reader_leaves() -> None:
    """`frameworm train | head -1`: the run goes on to its end, quietly."""
    with started() as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
    assert (process.returncode, errors) == (0, "")
    assert status_of_the_run() == "finished"


def test_on_a_terminal() -> None:
    """On a terminal bars are drawn, prints appear above them, and the terminal is left in order."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "frameworm", "train", "--set", "callbacks=[users:Talkative]"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "30"}
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=theirs, env=environment) as process:
        os.close(theirs)
        output = b""
        while select.select([ours], [], [], 50)[0]:
            try:
                output += os.read(ours, 65536)
            except OSError:  # the other side was closed
                break
    os.close(ours)
    text = output.decode()
    assert process.returncode == 0
    assert "epoch 1/2 " in text
    assert "━" in text
    assert "custom: 1" in text
    assert "finished: 2 epochs" in text
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")
