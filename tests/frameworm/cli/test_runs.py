"""`frameworm runs` shows what was trained, to people and to programs, and throws away what is old."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from frameworm.cli import main
from frameworm.delivery.journal import Journal
from frameworm.runs import RunDirectory
from tests.frameworm.listeners.fakes import FakeTrainer


def runs(*arguments: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(main, ["runs", *arguments])


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A run with two epochs, in the usual place."""
    monkeypatch.chdir(tmp_path)
    directory = RunDirectory.create(Path("runs"), "digits")
    trainer = FakeTrainer(run_dir=directory.path)
    with Journal(directory.path, run=directory.id) as journal:
        journal.attach(trainer.bus)
        trainer.train([{"loss": 0.5}, {"loss": 0.25, "val_loss": float("nan")}])
    return directory


def test_the_list_for_people(run: RunDirectory) -> None:
    """Each run has a line."""
    [header, line] = runs("list").stdout.splitlines()
    assert header.split() == ["run", "status", "epochs", "steps", "latest", "metrics"]
    assert line.split()[:4] == [run.path.name, "finished", "2", "0"]
    assert line.endswith("loss 0.25  val_loss nan")


def test_the_list_for_programs(run: RunDirectory) -> None:
    """As JSON the same has names, and NaN is not a number."""
    [row] = json.loads(runs("list", "--json").stdout, parse_constant=pytest.fail)
    assert (row["id"], row["path"], row["status"]) == (run.id, str(run.path), "finished")
    assert row["metrics"] == {"loss": 0.25, "val_loss": "NaN"}


def test_no_runs(tmp_path: Path) -> None:
    """An empty list says where it looked; as JSON it is empty."""
    assert runs("list", "--dir", str(tmp_path)).stdout.startswith(f"no runs in {tmp_path}")
    assert json.loads(runs("list", "--dir", str(tmp_path), "--json").stdout) == []


@pytest.mark.parametrize("name", ["latest", "id", "path", "beginning"])
def test_one_run(run: RunDirectory, name: str) -> None:
    """A run is found by any of its names, and shown with its files and the metrics of its epochs."""
    text = {"latest": "latest", "id": run.id, "path": str(run.path), "beginning": "digits-"}[name]
    done = runs("show", text)
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["status", "finished"] in lines
    assert ["events", f"{run.path}/events.jsonl"] in lines
    assert ["checkpoints", "-"] in lines
    assert lines[-3:] == [["epoch", "loss", "val_loss"], ["1", "0.5"], ["2", "0.25", "nan"]]


def test_one_run_for_programs(run: RunDirectory) -> None:
    """As JSON everything is there, with epochs counted from 0."""
    facts = json.loads(runs("show", "latest", "--json").stdout)
    assert (facts["id"], facts["checkpoints"], facts["parent"]) == (run.id, [], None)
    assert facts["history"][0] == {"epoch": 0, "metrics": {"loss": 0.5}}


@pytest.mark.usefixtures("run")
def test_an_unknown_run() -> None:
    """A run that is not there is wrong input."""
    done = runs("show", "nothing")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no run 'nothing'")


def test_pruning(run: RunDirectory) -> None:
    """Old runs go, the newest stay; first one may look."""
    newer = RunDirectory.create(Path("runs"), "newer")
    assert runs("prune", "--keep", "1", "--dry-run").stdout == f"would remove {run.path}\n"
    assert run.path.exists()
    assert runs("prune", "--keep", "1", "--older-than", "1").stdout == "nothing to remove\n"
    assert runs("prune", "--keep", "1").stdout == f"removed {run.path}\n"
    assert (run.path.exists(), newer.path.exists()) == (False, True)


def test_pruning_needs_a_number() -> None:
    """Nothing is thrown away by default."""
    assert runs("prune").exit_code == 2


@pytest.fixture
def other(run: RunDirectory) -> RunDirectory:
    """A second run, with another config than the first and a metric that it has not."""
    run.config.write_text("optimizer: {name: adamw, lr: 0.1}\nmetrics: [accuracy]\nmodel: {name: cnn}\n")
    directory = RunDirectory.create(Path("runs"), "other")
    directory.config.write_text("optimizer: {name: adamw, lr: 0.01}\nmetrics: []\nmodel: {name: mlp, width: 9}\n")
    trainer = FakeTrainer(run_dir=directory.path)
    with Journal(directory.path, run=directory.id) as journal:
        journal.attach(trainer.bus)
        trainer.train([{"loss": 0.125, "val_accuracy": 0.75}])
    return directory


def test_runs_side_by_side(run: RunDirectory, other: RunDirectory) -> None:
    """What differs in their configs, all that they measured; what one has not is a dash."""
    done = runs("compare", "digits", "other")
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines == [
        ["run", run.path.name, other.path.name],
        ["status", "finished", "finished"],
        ["epochs", "2", "1"],
        ["step", "0", "0"],
        [],
        ["config", run.path.name, other.path.name],
        ["optimizer.lr", "0.1", "0.01"],
        ["metrics", '["accuracy"]', "[]"],
        ["model.name", '"cnn"', '"mlp"'],
        ["model.width", "-", "9"],
        [],
        ["metric", run.path.name, other.path.name],
        ["loss", "0.25", "0.125"],
        ["val_loss", "nan", "-"],
        ["val_accuracy", "-", "0.75"],
    ]


def test_runs_side_by_side_for_programs(run: RunDirectory, other: RunDirectory) -> None:
    """The same as JSON, of as many runs as one names."""
    found = json.loads(runs("compare", other.id, "digits", run.id, "--json").stdout, parse_constant=pytest.fail)
    assert [one["id"] for one in found["runs"]] == [other.id, run.id, run.id]
    assert found["config"]["model.width"] == [9, None, None]
    assert found["metrics"]["val_loss"] == [None, "NaN", "NaN"]


@pytest.mark.usefixtures("other")
def test_equal_runs_and_single_ones() -> None:
    """Equal configs are said to be equal; one run alone is nothing to compare."""
    assert "the configs are equal" in runs("compare", "other", "other").stdout.splitlines()
    assert (runs("compare", "other").exit_code, runs("compare").exit_code) == (2, 2)
    assert runs("compare", "other", "nothing").stderr.startswith("error: no run 'nothing'")


@pytest.mark.usefixtures("other")
def test_a_picture(tmp_path: Path) -> None:
    """The curves of the runs that are named go where one says, and it is said where they are."""
    assert runs("plot", "digits", "other").stdout == "curves.png\n"
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert runs("plot", "latest", "-o", "loss.svg", "--metric", "loss").stdout == "loss.svg\n"
    done = runs("plot", "latest", "--metric", "lost")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no metric 'lost'")
