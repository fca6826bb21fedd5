"""A project to put plugins into, whose plugins are gone when the test is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from frameworm.plugins.loader import PluginLoader
from frameworm.testing import isolated_plugins

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a plugin into the project: its folder, `__init__.py`, manifest and other files."""

    def write(folder: str, code: str = "", manifest: str | None = None, **files: str) -> Path:
        path = tmp_path / "frameworm_plugins" / folder
        path.mkdir(parents=True, exist_ok=True)
        (path / "__init__.py").write_text(dedent(code), encoding="utf-8")
        if manifest is not None:
            (path / "plugin.yaml").write_text(f"name: {folder}\n{dedent(manifest)}", encoding="utf-8")
        for name, text in files.items():
            (path / f"{name}.py").write_text(dedent(text), encoding="utf-8")
        return path

    return write


@pytest.fixture
def loader(tmp_path: Path, write: Write) -> Iterator[PluginLoader]:
    """Return a loader of the project in `tmp_path`; at the end it is empty, and nothing of it can be imported."""
    (tmp_path / "frameworm_plugins").mkdir(exist_ok=True)
    with isolated_plugins(tmp_path) as loader:
        yield loader
