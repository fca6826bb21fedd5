"""What has been recorded is delivered, printed and told again by command; `runs show` says how the listeners fare."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from frameworm.cli import main
from frameworm.delivery.listener import RelayPlan, write_plan
from frameworm.delivery.relay import Relay
from tests.frameworm.delivery.listeners import lines
from tests.frameworm.delivery.recorded import NO_PLUGINS, QUICK, WHERE, listener, new_run, plan, record, start, writing


def frameworm(*arguments: object) -> Result:
    """Run the command."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def run(project: Path) -> Path:
    """A run of three batches in the current project."""
    path = new_run(project)
    record(path, 3)
    return path


# relay


def test_by_hand(run: Path, project: Path) -> None:
    """It delivers the rest, and says how each listener has fared."""
    plan(
        run,
        listener("a", "ToFile", path=project / "a"),
        listener("b", "Troubled", path=project / "b", at=1, how="refuse"),
    )
    done = frameworm("relay", "latest")
    assert done.exit_code == 0, done.output
    header, first, second = done.stdout.splitlines()
    assert header.split() == ["listener", "state", "delivered", "dead", "letters", "pending", "last", "error"]
    assert first.split() == ["a", "ok", "4", "0", "0"]
    assert second.split() == ["b", "ok", "3", "1", "0", "PermanentError:", "no", "such", "metric"]
    assert len(lines(project / "a")) == 4


def test_where_the_run_was_started(run: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths mean what they meant to the trainer, wherever the command is given."""
    write_plan(run, RelayPlan((listener("a", "ToFile", path="a"),), NO_PLUGINS, str(project), QUICK))
    elsewhere = project / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert frameworm("relay", run).exit_code == 0
    assert len(lines(project / "a")) == 4
    assert Path.cwd() == elsewhere


def test_nothing_to_do(run: Path) -> None:
    """A run without listeners is no error."""
    done = frameworm("relay", run)
    assert (done.exit_code, done.stdout) == (
        0,
        "the run has no listeners in the process lane: there is nothing to deliver\n",
    )


def test_a_second_relay(run: Path) -> None:
    """It is refused, and told who is there."""
    with Relay(run):
        done = frameworm("relay", run)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: the run has a relay already")
    assert f"process {os.getpid()}" in done.stderr


@pytest.mark.parametrize(
    "arguments", [("relay",), ("events", "tail"), ("events", "replay", "--plugin", "x"), ("runs", "show")]
)
def test_what_is_no_run(project: Path, arguments: tuple[str, ...]) -> None:
    """One message, and no traceback."""
    (project / "folder").mkdir()
    done = frameworm(*arguments, "folder")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no run 'folder'")


@pytest.mark.parametrize("arguments", [("relay",), ("events", "tail"), ("events", "replay", "--plugin", "x")])
def test_a_newer_format(project: Path, arguments: tuple[str, ...]) -> None:
    """The versions are said."""
    run = new_run(project)
    with writing(run, v=2) as write:
        write("train_begin", epochs=1)
    done = frameworm(*arguments, run)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: the run's journal is of a newer format")
    assert "version 1 or older" in done.stderr


# events tail


def test_the_records_for_people(run: Path) -> None:
    """A line each, with its fields."""
    begin, first, *_, end = frameworm("events", "tail", run).stdout.splitlines()
    assert begin.split()[1:] == ["1", "epoch", "1", "step", "0", "train_begin", "epochs=1"]
    assert first.split()[1:] == ["2", "epoch", "1", "step", "1", "batch_end", "batch_idx=0", "loss=0.5"]
    assert end.split()[-4:] == ["train_end", "status=finished", "reason=null", "error=null"]


def test_the_records_for_programs(run: Path) -> None:
    """As JSON each is whole."""
    done = frameworm("events", "tail", "latest", "--event", "batch_end", "--json")
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(entry["seq"], entry["batch_idx"]) for entry in records] == [(2, 0), (3, 1), (4, 2)]


def test_following_to_the_end(run: Path) -> None:
    """What is written meanwhile is printed when it is; the end of the run is the end."""
    with writing(run, 2) as write:
        write("train_begin", epochs=1)
        command = ("-m", "frameworm", "events", "tail", "-f", str(run), "--event", "epoch_end")
        with start(*command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            write("epoch_end", metrics={"loss": 0.5})
            assert b'epoch_end           metrics={"loss": 0.5}' in process.stdout.readline()
            assert process.poll() is None
            write("train_end", status="finished", reason=None, error=None)
            assert process.stdout.read() == b""
    assert process.returncode == 0


def test_following_a_run_that_crashes(run: Path) -> None:
    """It ends, and says why."""
    record(run, 1, end=None, attempt=2)
    done = frameworm("events", "tail", "-f", run)
    assert done.exit_code == 0
    assert done.stderr == "the run has crashed: its process is gone\n"


def test_following_for_a_reader_that_leaves(run: Path) -> None:
    """Nobody reads, nothing is written, and yet it ends."""
    with writing(run, 2) as write:
        write("train_begin", epochs=1)
        with start("-m", "frameworm", "events", "tail", "-f", str(run), stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(6):
                process.stdout.readline()
            process.stdout.close()
            assert process.wait(20) in (0, 141)


def test_following_is_interrupted(run: Path) -> None:
    """Ctrl-C ends it as programs end."""
    with writing(run, 2) as write:
        write("train_begin", epochs=1)
        with start("-m", "frameworm", "events", "tail", "-f", str(run), stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130


def test_an_unknown_event(run: Path) -> None:
    """The nearest one is offered; one that is recorded is known, whoever has defined it."""
    done = frameworm("events", "tail", run, "--event", "batch_ends")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: unknown event 'batch_ends'")
    assert "batch_end\n" in done.stderr
    with writing(run, 2) as write:
        write("of_a_plugin", value=3)
    assert "value=3" in frameworm("events", "tail", run, "--event", "of_a_plugin").stdout


# events replay


def test_replay(run: Path, project: Path) -> None:
    """Any listener gets the run, and the run's own do not notice."""
    plan(run, listener("a", "ToFile", path=project / "a"))
    before = sorted(path.name for path in (run / "relay").iterdir())
    done = frameworm("events", "replay", run, "--plugin", f"{WHERE}:ToFile", "--set", f"path={project / 'b'}")
    assert done.exit_code == 0, done.output
    assert [line["seq"] for line in lines(project / "b")] == [2, 3, 4, 5]
    assert sorted(path.name for path in (run / "relay").iterdir()) == before
    again = frameworm(
        "events", "replay", run, "--plugin", f"{WHERE}:ToFile", "--set", f"path={project / 'c'}", "--from-seq", 4
    )
    assert again.exit_code == 0, again.output
    assert [line["seq"] for line in lines(project / "c")] == [4, 5]


def test_replay_of_a_living_run_ends(run: Path, project: Path) -> None:
    """It delivers what is there."""
    with writing(run, 2) as write:
        write("train_begin", epochs=1)
        done = frameworm("events", "replay", run, "--plugin", f"{WHERE}:ToFile", "--set", f"path={project / 'b'}")
    assert done.exit_code == 0, done.output
    assert len(lines(project / "b")) == 4


def test_replay_dry(run: Path, project: Path) -> None:
    """It only says what would come."""
    done = frameworm(
        "events", "replay", run, "--plugin", f"{WHERE}:ToFile", "--set", f"path={project / 'b'}", "--dry-run"
    )
    assert [line.split() for line in done.stdout.splitlines()[:3]] == [
        ["event", "records"],
        ["batch_end", "3"],
        ["train_end", "1"],
    ]
    assert done.stdout.splitlines()[-1].startswith("4 events would be delivered")
    assert not (project / "b").exists()


def test_replay_to_a_listener_that_fails(run: Path, project: Path) -> None:
    """What it does not take is counted, and the exit code tells."""
    options = ["--set", f"path={project / 'b'}", "--set", "at=1", "--set", "how=refuse"]
    done = frameworm("events", "replay", run, "--plugin", f"{WHERE}:Troubled", *options)
    assert done.exit_code == 1
    assert done.stdout.splitlines()[1].split()[2:4] == ["3", "1"]


def test_replay_to_nobody(run: Path) -> None:
    """The nearest name is offered, a wrong option is said."""
    done = frameworm("events", "replay", run, "--plugin", "early_stoping")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "early_stopping" in done.stderr
    done = frameworm("events", "replay", run, "--plugin", f"{WHERE}:ToFile", "--set", "pth=x")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "no option 'pth'" in done.stderr


def test_replay_to_a_plugin_by_its_name(run: Path, project: Path) -> None:
    """Where the plugin has one callback, its name will do."""
    folder = project / "frameworm_plugins" / "note_taker"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from frameworm.core import register_callback\n"
        f"from {WHERE} import ToFile\n\n\n"
        "def register():\n    register_callback('notes', ToFile)\n"
    )
    for name in ("notes", "note_taker", "note-taker"):
        done = frameworm("events", "replay", run, "--plugin", name, "--set", f"path={project / name}")
        assert done.exit_code == 0, done.output
        assert len(lines(project / name)) == 4


# runs show


def test_what_became_of_the_listeners(run: Path, project: Path) -> None:
    """Pending records, dead letters and the last error of each."""
    plan(run, listener("good", "ToFile", path=project / "a"), listener("bad", "Broken"))
    lines_before = frameworm("runs", "show", run).stdout
    assert "good: not started, 0 delivered, 5 pending, 0 dead letters\n" in lines_before
    frameworm("relay", run)
    shown = frameworm("runs", "show", run).stdout
    assert "good: ok, 4 delivered, 0 pending, 0 dead letters\n" in shown
    assert "bad: failed to start, 0 delivered, 5 pending, 0 dead letters; last error: ImportError" in shown
    facts = json.loads(frameworm("runs", "show", run, "--json").stdout)
    assert [(report["name"], report["pending"]) for report in facts["listeners"]] == [("good", 0), ("bad", 5)]
    assert facts["relay"] is None


def test_a_relay_that_is_at_work(run: Path, project: Path) -> None:
    """While it lives, it is named."""
    plan(run, listener("a", "ToFile", path=project / "a"))
    with Relay(run):
        assert json.loads(frameworm("runs", "show", run, "--json").stdout)["relay"].startswith(f"process {os.getpid()}")
