"""Where the project is, when a command is called from below its root."""

from __future__ import annotations

from pathlib import Path

import click

from frameworm.terminal import printable

PLUGINS = "frameworm_plugins"


def project_root(start: Path) -> Path | None:
    """The nearest of `start` and its ancestors that has a plugin folder, or the parent of the one they are in.

    The search ends at the home directory, at the file system's root and where the owner changes.
    """
    owner = start.stat().st_uid
    for folder in (start, *start.parents):
        if folder.stat().st_uid != owner:
            return None
        if folder.name == PLUGINS:
            return folder.parent
        if (folder / PLUGINS).is_dir():
            return folder
        if folder == Path.home():
            return None
    return None


def root_having(path: Path) -> Path | None:
    """The project's root, which is then told of, when `path` is there but not here."""
    if path.is_absolute() or path.exists():
        return None
    root = project_root(Path.cwd())
    if root is None or not (root / path).exists():
        return None
    click.echo(printable(f"using {path} of the project at {root}"), err=True)
    return root
