"""The project's root, and whether the code there may be run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from frameworm.plugins.project import distrust, project_root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with a plugin."""
    plugin = tmp_path / "project" / "frameworm_plugins" / "mine"
    plugin.mkdir(parents=True)
    (tmp_path / "project" / "src" / "deep").mkdir(parents=True)
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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_the_search_ends_where_the_owner_changes(root: Path) -> None:
    """What another user has put above is not theirs who are below."""
    below = root / "src" / "deep"
    os.chown(below, 12345, -1)
    assert project_root(below) is None
    os.chown(root / "src", 12345, -1)
    assert project_root(below) is None
    os.chown(root, 12345, -1)
    assert project_root(below) == root


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_the_search_ends_where_the_user_may_not_look(root: Path) -> None:
    """As in a folder into which one was brought by `sudo -u`."""
    root.chmod(0o700)
    os.seteuid(12345)
    try:
        assert project_root(root / "src") is None
    finally:
        os.seteuid(0)


def test_no_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no project there is no root."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert project_root(tmp_path) is None


def test_what_everybody_can_write_to_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason names the folder; who trusts all the same names it, or one above it."""
    folder = tmp_path / "open"
    folder.mkdir()
    assert distrust(folder) is None
    folder.chmod(0o777)
    assert distrust(folder) == f"{folder} can be written to by everyone"
    monkeypatch.setenv("FRAMEWORM_TRUST", f"/nowhere{os.pathsep}{tmp_path}")
    assert distrust(folder) is None


def test_what_belongs_to_others_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One's own code and root's are; another user's is not."""
    owner = tmp_path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert (distrust(tmp_path) is None) == (owner == 0)
    monkeypatch.setattr(os, "geteuid", lambda: owner)
    assert distrust(tmp_path) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_root_does_not_trust_a_users_folder(tmp_path: Path) -> None:
    """A project that was given to another user is refused."""
    os.chown(tmp_path, 12345, -1)
    assert distrust(tmp_path) == f"{tmp_path} belongs to another user (uid 12345)"
