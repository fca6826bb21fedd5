"""Run directories: made safely, found by what people type, summed up from their journals, removed when dead."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bus import Event, EventBus
from frameworm.delivery.journal import Journal
from frameworm.errors import RunError
from frameworm.events import BatchEnd, EpochBegin, EpochEnd, ListenerFailed, TrainBegin, TrainEnd, TrainResumed
from frameworm.runs import RunDirectory, find, list_runs, prune

TRAINER: Any = None  # nobody asks it for anything


def record(run: RunDirectory, *events: Event, step: int = 0) -> None:
    """Record one attempt at a run."""
    with EventBus() as bus, Journal(run.path, run=run.id, position=lambda: (0, step), log_every=1) as journal:
        journal.attach(bus)
        for event in events:
            bus.publish(event)


def aged(root: Path, name: str, days: float) -> RunDirectory:
    """Make a run that is so many days old."""
    run = RunDirectory.create(root, name)
    created = datetime.now(UTC) - timedelta(days=days)
    file = run.path / "run.json"
    file.write_text(re.sub(r'"created": ".*"', f'"created": "{created.isoformat()}"', file.read_text()))
    return RunDirectory.open(run.path)


# Made


def test_a_run_directory_is_private_and_complete(tmp_path: Path) -> None:
    """It is called after the run, the time and an id, and nobody else may look into it."""
    run = RunDirectory.create(tmp_path / "runs", "digits", parent="older")
    assert re.fullmatch(rf"digits-\d{{8}}-\d{{6}}-{run.id}", run.path.name)
    assert run.path.stat().st_mode & 0o777 == 0o700
    assert run.checkpoints.is_dir()
    assert run.created.tzinfo is not None
    assert RunDirectory.open(run.path) == run


def test_runs_of_the_same_second_are_told_apart(tmp_path: Path) -> None:
    """Starting ten at once makes ten directories."""
    assert len({RunDirectory.create(tmp_path, "digits").path for _ in range(10)}) == 10


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """The error says where, before anything else happens."""
    (tmp_path / "runs").write_text("not a folder")
    with pytest.raises(RunError, match=str(tmp_path / "runs")):
        RunDirectory.create(tmp_path / "runs", "digits")


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a b"])
def test_a_name_that_is_no_folder_is_an_error(tmp_path: Path, name: str) -> None:
    """No name leads out of the folder of runs."""
    with pytest.raises(RunError, match="letters, digits"):
        RunDirectory.create(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


def test_other_folders_are_no_runs(tmp_path: Path) -> None:
    """Opening says what is missing, or what is wrong with it."""
    with pytest.raises(RunError, match="no run here"):
        RunDirectory.open(tmp_path)
    (tmp_path / "run.json").write_text('{"id": 3}')
    with pytest.raises(RunError, match="cannot be read"):
        RunDirectory.open(tmp_path)


# Found


def test_a_run_is_found_by_whatever_names_it(tmp_path: Path) -> None:
    """An id, the folder's name, the beginning of either, a path, or `latest`."""
    first, second = aged(tmp_path, "digits", 2), aged(tmp_path, "digits", 1)
    for text in (first.id, first.id[:6], first.path.name, f"{first.path}/"):
        assert find(tmp_path, text) == first
    assert find(tmp_path, "latest") == second
    assert find(tmp_path / "elsewhere", str(first.path)) == first


def test_the_beginning_of_several_runs_is_not_enough(tmp_path: Path) -> None:
    """The error lists those that it could be."""
    runs = [RunDirectory.create(tmp_path, "digits") for _ in range(2)]
    with pytest.raises(RunError) as ambiguous:
        find(tmp_path, "dig")
    assert all(run.path.name in str(ambiguous.value) for run in runs)


def test_a_run_that_is_not_there_is_missed_with_the_nearest(tmp_path: Path) -> None:
    """A slip of the finger is answered with what was probably meant."""
    run = RunDirectory.create(tmp_path, "digits")
    with pytest.raises(RunError, match=run.path.name):
        find(tmp_path, run.path.name.replace("digits", "digist"))
    with pytest.raises(RunError, match="no runs at all"):
        find(tmp_path / "empty", "latest")


def test_what_cannot_be_read_is_passed_over_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One damaged run does not hide the others; links and stray files are no runs."""
    run = RunDirectory.create(tmp_path, "digits")
    damaged = RunDirectory.create(tmp_path, "damaged")
    (damaged.path / "run.json").write_text("")
    (tmp_path / "link").symlink_to(run.path)
    (tmp_path / "notes.txt").touch()
    assert [summary.id for summary in list_runs(tmp_path)] == [run.id]
    assert damaged.path.name in caplog.text


# Summed up


def test_a_finished_run_is_summed_up_from_its_journal(tmp_path: Path) -> None:
    """Status, attempts, epochs, steps and the latest metrics, as they were measured."""
    run = RunDirectory.create(tmp_path, "digits")
    record(
        run,
        TrainBegin(TRAINER, 2),
        EpochEnd(TRAINER, 0, {"loss": 2.0}),
        EpochEnd(TRAINER, 1, {"loss": 1.0, "val_loss": float("inf")}),
        TrainEnd(TRAINER, "finished", None, None),
        ListenerFailed(TRAINER, "logger", "train_end", "ValueError: no", 1),
        step=20,
    )
    (summary,) = list_runs(tmp_path)
    assert (summary.id, summary.name, summary.path, summary.created) == (run.id, "digits", run.path, run.created)
    assert (summary.status, summary.attempts, summary.epochs, summary.step) == ("finished", 1, 2, 20)
    assert summary.metrics == {"loss": 1.0, "val_loss": float("inf")}


@pytest.mark.parametrize("status", ["stopped", "failed", "interrupted"])
def test_a_run_says_how_it_ended(tmp_path: Path, status: str) -> None:
    """The status is the one that the run recorded."""
    run = RunDirectory.create(tmp_path, "digits")
    record(run, TrainBegin(TRAINER, 1), TrainEnd(TRAINER, status, None, None))
    assert run.summary().status == status


@pytest.mark.parametrize(
    "last", [TrainBegin(TRAINER, 1), EpochBegin(TRAINER, 0), BatchEnd(TRAINER, 0, 0.5), EpochEnd(TRAINER, 0, {})]
)
def test_a_run_that_breaks_off_has_crashed(tmp_path: Path, last: Event) -> None:
    """Without a word of its end, and with nobody writing, it is dead; reading that leaves no trace."""
    run = RunDirectory.create(tmp_path, "digits")
    record(run, TrainBegin(TRAINER, 1), last)
    before = run.journal.read_bytes()
    assert run.summary().status == "crashed"
    assert run.journal.read_bytes() == before


def test_a_resumed_run_is_as_its_last_attempt(tmp_path: Path) -> None:
    """An earlier end does not count; epochs that were trained again have their later metrics."""
    run = RunDirectory.create(tmp_path, "digits")
    record(
        run,
        TrainBegin(TRAINER, 3),
        EpochEnd(TRAINER, 0, {"loss": 3.0}),
        EpochEnd(TRAINER, 1, {"loss": 2.0}),
        TrainEnd(TRAINER, "interrupted", None, None),
        step=20,
    )
    record(run, TrainBegin(TRAINER, 3), TrainResumed(TRAINER, "c"), EpochEnd(TRAINER, 1, {"loss": 1.5}), step=15)
    assert run.summary().status == "crashed"
    assert (run.summary().attempts, run.summary().epochs, run.summary().metrics) == (2, 2, {"loss": 1.5})
    assert run.history() == {0: {"loss": 3.0}, 1: {"loss": 1.5}}


def test_a_run_without_records_is_unknown(tmp_path: Path) -> None:
    """Where nothing was recorded nothing is claimed."""
    run = RunDirectory.create(tmp_path, "digits")
    for _ in range(2):
        summary = run.summary()
        assert (summary.status, summary.attempts, summary.epochs, summary.metrics) == ("unknown", 0, 0, {})
        record(run)


def test_a_run_whose_process_is_killed_has_crashed(tmp_path: Path) -> None:
    """While the process lives the run is running; after SIGKILL it is not, without anybody tidying up."""
    run = RunDirectory.create(tmp_path, "digits")
    code = (
        "import sys; from pathlib import Path; from bus import EventBus\n"
        "from frameworm.delivery.journal import Journal; from frameworm.events import TrainBegin; bus = EventBus()\n"
        "journal = Journal(Path(sys.argv[1]), run='r', position=lambda: (0, 0)); journal.attach(bus)\n"
        "bus.publish(TrainBegin(None, 3)); print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(run.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert run.summary().status == "running"
        assert prune(tmp_path, keep=0, dry_run=True) == []
        assert prune(tmp_path, keep=0) == []
        os.kill(process.pid, signal.SIGKILL)
    assert run.summary().status == "crashed"
    assert prune(tmp_path, keep=0) == [run]
    assert not run.path.exists()


# Removed


def test_old_runs_are_removed_and_the_newest_kept(tmp_path: Path) -> None:
    """Only what is both beyond the number to keep and old enough goes."""
    runs = [aged(tmp_path, "digits", days) for days in (9, 7, 5, 3)]
    week = timedelta(days=6)
    assert prune(tmp_path, keep=3, older_than=week, dry_run=True) == runs[:1]
    assert all(run.path.exists() for run in runs)
    assert prune(tmp_path, keep=1, older_than=week) == runs[:2]
    assert [run.path.exists() for run in runs] == [False, False, True, True]
    assert prune(tmp_path, keep=9) == []
    assert prune(tmp_path, keep=0) == runs[2:]
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_cannot_be_removed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says which, and the lock on it is given back."""
    run = RunDirectory.create(tmp_path, "digits")

    def refuse(_path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("shutil.rmtree", refuse)
    with pytest.raises(RunError, match=run.path.name):
        prune(tmp_path, keep=0)
    record(run, TrainBegin(TRAINER, 1))
