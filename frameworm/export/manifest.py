"""What an export says of itself: of which checkpoint it is, what goes in and comes out, and how well it agrees."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from frameworm.errors import UserError
from frameworm.export.forward import TensorSpec
from frameworm.training.manifest import MANIFEST, File

FORMAT = 1


class Parity(msgspec.Struct, frozen=True, kw_only=True):
    """How an export's outputs differ from the model's, over so many samples in batches of these sizes.

    `max_abs_error` is the largest difference of two numbers, which is at most `tolerance`; `max_rel_error` the largest
    in proportion to the model's number, where that is not 0.
    """

    samples: int
    batch_sizes: tuple[int, ...]
    max_abs_error: float
    max_rel_error: float
    tolerance: float


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """One format of an export: its files, by their names in the folder, and what its exporter says (`facts`)."""

    exporter: str
    files: Mapping[str, File]
    facts: Mapping[str, str | int]
    parity: Parity


class ExportManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What `manifest.json` in the folder of an export holds; `time` is UTC in ISO 8601, epochs count from 0.

    `averaged` says that the weights are the moving average of those that were trained.
    """

    format: int = FORMAT
    frameworm: str
    torch: str
    run: str
    model: str
    checkpoint: str
    epoch: int
    step: int
    averaged: bool
    time: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    formats: Mapping[str, Format]


def write_export_manifest(folder: Path, manifest: ExportManifest) -> None:
    """Write it into the folder."""
    (folder / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")


def read_export_manifest(folder: Path) -> ExportManifest:
    """Read it from the folder; raises UserError where there is none."""
    try:
        return msgspec.json.decode((folder / MANIFEST).read_bytes(), type=ExportManifest)
    except (OSError, msgspec.MsgspecError) as error:
        raise UserError(
            "that is no export", expected=f"a {MANIFEST} of one", got=str(error), where=str(folder)
        ) from error
