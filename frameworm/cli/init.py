"""`frameworm init`: a config to start from."""

from __future__ import annotations

from pathlib import Path

import click

from frameworm import config
from frameworm.errors import UserError
from frameworm.terminal import printable


@click.command()
@click.argument("path", type=click.Path(path_type=Path), default="config.yaml")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def init(path: Path, *, force: bool) -> None:
    """Write a commented config that trains on real data.

    PATH is the file, or the folder to write config.yaml into.
    """
    file = path / "config.yaml" if path.is_dir() or not path.suffix else path
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w" if force else "x", encoding="utf-8") as stream:
            stream.write(config.template())
    except OSError as error:
        if file.is_file() and not force:
            raise UserError(f"{file} is there already", hint="--force to replace it, or another path") from error
        raise UserError(f"{file} cannot be written", got=error.strerror) from error
    click.echo(printable(f"wrote {file}\ntrain with: frameworm train --config {file}"))
