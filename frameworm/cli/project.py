"""What is the project's, when a command is called from below its root: files, and the folder of its runs."""

from __future__ import annotations

from pathlib import Path

import click

from frameworm.plugins.project import project_root
from frameworm.terminal import printable


def _at_root(_ctx: click.Context, _option: click.Parameter, path: Path) -> Path:
    return (root_having(path) or Path()) / path


runs_folder = click.option(
    "--dir",
    "root",
    type=click.Path(path_type=Path),
    callback=_at_root,
    default="runs",
    show_default=True,
    help="Where the runs are.",
)
"""The option `--dir` of the commands about runs; it is their parameter `root`."""


def root_having(path: Path) -> Path | None:
    """The project's root, which is then told of, when `path` is there but not here."""
    if path.is_absolute() or path.exists():
        return None
    root = project_root(Path.cwd())
    if root is None or not (root / path).exists():
        return None
    click.echo(printable(f"using {path} of the project at {root}"), err=True)
    return root
