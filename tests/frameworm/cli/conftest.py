"""A project for commands to work in, whose plugins are gone when the test is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from frameworm.plugins.loader import get_plugin_loader


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in a new project, with nothing in its plugin folder; give its root."""
    (tmp_path / "frameworm_plugins").mkdir()
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    yield tmp_path
    loader = get_plugin_loader()
    for plugin in [plugin for plugin in loader.list_plugins() if plugin.state == "loaded"]:
        loader.unload(plugin.key)
    sys.path[:] = path
    sys.modules.pop("frameworm_plugins", None)
