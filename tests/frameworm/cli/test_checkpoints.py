"""`frameworm checkpoints` lists what a run has saved, and finds what is damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from torch import nn

from frameworm.cli import main
from frameworm.runs import RunDirectory
from frameworm.training.checkpoint import save
from frameworm.training.store import CheckpointStore


def checkpoints(*arguments: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(main, ["checkpoints", *arguments])


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A run in the usual place."""
    monkeypatch.chdir(tmp_path)
    return RunDirectory.create(Path("runs"), "digits")


def saved(run: RunDirectory, *steps: int) -> list[Path]:
    """Have checkpoints of these steps in the run."""
    store = CheckpointStore(run.checkpoints, keep=9, monitor=None)
    model = nn.Linear(2, 2)
    about = {"run": run.id, "model_name": "line", "epoch": 0, "reason": "test"}
    return [save(store, model=model, state={}, step=step, metrics={"val_loss": 0.5}, **about) for step in steps]  # type: ignore[arg-type]


def flip(file: Path) -> None:
    """Flip a bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_the_list_for_people(run: RunDirectory) -> None:
    """Each complete checkpoint has a line."""
    saved(run, 3, 12)
    header, *lines = checkpoints("list", "latest").stdout.splitlines()
    assert header.split() == ["checkpoint", "epoch", "step", "size", "time", "reason", "metrics"]
    assert [line.split()[:3] for line in lines] == [["step-00000003", "1", "3"], ["step-00000012", "1", "12"]]
    assert all(line.endswith("test    val_loss 0.5") for line in lines), lines


def test_the_list_for_programs(run: RunDirectory) -> None:
    """As JSON everything that a manifest says, and the size in bytes."""
    [path] = saved(run, 3)
    [row] = json.loads(checkpoints("list", str(run.path), "--json").stdout)
    assert (row["path"], row["step"], row["metrics"]) == (str(path), 3, {"val_loss": 0.5})
    assert row["bytes"] == sum(file.stat().st_size for file in path.iterdir() if file.name != "manifest.json")


def test_all_are_intact(run: RunDirectory) -> None:
    """It is said of each, and which is the newest."""
    paths = saved(run, 3, 12)
    done = checkpoints("verify", run.id)
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "step-00000003  intact",
        "step-00000012  intact",
        f"the newest that is intact: {paths[-1]}",
    ]


@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors", "state.pt", "manifest.json"])
def test_one_is_damaged(run: RunDirectory, name: str) -> None:
    """A flipped bit in any file is found; the file is named, and the checkpoint to go on with; the exit code is 1."""
    paths = saved(run, 3, 12, 15)
    flip(paths[-1] / name)
    done = checkpoints("verify", "latest")
    assert done.exit_code == 1
    assert "step-00000015  DAMAGED" in done.stdout
    assert done.stdout.splitlines()[-1] == f"the newest that is intact: {paths[1]}"
    assert f"the checkpoint is damaged: {name}" in done.stderr
    found = json.loads(checkpoints("verify", "latest", "--json").stdout)
    assert [one["intact"] for one in found["checkpoints"]] == [True, True, False]
    assert found["latest_intact"] == str(paths[1])


def test_one_without_a_manifest_counts_as_damaged(run: RunDirectory) -> None:
    """It does not go unnoticed because the list leaves it out."""
    [path] = saved(run, 3)
    (path / "manifest.json").unlink()
    assert checkpoints("list", "latest").stdout.startswith("no complete checkpoints in")
    done = checkpoints("verify", "latest")
    assert done.exit_code == 1
    assert done.stdout.splitlines()[-1] == "the newest that is intact: none"


@pytest.mark.parametrize("command", ["list", "verify"])
def test_there_are_none(run: RunDirectory, command: str) -> None:
    """That is no error; it says where it looked. A run that is not there is wrong input."""
    done = checkpoints(command, "latest")
    assert (done.exit_code, done.stderr) == (0, "")
    assert str(run.checkpoints) in done.stdout
    unknown = checkpoints(command, "nothing")
    assert (unknown.exit_code, unknown.stdout) == (2, "")
    assert unknown.stderr.startswith("error: no run 'nothing'")
