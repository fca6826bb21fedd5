"""The checkpoints of one run on the disk: each is durable and verified or it is not there, and enough of them stay."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from frameworm.errors import CheckpointError
from frameworm.training.manifest import Checkpoint, File, Manifest, list_checkpoints, measure, path_for, write_manifest

log = logging.getLogger("frameworm")

Content = Iterable[bytes | memoryview]
"""What a file is to hold, piece by piece."""

_TEMPORARY = ".tmp-"
_PIECE = 2**20  # bytes, which are hashed while they are in the caches for being written
_LARGER_IS_BETTER = re.compile(
    r"(^|[^a-z])(accuracy|acc|score|auc|auroc|f1|precision|recall|iou|dice|map|psnr|ssim|bleu|rouge|r2|reward)$",
    re.IGNORECASE,
)


def direction(metric: str, mode: Literal["auto", "min", "max"] = "auto") -> Literal["min", "max"]:
    """Whether a small or a large `metric` is good; `auto` goes by the last word of its name, as in `val_accuracy`."""
    if mode != "auto":
        return mode
    return "max" if _LARGER_IS_BETTER.search(metric) else "min"


class CheckpointStore:
    """The checkpoints of one run in the directory `root`, written by one process at a time, read by any.

    After each that is written the newest `keep` (at least two) stay, and the `keep_best` best by the metric `monitor`;
    the others go. No checkpoint is touched before its successor is on the disk. With `background` a trainer has them
    written by another process.
    """

    def __init__(
        self,
        root: Path,
        *,
        keep: int = 2,
        keep_best: int = 1,
        monitor: str | None,
        mode: Literal["auto", "min", "max"] = "auto",
        background: bool = False,
    ) -> None:
        self.root = root
        self.keep = max(2, keep)
        self.keep_best = keep_best
        self.monitor = monitor
        self.mode = mode
        self.background = background

    def path_for(self, step: int) -> Path:
        """Where the next `write` of `step` will put it: a step that is saved again gets a directory of its own."""
        return path_for(self.root, step)

    def list(self) -> tuple[Checkpoint, ...]:
        """The complete checkpoints, oldest first."""
        return list_checkpoints(self.root)

    def latest(self) -> Checkpoint | None:
        """The newest complete checkpoint."""
        return next(reversed(self.list()), None)

    def best(self) -> Checkpoint | None:
        """The complete checkpoint with the best recorded `monitor`, the oldest of equals; one without it never is."""
        return next(iter(self._ranked(self.list())), None)

    def _ranked(self, checkpoints: Iterable[Checkpoint]) -> tuple[Checkpoint, ...]:
        """Those of `checkpoints` that have the metric, the best first."""
        scored = [
            (score, checkpoint)
            for checkpoint in checkpoints
            if (score := checkpoint.manifest.metrics.get(self.monitor or "")) is not None
        ]
        sign = -1 if self.monitor is not None and direction(self.monitor, self.mode) == "max" else 1
        return tuple(checkpoint for _, checkpoint in sorted(scored, key=lambda pair: sign * pair[0]))

    def check_space(self, size: int) -> None:
        """Raise CheckpointError unless as many checkpoints of `size` bytes as will be kept fit on the disk."""
        count = max(1, self.keep + self.keep_best + 1 - len(self.list()))  # an old one goes when the new one is there
        free = self._free()
        if free < count * size:
            raise CheckpointError(
                "not enough room for checkpoints",
                where=str(self.root),
                expected=f"{count * size / 1e6:.1f} MB, for {count} of {size / 1e6:.1f} MB",
                got=f"{free / 1e6:.1f} MB free",
                hint="run.dir on another disk, fewer checkpoint.keep, or frameworm runs prune",
            )

    def _free(self) -> int:
        existing = next(path for path in (self.root.absolute(), *self.root.absolute().parents) if path.exists())
        return shutil.disk_usage(existing).free

    def write(
        self, manifest: Manifest, files: Mapping[str, Content], others: Callable[[Path], None] | None = None
    ) -> Path:
        """Write a checkpoint of these `files`, which the `manifest` will list, and return its directory once durable.

        `others` puts further files, or folders of them, into the directory that it is given.
        Raises CheckpointError when the disk does not take it; then the earlier checkpoints are as they were, and
        nothing of this one is left.
        """
        final = self.path_for(manifest.step)
        temporary = self.root / f"{_TEMPORARY}{final.name}"
        try:
            self.make_root()
            self._sweep()
            temporary.mkdir()
            if others is not None:
                others(temporary)
            found = [path for path in temporary.rglob("*") if path.is_file()]
            given = {str(path.relative_to(temporary)): measure(path) for path in found}
            written = {name: _write(temporary / name, content) for name, content in files.items()}
            write_manifest(temporary, msgspec.structs.replace(manifest, files={**written, **given}))
            for path in (*temporary.rglob("*"), temporary):
                fsync(path)
            temporary.rename(final)
            fsync(self.root)
            self._retire()
        except BaseException as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if isinstance(error, OSError):
                raise self._refused(final, error) from error
            raise
        return final

    def _refused(self, path: Path, error: OSError) -> CheckpointError:
        return CheckpointError(
            f"the checkpoint {path.name} could not be written",
            where=str(path),
            got=str(error),
            hint=f"room to write ({self._free() / 1e6:.1f} MB are free), or another run.dir",
        )

    def make_root(self) -> None:
        """Make the directory, if it is not there. Raises OSError."""
        if not self.root.exists():
            self.root.mkdir(parents=True)
            fsync(self.root.parent)

    def _sweep(self) -> None:
        for leftover in self.root.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(leftover)

    def _retire(self) -> None:
        complete = self.list()
        newest = {checkpoint.manifest.step: checkpoint.path for checkpoint in complete}
        kept = set(list(newest.values())[-self.keep :])
        kept |= {checkpoint.path for checkpoint in self._ranked(complete)[: self.keep_best]}
        for checkpoint in complete:
            if checkpoint.path not in kept:
                # Renamed first: one that is half deleted must not look like a checkpoint.
                doomed = checkpoint.path.rename(self.root / f"{_TEMPORARY}{checkpoint.path.name}")
                shutil.rmtree(doomed, ignore_errors=True)  # what is left of it, the next save removes or complains of


def lock(root: Path) -> int:
    """Wait until no writer is at work on the checkpoints in `root`, and return a descriptor that keeps others waiting.

    It does so until it is closed, in every process that has inherited it: a writer that outlives the run that it writes
    for. Where a file system has no locks, nobody waits.
    """
    descriptor = os.open(root, os.O_RDONLY)
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def wait_for_writer(root: Path) -> None:
    """Wait until a writer that has outlived its run has written what it was given to `root`."""
    if root.exists():
        log.debug("waiting for whoever still writes to %s", root)
        os.close(lock(root))


def _write(file: Path, content: Content) -> File:
    """Write a file, and return what its manifest says of it."""
    digest, size = hashlib.sha256(), 0
    with file.open("xb") as stream:
        for part in content:
            view = memoryview(part).cast("B")
            for begin in range(0, len(view), _PIECE):
                piece = view[begin : begin + _PIECE]
                stream.write(piece)
                digest.update(piece)
            size += len(view)
    return File(size, digest.hexdigest())


def fsync(path: Path) -> None:
    """Have a file or a folder on the disk when this returns. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
