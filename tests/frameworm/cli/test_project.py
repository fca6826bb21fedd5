"""Commands work from below the project's root."""

from __future__ import annotations

from pathlib import Path

import pytest

from frameworm.cli.project import root_having


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a plugin and a config; the current folder is the plugin's."""
    plugin = tmp_path / "project" / "frameworm_plugins" / "mine"
    plugin.mkdir(parents=True)
    (tmp_path / "project" / "config.yaml").touch()
    (tmp_path / "project" / "src" / "deep").mkdir(parents=True)
    monkeypatch.chdir(plugin)
    return tmp_path / "project"


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
