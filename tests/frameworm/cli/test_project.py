"""Commands work from below the project's root."""

from __future__ import annotations

from pathlib import Path

import pytest

from frameworm.cli.project import project_root, root_having


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a plugin and a config; the current folder is the plugin's."""
    plugin = tmp_path / "project" / "frameworm_plugins" / "mine"
    plugin.mkdir(parents=True)
    (tmp_path / "project" / "config.yaml").touch()
    (tmp_path / "project" / "src" / "deep").mkdir(parents=True)
    monkeypatch.chdir(plugin)
    return tmp_path / "project"


@pytest.mark.parametrize("below", [".", "src/deep", "frameworm_plugins", "frameworm_plugins/mine"])
def test_the_nearest_root(root: Path, below: str) -> None:
    """The root is the nearest ancestor that has the plugins' folder, also from inside that folder."""
    assert project_root(root / below) == root


def test_the_search_ends_at_home(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies above the home directory is not looked at, the home directory is."""
    monkeypatch.setenv("HOME", str(root / "src"))
    assert project_root(root / "src" / "deep") is None
    monkeypatch.setenv("HOME", str(root))
    assert project_root(root / "src" / "deep") == root


def test_no_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no project there is no root."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert project_root(tmp_path) is None


def test_what_is_at_the_root_is_used(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is not here but at the root is found there, and that is said on stderr."""
    assert root_having(Path("config.yaml")) == root
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"using config.yaml of the project at {root}\n")


def test_what_is_here_wins(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For what is here, for what is nowhere and for a full path the root does not matter."""
    Path("config.yaml").touch()
    for path in (Path("config.yaml"), Path("other.yaml"), root / "config.yaml"):
        assert root_having(path) is None
    assert capsys.readouterr().err == ""
