"""The logger's runs are Weights & Biases' own: what they keep offline is read back, and nothing goes to a network."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from frameworm.core import create
from frameworm.errors import UserError
from frameworm_plugins import wandb_logger
from frameworm_plugins.wandb_logger import WandbLogger
from frameworm_plugins.wandb_logger.remote import Remote
from tests.frameworm_plugins.story import START, Story

BEGAN = START.timestamp()


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test may reach for the network, or leave wandb's process behind."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    yield
    if "wandb" in sys.modules:
        import_module("wandb").teardown()
    assert services(os.getpid()) == []


@pytest.fixture
def story(tmp_path: Path) -> Story:
    """A run with a folder."""
    return Story(run_dir=tmp_path / "digits-01")


def services(pid: int) -> list[int]:
    """Return the processes that wandb has started for `pid`, those that have ended left out."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"wandb-core" in words[0] and str(pid).encode() in words:
            found.append(int(folder.name))
    return found


def records(folder: Path) -> list[Any]:
    """Return what wandb has kept of the runs in a folder, in order; its process ends, and has written all then."""
    import_module("wandb").teardown()
    files = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    kind = import_module("wandb.proto.wandb_internal_pb2").Record
    return [kind.FromString(data) for path in files for data in chunks(path.read_bytes())]


def chunks(data: bytes) -> Iterator[bytes]:
    """Return the records of a `.wandb` file: LevelDB's log format behind a header of 7 bytes."""
    assert data[:4] == b":W&B"
    position, block, whole = 7, 1 << 15, b""
    while position + 7 <= len(data):
        if block - position % block < 7:
            position += block - position % block  # too little is left of the block for a head
            continue
        _checksum, length, kind = struct.unpack("<IHB", data[position : position + 7])
        whole += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of the history, without what wandb adds to them."""
    found = []
    for record in records(folder):
        if record.WhichOneof("record_type") == "history":
            row = {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            found.append({key: value for key, value in row.items() if key not in ("_step", "_runtime")})
    return found


def exits(folder: Path) -> list[int]:
    """Return the exit codes of the runs."""
    return [record.exit.exit_code for record in records(folder) if record.WhichOneof("record_type") == "exit"]


def losses(folder: Path) -> list[tuple[int, float]]:
    """Return (step, loss) of every batch."""
    return [(row["step"], row["batch_loss"]) for row in rows(folder) if "batch_loss" in row]


def test_a_run_is_kept_as_it_was(story: Story, tmp_path: Path) -> None:
    """Its config, a row for each event with its own time and step, and the end."""
    logger = WandbLogger("demo", name="first", tags=("a", "b"))
    logger.deliver([story.begin(), story.batch(2.0), story.epoch_end(loss=1.5, val_loss=float("inf"))])
    logger.deliver([story.logged(mine=5.0), story.end("failed", "ValueError: no")])
    assert rows(tmp_path / "digits-01") == [
        {"batch_loss": 2.0, "step": 1, "_timestamp": BEGAN + 2},
        {"epoch": 0.0, "loss": 1.5, "val_loss": float("inf"), "step": 1, "_timestamp": BEGAN + 3},
        {"mine": 5.0, "step": 1, "_timestamp": BEGAN + 4},
    ]
    kept = records(tmp_path / "digits-01")
    (run,) = [record.run for record in kept if record.WhichOneof("record_type") == "run"]
    assert (run.run_id, run.project, run.display_name, list(run.tags)) == ("r1", "demo", "first", ["a", "b"])
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["optimizer"] == {"name": "adamw", "lr": 0.001}
    assert config["callbacks"] == [{"c": {"token": "***"}}]
    axes = [record.metric for record in kept if record.WhichOneof("record_type") == "metric"]
    assert {(metric.name or metric.glob_name, metric.step_metric) for metric in axes} >= {("step", ""), ("*", "step")}
    assert exits(tmp_path / "digits-01") == [1]
    summary = [item for record in kept for item in record.summary.update if "frameworm" in str(item)]
    assert "ValueError: no" in str(summary)


@pytest.mark.parametrize(
    ("status", "code"), [("finished", 0), ("stopped", 0), ("interrupted", 130), ("failed", 1), ("crashed", 1)]
)
def test_it_ends_there_as_it_ended_here(story: Story, status: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its exit code."""
    codes = []

    class Run:
        step = 0
        summary: dict[str, str] = {}  # noqa: RUF012  one test's own

        def log(self, _row: Any) -> None: ...

        def finish(self, exit_code: int) -> None:
            codes.append(exit_code)

    monkeypatch.setattr(Remote, "open", lambda *_: Remote(None, Run()))
    WandbLogger().deliver([story.begin(), story.end(status)])
    assert codes == [code]


def test_what_is_redone_or_delivered_again_is_logged_once(story: Story, tmp_path: Path) -> None:
    """A resumed run has the id that it had, and goes on above what its first attempt has logged."""
    folder = tmp_path / "digits-01"
    logger = WandbLogger()
    events = [story.begin(), story.batch(3.0), story.batch(2.0)]
    logger.deliver(events)
    logger.deliver(events)
    logger.deliver([story.end("crashed")])
    other = WandbLogger()
    other.load_state_dict(logger.state_dict())
    time.sleep(1)  # wandb names its folder after the second
    other.deliver([*story.resume(step=1)[:1], story.batch(9.0), story.batch(1.0), story.end()])
    assert losses(folder) == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert exits(folder) == [1, 0]
    assert {record.run.run_id for record in records(folder) if record.WhichOneof("record_type") == "run"} == {"r1"}


def test_files_go_where_they_should(story: Story, tmp_path: Path) -> None:
    """Into a folder that need not be there."""
    WandbLogger(dir=tmp_path / "here").deliver([story.begin(), story.batch(1.0), story.end()])
    assert losses(tmp_path / "here") == [(1, 1.0)]
    assert not (tmp_path / "digits-01").exists()


PRELUDE = """
import os, signal, sys, time
from pathlib import Path
from frameworm_plugins.wandb_logger import WandbLogger
from tests.frameworm_plugins.story import Story
from tests.frameworm_plugins.wandb_logger.test_wandb_logger import services
story = Story(run_dir=Path(sys.argv[1]))
logger = WandbLogger()
logger.deliver([story.begin(), story.batch(3.0)])
"""


def serve(folder: Path, code: str) -> None:
    """Serve a logger in a process of its own, and do `code` there; wait until wandb's process has ended after it."""
    command = [sys.executable, "-W", "ignore::ResourceWarning", "-c", PRELUDE + textwrap.dedent(code), str(folder)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        _, errors = process.communicate(timeout=40)
        assert process.returncode in (0, -signal.SIGKILL), errors
    deadline = time.monotonic() + 10
    while services(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert services(process.pid) == []


linux = pytest.mark.skipif(sys.platform != "linux", reason="looks for the process in /proc")


@linux
def test_when_wandbs_process_is_killed_the_next_call_has_a_new_one(tmp_path: Path) -> None:
    """The call that finds it dead raises what says that it was circumstances."""
    serve(
        tmp_path / "run",
        """
        for pid in services(os.getpid()): os.kill(pid, signal.SIGKILL)
        event = story.batch(2.0)
        try:
            logger.deliver([event])
            raise SystemExit("it was not told")
        except ConnectionError:
            time.sleep(1)  # wandb names its folder after the second
            logger.deliver([event, story.end()])
        """,
    )
    assert losses(tmp_path / "run")[-1] == (2, 2.0)
    assert exits(tmp_path / "run") == [0]


@linux
@pytest.mark.parametrize("end", ["", "time.sleep(2.5); os.kill(os.getpid(), signal.SIGKILL)"], ids=["exit", "kill"])
def test_wandbs_process_ends_with_the_one_that_serves_the_logger(tmp_path: Path, end: str) -> None:
    """However that ends; what was logged more than a second before is kept."""
    serve(tmp_path / "run", end)
    assert losses(tmp_path / "run") == [(1, 3.0)]


def test_wrong_options_are_errors_of_the_config() -> None:
    """Before step 1."""
    with pytest.raises(UserError, match="mode"):
        create("callback", "wandb", WandbLogger, {"mode": "ofline"})


def test_nothing_of_wandb_is_imported_before_the_first_event() -> None:
    """Neither by loading the plugin nor by making the logger: in training, a config is only checked."""
    made = "from frameworm_plugins.wandb_logger import WandbLogger; WandbLogger()"
    code = f"import sys; {made}; print('wandb' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_without_wandb_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a config asks for it, before step 1."""
    monkeypatch.setattr(wandb_logger, "find_spec", lambda _name: None)
    with pytest.raises(UserError, match="wandb") as caught:
        WandbLogger()
    assert caught.value.hint == "pip install 'frameworm[wandb]'"
