"""`frameworm export`: a trained model in other formats, each compared with it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager, nullcontext
from pathlib import Path

import click
import msgspec

from frameworm import app, exporting, logs
from frameworm.cli import options
from frameworm.cli.output import others_on_stderr
from frameworm.cli.project import runs_folder
from frameworm.cli.render import print_json, print_table
from frameworm.export.manifest import ExportManifest
from frameworm.plugins.project import project_root
from frameworm.terminal import write_line


@click.command()
@click.option("--run", metavar="RUN", help="The run whose model it is.  [default: latest]")
@runs_folder
@click.option("--checkpoint", metavar="best|latest|PATH", default="best", show_default=True, help="Export this one.")
@click.option(
    "--format",
    "formats",
    metavar="NAME",
    multiple=True,
    required=True,
    help="safetensors, torch-export, onnx, a plugin's, or all: the first three (repeatable).",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where they go.  [default: exports/ in the run's folder]",
)
@click.option("--overwrite", is_flag=True, help="Replace the export that is there.")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    metavar="X",
    help="The largest error of a number.  [default: 1e-5; more in half precision]",
)
@options.plugins
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def export(
    *,
    run: str | None,
    root: Path,
    checkpoint: str,
    formats: tuple[str, ...],
    output: Path | None,
    overwrite: bool,
    tolerance: float | None,
    named: tuple[str, ...],
    no_plugins: bool,
    as_json: bool,
) -> None:
    """Write a trained model in other formats, each proven to agree with it.

    What was written is loaded again and compared with the model on all validation data, in batches of several sizes. A
    format that does not agree fails, and nothing is written. The manifest.json in the folder says what is there.
    """
    with logs.configure(), others_on_stderr(as_json), _undone_by_sigterm():
        source = exporting.source_of(run, checkpoint, root=root)
        with chdir(home) if (home := _home_of(root)) else nullcontext():
            found = exporting.export(
                source,
                formats,
                output=output and output.absolute(),
                overwrite=overwrite,
                tolerance=tolerance,
                plugins=app.selected(source.config, named=named, none=no_plugins),
            )
    if as_json:
        print_json({"path": str(found.path), **msgspec.to_builtins(found.manifest)})
        return
    about = found.manifest
    write_line(f"{about.model}, epoch {about.epoch + 1}, step {about.step}: {output or found.path}")
    print_table(("format", "file", "bytes", "error"), _rows(found.manifest))


@contextmanager
def _undone_by_sigterm() -> Iterator[None]:
    """End as Ctrl-C does at a SIGTERM: whatever has been written is removed on the way out."""
    before = signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _home_of(root: Path) -> Path | None:
    """Return the project's root where the runs were found there, to which all paths in their configs are relative."""
    home = project_root(Path.cwd())
    return home if home is not None and root.is_absolute() and root.is_relative_to(home) else None


def _rows(about: ExportManifest) -> Iterator[tuple[str, str, str, str]]:
    for name, made in about.formats.items():
        for file, measured in made.files.items():
            yield name, file, str(measured.size), f"{made.parity.max_abs_error:.2g}"
