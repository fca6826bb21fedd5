"""Checkpoints that survive: each is durable and verified or it is not there, and reading one cannot run its code."""

from __future__ import annotations

import math
import os
import re
import shutil
from collections import Counter, OrderedDict
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import NoneType
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from frameworm.errors import CheckpointError, CorruptCheckpointError
from frameworm.training.manifest import (
    Checkpoint,
    Manifest,
    find_checkpoint,
    list_checkpoints,
    measure,
    path_for,
    verify,
    write_manifest,
)

WEIGHTS = "model.safetensors"
STATE = "state.pt"
_TEMPORARY = ".tmp-"
_REFUSALS = (OSError, RuntimeError, KeyError, ValueError, SafetensorError)  # by disk, torch or safetensors
_LARGER_IS_BETTER = re.compile(
    r"(^|[^a-z])(accuracy|acc|score|auc|auroc|f1|precision|recall|iou|dice|map|psnr|ssim|bleu|rouge|r2|reward)$",
    re.IGNORECASE,
)
_MAPPINGS = (dict, OrderedDict, Counter)
_SEQUENCES = (list, tuple, set, torch.Size)
_VALUES = (NoneType, bool, float, complex, str, torch.dtype, torch.device)
_INT_BITS = 2040  # longer ones are pickled in a way that torch's restricted reader does not know


def direction(metric: str, mode: Literal["auto", "min", "max"] = "auto") -> Literal["min", "max"]:
    """Whether a small or a large `metric` is good; `auto` goes by the last word of its name, as in `val_accuracy`."""
    if mode != "auto":
        return mode
    return "max" if _LARGER_IS_BETTER.search(metric) else "min"


class CheckpointStore:
    """The checkpoints of one run in the directory `root`, written by one process at a time, read by any.

    After each save the newest `keep` (at least two) and the best by the metric `monitor` stay, the others go; no
    checkpoint is touched before its successor is on the disk.
    """

    def __init__(
        self, root: Path, *, keep: int = 2, monitor: str | None, mode: Literal["auto", "min", "max"] = "auto"
    ) -> None:
        self.root = root
        self._keep = max(2, keep)
        self._monitor = monitor
        self._best = min if monitor is None or direction(monitor, mode) == "min" else max

    def path_for(self, step: int) -> Path:
        """Where the next `save` of `step` will put it: a step that is saved again gets a directory of its own."""
        return path_for(self.root, step)

    def list(self) -> tuple[Checkpoint, ...]:
        """The complete checkpoints, oldest first."""
        return list_checkpoints(self.root)

    def latest(self) -> Checkpoint | None:
        """The newest complete checkpoint."""
        return next(reversed(self.list()), None)

    def best(self) -> Checkpoint | None:
        """The complete checkpoint with the best recorded `monitor`, the oldest of equals; one without it never is."""
        scored = [
            (score, checkpoint)
            for checkpoint in self.list()
            if (score := checkpoint.manifest.metrics.get(self._monitor or "")) is not None
        ]
        return self._best(scored, key=lambda pair: pair[0])[1] if scored else None

    def check_space(self, needed: int) -> None:
        """Raise CheckpointError unless `needed` bytes fit on the disk that holds the checkpoints."""
        free = self._free()
        if free < needed:
            raise CheckpointError(
                "not enough room for checkpoints",
                where=str(self.root),
                expected=f"{needed / 1e6:.1f} MB",
                got=f"{free / 1e6:.1f} MB free",
                hint="run.dir on another disk, or frameworm runs prune",
            )

    def _free(self) -> int:
        existing = next(path for path in (self.root.absolute(), *self.root.absolute().parents) if path.exists())
        return shutil.disk_usage(existing).free

    def save(
        self,
        *,
        model: nn.Module,
        state: Mapping[str, Any],
        run: str,
        model_name: str,
        epoch: int,
        step: int,
        metrics: Mapping[str, float],
        reason: str,
    ) -> Path:
        """Write a checkpoint and return its directory once it is durable.

        `state` is what `load` gives back: plain containers, numbers, text and tensors. `metrics` are those of these
        very weights. Raises CheckpointError when `state` holds anything else (it names the key) and when the disk
        does not take it; then the earlier checkpoints are as they were, and nothing of this one is left.
        """
        weights, aliases, extra = _weights(model)
        _require_plain(extra, "model")
        _require_plain(dict(state), "state")
        final = self.path_for(step)
        temporary = self.root / f"{_TEMPORARY}{final.name}"
        try:
            self._prepare(temporary)
            save_file(weights, temporary / WEIGHTS, metadata=aliases)
            with (temporary / STATE).open("wb") as stream:
                torch.save({"model": extra, "state": dict(state)}, stream)
            manifest = Manifest(
                frameworm=version("frameworm"),
                run=run,
                model=model_name,
                epoch=epoch,
                step=step,
                time=datetime.now(UTC).isoformat(timespec="seconds"),
                reason=reason,
                metrics={name: float(value) if math.isfinite(value) else None for name, value in metrics.items()},
                files={name: measure(temporary / name) for name in (WEIGHTS, STATE)},
            )
            write_manifest(temporary, manifest)
            for path in (*temporary.iterdir(), temporary):
                _fsync(path)
            temporary.rename(final)
            _fsync(self.root)
        except BaseException as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if isinstance(error, _REFUSALS):
                raise self._refused(final, error) from error
            raise
        self._retire()
        return final

    def _refused(self, path: Path, error: Exception) -> CheckpointError:
        behind = error.__context__  # torch hides the disk's error behind one of its own
        cause = behind if type(error) is RuntimeError and isinstance(behind, OSError) else error
        return CheckpointError(
            f"the checkpoint {path.name} could not be written",
            where=str(path),
            got=str(cause),
            hint=f"room to write ({self._free() / 1e6:.1f} MB are free), or another run.dir",
        )

    def _prepare(self, temporary: Path) -> None:
        if not self.root.exists():
            self.root.mkdir(parents=True)
            _fsync(self.root.parent)
        for leftover in self.root.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(leftover)
        temporary.mkdir()

    def _retire(self) -> None:
        complete = self.list()
        newest = {checkpoint.manifest.step: checkpoint.path for checkpoint in complete}
        kept = set(list(newest.values())[-self._keep :])
        if (best := self.best()) is not None:
            kept.add(best.path)
        for checkpoint in complete:
            if checkpoint.path not in kept:
                # Renamed first: one that is half deleted must not look like a checkpoint.
                doomed = checkpoint.path.rename(self.root / f"{_TEMPORARY}{checkpoint.path.name}")
                shutil.rmtree(doomed, ignore_errors=True)  # what is left of it, the next save removes or complains of


def load(path: Path, model: nn.Module, *, model_name: str | None = None) -> dict[str, Any]:
    """Load the weights at `path` into `model` and return the `state` they were saved with, its tensors on the CPU.

    `path` is a checkpoint, a file in one, or a run (its latest). Everything is verified before `model` is touched.
    Raises CorruptCheckpointError, or CheckpointError when it is missing, of another model or of a newer version.
    """
    directory = find_checkpoint(path)
    try:
        manifest = verify(directory)
    except CorruptCheckpointError as error:
        earlier = [other.path for other in list_checkpoints(directory.parent) if other.path.name < directory.name]
        if earlier:
            error.hint = f"the one before it: {earlier[-1]}"
        raise
    try:
        stored = torch.load(directory / STATE, map_location="cpu", weights_only=True)
        state, weights = stored["state"], {**read_weights(directory / WEIGHTS), **stored["model"]}
    except Exception as error:
        raise CheckpointError(
            "the checkpoint holds more than plain values, or not what a checkpoint holds",
            where=str(directory),
            got=str(error).partition("\n")[0],
            hint="one that FRAMEWORM wrote",
        ) from error
    if difference := _difference(model.state_dict(), weights):
        raise CheckpointError(
            "the checkpoint is of another model",
            where=str(directory),
            expected=f"the weights of {model_name or type(model).__name__}",
            got=f"those of {manifest.model}: {difference}",
            hint="the model section of that run's config.yaml",
        )
    model.load_state_dict(weights)
    return dict(state)


def _weights(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str], dict[str, Any]]:
    """What a model is: its tensors, each once; the other names of tied ones; and what `get_extra_state` adds."""
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    extra: dict[str, Any] = {}
    names: dict[Any, str] = {}
    storages = set()
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            extra[name] = value
            continue
        first = names.setdefault((value.data_ptr(), value.device, value.dtype, value.shape, value.stride()), name)
        if first != name:
            aliases[name] = first
            continue
        storage = value.untyped_storage().data_ptr()
        # safetensors refuses two tensors in one storage: other views of what is written already become copies.
        tensors[name] = (value.clone() if storage in storages else value).contiguous()
        storages.add(storage)
    return tensors, aliases, extra


def read_weights(file: Path) -> dict[str, Tensor]:
    """The weights in a file of safetensors, by name; tied ones are one tensor under several names.

    Raises CheckpointError when it is none.
    """
    try:
        with safe_open(file, framework="pt") as stored:
            weights = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  it is no mapping
            return weights | {name: weights[first] for name, first in (stored.metadata() or {}).items()}
    except (OSError, KeyError, SafetensorError) as error:
        raise CheckpointError(
            "these are no weights", where=str(file), expected="a file of safetensors", got=str(error)
        ) from error


def _difference(own: Mapping[str, Any], stored: Mapping[str, Any]) -> str:
    """How `stored` differs from a model's `own` state dict in keys and shapes, the first few of each; "" if not."""
    shapes = [
        f"{name} {tuple(stored[name].shape)} for {tuple(value.shape)}"
        for name, value in own.items()
        if isinstance(value, Tensor) and name in stored and stored[name].shape != value.shape
    ]
    kinds = {
        "missing": [name for name in own if name not in stored],
        "unexpected": [name for name in stored if name not in own],
        "of another shape": shapes,
    }
    return "; ".join(
        f"{kind} {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
        for kind, names in kinds.items()
        if names
    )


def _require_plain(value: Any, where: str) -> None:
    """Raise CheckpointError, naming the key, unless torch will load `value` back with `weights_only=True`."""
    kind = type(value)
    if kind in _MAPPINGS:
        for key, item in value.items():
            _require_plain(key, f"a key of {where}")
            _require_plain(item, f"{where}[{key!r}]")
    elif kind in _SEQUENCES:
        for index, item in enumerate(value):
            _require_plain(item, f"{where}[{index}]")
    elif kind in (Tensor, nn.Parameter):
        _require_plain(vars(value), f"{where}.__dict__")
    elif kind not in _VALUES and not (kind is int and value.bit_length() < _INT_BITS):
        raise CheckpointError(
            f"{where} cannot go into a checkpoint",
            expected="numbers, text, None, tensors, and lists, tuples, sets and dicts of them",
            got=f"{kind.__module__}.{kind.__qualname__}",
            hint="a state of plain values, from which the object can be made again",
        )


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
