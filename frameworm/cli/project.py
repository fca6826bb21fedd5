"""A file of the project's, when a command is called from below its root."""

from __future__ import annotations

from pathlib import Path

import click

from frameworm.plugins.project import project_root
from frameworm.terminal import printable


def root_having(path: Path) -> Path | None:
    """The project's root, which is then told of, when `path` is there but not here."""
    if path.is_absolute() or path.exists():
        return None
    root = project_root(Path.cwd())
    if root is None or not (root / path).exists():
        return None
    click.echo(printable(f"using {path} of the project at {root}"), err=True)
    return root
