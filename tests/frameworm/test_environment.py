"""The record of where a run ran: true, complete, without secrets, made quickly and without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from frameworm.environment import environment, git_state, redact_command


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository with one committed file."""
    (tmp_path / "file").write_text("a")
    run_git(tmp_path, "init", "-q", "-b", "main")
    run_git(tmp_path, "add", "file")
    run_git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def run_git(directory: Path, *arguments: str) -> str:
    """Run git, away from the settings of whoever runs the tests."""
    identity = {
        f"GIT_{role}_{what}": "test@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    settings = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    return subprocess.run(
        ["git", *arguments],
        cwd=directory,
        env=os.environ | identity | settings,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


def test_the_environment_is_written_as_json(tmp_path: Path) -> None:
    """What was found can be read back by anyone."""
    found = environment(accelerators=["NVIDIA H100"])
    found.write(tmp_path / "environment.json")
    stored = json.loads((tmp_path / "environment.json").read_text("utf-8"))
    assert stored["python"] == sys.version.split()[0]
    assert stored["command"] == redact_command(sys.orig_argv)
    assert stored["directory"] == str(Path.cwd())
    assert stored["packages"]["torch"] == version("torch")
    assert stored["packages"]["msgspec"] == version("msgspec")
    assert stored["hardware"]["accelerators"] == ["NVIDIA H100"]
    assert stored["hardware"]["cpus"] >= 1
    assert stored["hardware"]["memory"] > 1 << 20


def test_torch_is_not_imported(tmp_path: Path) -> None:
    """Two seconds are not spent to learn a version number."""
    code = "import sys; from frameworm.environment import environment; environment(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=tmp_path, timeout=30).returncode == 0


def test_the_state_of_the_working_tree_is_recorded(repository: Path) -> None:
    """Commit and branch, and whether what runs is what was committed; a file of results makes nothing dirty."""
    clean = git_state(repository)
    assert clean is not None
    assert (clean.commit, clean.branch, clean.dirty) == (run_git(repository, "rev-parse", "HEAD"), "main", False)
    (repository / "results").touch()
    assert git_state(repository) == clean
    (repository / "file").write_text("b")
    dirty = git_state(repository)
    assert dirty is not None
    assert dirty.dirty
    run_git(repository, "checkout", "-q", "--detach")
    detached = git_state(repository)
    assert detached is not None
    assert detached.branch is None


def test_a_repository_without_commits_has_none(tmp_path: Path) -> None:
    """The very first run of a project is no error."""
    run_git(tmp_path, "init", "-q", "-b", "main")
    state = git_state(tmp_path)
    assert state is not None
    assert (state.commit, state.branch) == (None, "main")


def test_without_git_there_is_no_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a folder outside any repository nor a machine without git is an error."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path) is None
    monkeypatch.setenv("PATH", "")
    assert git_state(tmp_path) is None


@pytest.mark.parametrize(
    ("word", "stored"),
    [
        ("model.name=cnn", "model.name=cnn"),
        ("tracker.api_key=s3cret=", "tracker.api_key=***"),
        ("--set=tracker.api_key=s3cret", "--set=tracker.api_key=***"),
        ("--token=s3cret", "--token=***"),
        (
            "callbacks=[{wandb: {api_key: s3cret, project: digits}}]",
            "callbacks=[{wandb: {api_key: ***, project: digits}}]",
        ),
        ('tracker={"password": "a, s3cret"}', 'tracker={"password": ***}'),
        ("uri=http://me:s3cret@host/", "uri=http://me:***@host/"),
        ("trainer.epochs=3", "trainer.epochs=3"),
    ],
)
def test_secrets_in_the_command_are_left_out(word: str, stored: str) -> None:
    """However a secret is passed in a word, the rest of the word stays readable."""
    assert redact_command(["frameworm", "train", word]) == ["frameworm", "train", stored]


def test_the_word_behind_a_secret_option_is_left_out() -> None:
    """An option and its value may be two words."""
    command = ["train.py", "--wandb-api-key", "s3cret", "--epochs", "3"]
    assert redact_command(command) == ["train.py", "--wandb-api-key", "***", "--epochs", "3"]
