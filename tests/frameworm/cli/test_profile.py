"""`frameworm profile` says where a step's time goes, to people and to programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from frameworm.cli import main
from frameworm.training import device
from frameworm.training.feed import Feed
from frameworm.training.times import Times

CONFIG = """
model: {name: "job:Net"}
data: {name: "job:Data", batch_size: 4}
optimizer: {name: sgd}
trainer: {epochs: 1, device: cpu}
"""

JOB = """
import time
import torch
from torch import nn

class Data(torch.utils.data.Dataset):
    def __init__(self, seconds=0.0):
        self.seconds = seconds
    def __len__(self):
        return 20
    def __getitem__(self, index):
        time.sleep(self.seconds)
        return torch.ones(3), torch.ones(1)

class Net(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.seconds = config.model.get("seconds", 0.0)
    def compute_loss(self, x, y):
        time.sleep(self.seconds)
        return {"loss": (self.layer(x) - y).square().mean()}

class Slow:
    def register(self, bus):
        return bus.subscribe("batch_end", lambda event: time.sleep(0.02), name="slow")

class Stops:
    def register(self, bus):
        return bus.subscribe("epoch_end", lambda event: event.source.stop("enough"))

class StopsLater:
    def register(self, bus):
        return bus.subscribe("batch_end", lambda event: event.source.step == 21 and event.source.stop("enough"))

class SlowOnce:
    def register(self, bus):
        return bus.subscribe("optimizer_step", lambda event: time.sleep(0.5 * (event.source.step in (9, 18))))
"""


@pytest.fixture(autouse=True)
def _job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder with a job, from whose module its parts come."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.py").write_text(JOB)
    (tmp_path / "config.yaml").write_text(CONFIG)


def profile(*arguments: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(main, ["profile", "--steps", "8", *arguments])


def found(*arguments: str) -> dict[str, Any]:
    """Return what it says to programs."""
    done = profile("--json", *arguments)
    assert done.exit_code == 0, done.output
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_the_phases_make_up_the_whole(tmp_path: Path) -> None:
    """Each with its share; nothing is kept."""
    before = sorted(tmp_path.iterdir())
    result = found()
    names = [part["name"] for part in result["phases"]]
    assert names == ["data", "forward", "backward", "optimizer", "the rest"]
    assert result["steps"] == 8
    assert sum(part["share"] for part in result["phases"]) == pytest.approx(1)
    assert sum(part["seconds"] for part in result["phases"]) == pytest.approx(result["seconds"])
    assert all(part["per_step_ms"] == pytest.approx(part["seconds"] / 8 * 1e3) for part in result["phases"])
    assert {part["name"]: part["count"] for part in result["phases"]}["forward"] == 8
    assert result["steps_per_second"] == pytest.approx(8 / result["seconds"])
    assert [path for path in sorted(tmp_path.iterdir()) if path.name != "__pycache__"] == before


@pytest.mark.parametrize(
    ("setting", "phase"),
    [
        ("data.seconds=0.005", "data"),
        ("model.seconds=0.02", "forward"),
        ('callbacks=["job:Slow"]', "the rest"),
    ],
)
def test_what_takes_its_time_shows(setting: str, phase: str) -> None:
    """A slow dataset, a slow model, a slow listener; the listener also by its name."""
    result = found("--set", setting)
    assert {part["name"]: part["share"] for part in result["phases"]}[phase] > 0.5
    if phase == "the rest":
        [slow] = [part for part in result["listeners"] if part["name"] == "slow"]
        assert (slow["count"], slow["share"] > 0.5) == (8, True)


def test_the_table_for_people() -> None:
    """The same in columns."""
    done = profile("--set", 'callbacks=["job:Slow"]')
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].startswith("8 steps in ")
    assert lines[2].split() == ["phase", "in", "all", "per", "step", "share", "times"]
    assert any(line.startswith("slow ") for line in lines)


def test_windows_and_several_optimizers() -> None:
    """Steps are counted, not batches, and not once for each optimizer."""
    assert found("--set", "trainer.accumulate=3")["steps"] == 8
    result = found("--model", "gan", "--set", "data.name=digits", "--set", "data.batch_size=32")
    assert (result["steps"], {x["name"]: x["count"] for x in result["phases"]}["forward"]) == (8, 16)


def test_what_was_before_and_after_the_measured_steps_is_not_counted() -> None:
    """Not even where the last step of the warm-up, or the first behind them, takes longer than all of them."""
    result = found("--set", 'callbacks=["job:SlowOnce"]', "--trace", "trace.json")
    assert result["seconds"] < 0.5
    assert all(0 <= part["share"] <= 1 for part in result["phases"])


@pytest.mark.parametrize(("settings", "steps"), [([], 10), (["--set", 'callbacks=["job:StopsLater"]'], 3)])
def test_a_trace(tmp_path: Path, settings: list[str], steps: int) -> None:
    """What torch's profiler saw, in Chrome's format; fewer steps, if the job ends by itself."""
    result = found("--trace", "trace.json", *settings)
    assert (result["steps"], result["trace"], result["traced_steps"]) == (8, str(tmp_path / "trace.json"), steps)
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert sum(event["name"] == "Optimizer.step#SGD.step" for event in events) == steps


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "no number of steps"),
        (["--trace", "nowhere/trace.json"], "no such folder"),
        (["--trace", "."], "no place for a trace"),
        (["--trace", "/dev/full"], "the trace cannot be written"),
        (["--config", "nothing.yaml"], "nothing.yaml"),
        (["--set", "trainer.epoch=1"], "epochs"),
        (["--set", 'callbacks=["job:Stops"]'], "ended by itself"),
    ],
)
def test_wrong_input(arguments: list[str], message: str) -> None:
    """One clear message, and exit code 2."""
    done = profile(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_on_a_device_the_clock_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a phase would have the time of what was asked for before; on the CPU nothing is behind."""
    waited: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append("cuda"))
    first, second = device.clock_of(torch.device("cuda")), device.clock_of(torch.device("cpu"))
    assert second() <= first()
    assert waited == ["cuda"]


def test_bringing_batches_onto_a_device_is_timed() -> None:
    """With its own name; where there is nothing to bring, nothing is looked at."""
    for name, count in (("meta", 3), ("cpu", 0)):
        times = Times()
        list(Feed([torch.ones(2)] * 3, torch.device(name), times=times).begin())
        assert times.counts["transfer"] == count
