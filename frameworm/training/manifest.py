"""What a checkpoint directory says of itself, so that a damaged or unfinished one is never taken for a good one.

    checkpoints/step-00000115/      complete, or it would not have this name
        model.safetensors           the weights
        state.safetensors           the tensors of everything else
        state.pt                    everything else, in plain containers; format 1 had the tensors in it as well
        sharded/                    of a model that several processes share: those parts of all that each has, by
                                    torch.distributed.checkpoint, in safetensors
        manifest.json               what this module reads and writes; sealed with a digest of its own content
    checkpoints/.tmp-...            being written, or left behind by a writer that was killed

Nothing here needs torch: listing checkpoints is cheap and safe for any process.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from frameworm.errors import CheckpointError, CorruptCheckpointError, nearest

FORMAT = 2
MANIFEST = "manifest.json"
_NAME = re.compile(r"step-(\d{8,})(?:\.(\d+))?")


class File(msgspec.Struct, frozen=True):
    """One file of a checkpoint: its size in bytes and the sha256 of its content, in hex."""

    size: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.size} bytes, sha256 {self.sha256[:12]}…"


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a checkpoint is and of what; `time` is UTC in ISO 8601, a metric that was not finite is None."""

    format: int = FORMAT
    frameworm: str
    run: str
    model: str
    epoch: int
    step: int
    time: str
    reason: str
    metrics: Mapping[str, float | None]
    files: Mapping[str, File]


class Checkpoint(NamedTuple):
    """A complete checkpoint: its directory and its manifest."""

    path: Path
    manifest: Manifest


def measure(file: Path) -> File:
    """Size and hash of `file` as it is now."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return File(os.fstat(stream.fileno()).st_size, digest)


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write `manifest` into `directory`."""
    (directory / MANIFEST).write_bytes(_seal(msgspec.to_builtins(manifest)))


def read_manifest(directory: Path) -> Manifest:
    """The manifest of the checkpoint at `directory`.

    Raises CorruptCheckpointError when it is not as it was written, CheckpointError when a newer version wrote it.
    """
    try:
        raw = (directory / MANIFEST).read_bytes()
        content = msgspec.json.decode(raw, type=dict[str, Any])
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        raise _corrupt(directory, MANIFEST, expected="a manifest", got=str(error)) from error
    content.pop("digest", None)
    if _seal(content) != raw:
        raise _corrupt(directory, MANIFEST, expected="the digest that it carries", got="another")
    if content.get("format") not in range(1, FORMAT + 1):
        raise CheckpointError(
            f"the checkpoint has format {content.get('format')}",
            where=str(directory),
            expected=f"format {FORMAT}, or an earlier one",
            hint=f"FRAMEWORM {content.get('frameworm')}, which wrote it",
        )
    try:
        return msgspec.convert(content, Manifest)
    except msgspec.ValidationError as error:
        raise _corrupt(directory, MANIFEST, expected="a manifest", got=str(error)) from error


def _seal(content: dict[str, Any]) -> bytes:
    """The one text for `content`: with its digest, so that any other byte in it shows, in formats to come as well."""
    digest = hashlib.sha256(msgspec.json.encode(content)).hexdigest()
    return msgspec.json.format(msgspec.json.encode({**content, "digest": digest}), indent=2) + b"\n"


def verify(directory: Path) -> Manifest:
    """The manifest of the checkpoint at `directory`, after every byte of every file has been compared with it.

    Raises CorruptCheckpointError, which offers the complete checkpoint before this one, if there is one.
    """
    manifest = read_manifest(directory)
    for name, expected in manifest.files.items():
        try:
            got = measure(directory / name)
        except OSError as error:
            raise _corrupt(directory, name, expected=str(expected), got=str(error)) from error
        if got != expected:
            raise _corrupt(directory, name, expected=str(expected), got=str(got))
    return manifest


def _corrupt(directory: Path, file: str, *, expected: str, got: str) -> CorruptCheckpointError:
    return CorruptCheckpointError(str(directory), file, expected=expected, got=got)


def list_checkpoints(root: Path) -> tuple[Checkpoint, ...]:
    """The complete checkpoints in `root`, oldest first: manifest intact, files there and of the right size.

    Contents are not hashed here, `verify` does that. Raises CheckpointError when a newer version wrote one of them.
    """
    complete = []
    for path in checkpoint_folders(root):
        try:
            manifest = read_manifest(path)
            if all((path / name).stat().st_size == file.size for name, file in manifest.files.items()):
                complete.append(Checkpoint(path, manifest))
        except (CorruptCheckpointError, OSError):
            continue
    return tuple(complete)


def checkpoint_folders(root: Path) -> list[Path]:
    """What has the name of a checkpoint in `root`, damaged or not, oldest first."""
    places = [place for path in root.glob("step-*") if (place := _place(path)) is not None]
    return [path for *_, path in sorted(places)]


def _place(path: Path) -> tuple[int, int, Path] | None:
    match = _NAME.fullmatch(path.name)
    return (int(match[1]), int(match[2] or 0), path) if match else None


def path_for(root: Path, step: int) -> Path:
    """Where the next checkpoint of `step` goes: `step-00000115`, then `step-00000115.1` and so on.

    A second checkpoint of a step stands beside the first until it is durable, and counts as the newer one.
    """
    path, revision = root / f"step-{step:08d}", 0
    while path.exists():
        revision += 1
        path = root / f"step-{step:08d}.{revision}"
    return path


def find_checkpoint(path: Path) -> Path:
    """The checkpoint directory that `path` means: itself, the one of a file in it, or the latest of a run.

    Raises CheckpointError when there is none, and says what is near.
    """
    for directory in (path, path.parent):
        if path.exists() and (_NAME.fullmatch(directory.name) or (directory / MANIFEST).exists()):
            return directory
    for root in (path / "checkpoints", path):
        if complete := list_checkpoints(root):
            return complete[-1].path
    if path.exists():
        raise CheckpointError(
            "no complete checkpoint there",
            where=str(path),
            expected="a run directory, its checkpoints directory, or one of the step-... in it",
        )
    siblings = sorted(entry.name for entry in path.parent.glob("[!.]*")) if path.parent.is_dir() else []
    raise CheckpointError(
        "no such checkpoint",
        where=str(path),
        expected=f"one of {', '.join(siblings[-8:])} in {path.parent}" if siblings else None,
        hint=nearest(path.name, siblings),
    )
