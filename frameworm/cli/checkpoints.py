"""`frameworm checkpoints`: what a run has saved, and whether it is still as it was written."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from frameworm.cli.failure import tell
from frameworm.cli.project import runs_folder
from frameworm.cli.render import metrics_text, print_json, print_table
from frameworm.errors import CheckpointError
from frameworm.runs import find
from frameworm.terminal import write_line
from frameworm.training.manifest import Checkpoint, Manifest, checkpoint_folders, list_checkpoints, verify

_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_DAMAGED = 1  # exit code


@click.group()
def checkpoints() -> None:
    """List and verify a run's checkpoints."""


@checkpoints.command("list")
@click.argument("run")
@runs_folder
@_as_json
def list_them(run: str, root: Path, *, as_json: bool) -> None:
    """List the complete checkpoints of a run, the oldest first: `latest`, its id, its folder's name, or a path."""
    folder = find(root, run).checkpoints
    found = list_checkpoints(folder)
    if as_json:
        print_json([{"path": str(path), "bytes": _size(manifest), **_plain(manifest)} for path, manifest in found])
    elif not found:
        write_line(f"no complete checkpoints in {folder}")
    else:
        print_table(("checkpoint", "epoch", "step", "size", "time", "reason", "metrics"), map(_row, found))


@checkpoints.command("verify")
@click.argument("run")
@runs_folder
@_as_json
@click.pass_context
def verify_them(ctx: click.Context, run: str, root: Path, *, as_json: bool) -> None:
    """Compare every byte of a run's checkpoints with their manifests; exit with 1 if one is damaged."""
    folder = find(root, run).checkpoints
    found = list(_verified(folder))
    sound = [path for path, trouble in found if trouble is None]
    if as_json:
        print_json(
            {
                "checkpoints": [
                    {"path": str(path), "intact": trouble is None, "error": trouble and str(trouble)}
                    for path, trouble in found
                ],
                "latest_intact": str(sound[-1]) if sound else None,
            }
        )
    elif not found:
        write_line(f"no checkpoints in {folder}")
    else:
        for path, trouble in found:
            write_line(f"{path.name}  {'intact' if trouble is None else 'DAMAGED'}")
            if trouble is not None:
                tell(trouble)
        write_line(f"the newest that is intact: {sound[-1] if sound else 'none'}")
    if len(sound) < len(found):
        ctx.exit(_DAMAGED)


def _verified(folder: Path) -> Iterator[tuple[Path, CheckpointError | None]]:
    """Yield the checkpoints, the oldest first, with what is wrong with each; what lacks its manifest is one, too."""
    for path in checkpoint_folders(folder):
        try:
            verify(path)
        except CheckpointError as error:
            yield path, error
        else:
            yield path, None


def _row(checkpoint: Checkpoint) -> tuple[str, ...]:
    path, manifest = checkpoint
    metrics = {name: math.nan if value is None else value for name, value in manifest.metrics.items()}
    return (
        path.name,
        str(manifest.epoch + 1),
        str(manifest.step),
        f"{_size(manifest) / 1e6:.1f} MB",
        manifest.time,
        manifest.reason,
        metrics_text(metrics),
    )


def _size(manifest: Manifest) -> int:
    return sum(file.size for file in manifest.files.values())


def _plain(manifest: Manifest) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(manifest)
    return fields
