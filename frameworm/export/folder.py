"""The folder of an export, which is whole or not there."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from frameworm.errors import UserError
from frameworm.export.manifest import read_export_manifest
from frameworm.training.manifest import MANIFEST
from frameworm.training.store import fsync

CONFIG = "config.yaml"
"""The config of the run, from which the model is made anew."""


def check_folder(path: Path, *, overwrite: bool) -> None:
    """Raise UserError unless an export may go to `path`: a new folder, an empty one, or with `overwrite` an export's.

    The folder of an export in which there is something else is not given up.
    """
    try:
        there = sorted(path.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        raise _refused(path, error) from error
    if not there:
        return
    if not (path / MANIFEST).exists():
        raise UserError("the folder holds something else", expected="a new or an empty folder", where=str(path))
    if not overwrite:
        hint = "--overwrite, or another folder: -o DIR"
        raise UserError("there is an export already", where=str(path), hint=hint)
    formats = read_export_manifest(path).formats
    own = {MANIFEST, CONFIG, *(f"{name}" for found in formats.values() for name in found.files)}
    others = [str(file.relative_to(path)) for file in path.rglob("*") if not file.is_dir()]
    if strange := sorted(set(others) - own):
        got = ", ".join(strange[:3])
        raise UserError(
            "the folder holds more than the export", got=got, where=str(path), hint="another folder: -o DIR"
        )


@contextmanager
def whole_folder(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give an empty folder that is `path` once the block is done; when it raises, everything is as it was.

    An export that is replaced goes when the new one is complete and on the disk. Raises UserError as
    `check_folder` does, and where nothing can be written.
    """
    path = path.absolute()
    check_folder(path, overwrite=overwrite)
    parent = next(folder for folder in path.parents if folder.exists())
    try:
        staging = Path(tempfile.mkdtemp(prefix=".export-", dir=parent))  # on the disk that it will be on
    except OSError as error:
        raise _refused(path, error) from error
    try:
        made = staging / "new"
        made.mkdir()
        yield made
        for file in (*made.rglob("*"), made):
            fsync(file)
        check_folder(path, overwrite=overwrite)  # it took a while
        _put(made, path, staging / "old")
    except OSError as error:
        raise _refused(path, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _put(made: Path, path: Path, aside: Path) -> None:
    """Rename the folder, what was there put aside, and back again where that fails."""
    missing = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.rename(aside)
        made.rename(path)
    except OSError:
        if aside.exists():
            aside.rename(path)
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()
        raise
    fsync(path.parent)


def _refused(path: Path, error: OSError) -> UserError:
    return UserError(
        "the export cannot be written",
        got=str(error),
        where=str(path),
        hint="a folder that can be written: -o DIR",
    )
