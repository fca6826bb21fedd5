"""A project for commands to work in, whose plugins are gone when the test is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from frameworm.testing import isolated_plugins


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in a new project, with nothing in its plugin folder; give its root."""
    (tmp_path / "frameworm_plugins").mkdir()
    monkeypatch.chdir(tmp_path)
    with isolated_plugins():
        yield tmp_path
