"""A warm start: a new run that begins with the weights of another, as far as they fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct
from torch import Tensor, nn

from frameworm.errors import CheckpointError
from frameworm.training.checkpoint import read_weights, weights_at
from frameworm.training.manifest import MANIFEST, find_checkpoint, verify

_SHOWN = 3  # names of each kind


class WarmStart(Struct, frozen=True):
    """What was taken over from `path`, by the names of tensors.

    `matched` were; the model also has those that are `missing` there, or there `of_another_shape`; `unexpected` ones
    the model has not.
    """

    path: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    of_another_shape: tuple[str, ...]
    unexpected: tuple[str, ...]

    def __str__(self) -> str:
        kinds = {
            "missing": self.missing,
            "of another shape": self.of_another_shape,
            "unexpected": self.unexpected,
        }
        own = len(self.matched) + len(self.missing) + len(self.of_another_shape)
        told = [f"{len(names)} {kind} ({_listed(names)})" for kind, names in kinds.items() if names]
        return "; ".join([f"{len(self.matched)} of {own} tensors from {self.path}", *told])


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def warm_start(model: nn.Module, path: Path) -> WarmStart:
    """Give `model` those weights at `path` that have the name and the shape of one of its own.

    `path` is a run (its latest checkpoint), a checkpoint or a file of safetensors; a checkpoint is verified first.
    Raises CheckpointError when there is none, when it is damaged, and when nothing in it fits.
    """
    if path.suffix == ".safetensors" and path.is_file() and not (path.parent / MANIFEST).exists():
        stored = read_weights(path)
    else:
        directory = find_checkpoint(path)
        verify(directory)
        stored = weights_at(directory)
    own = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    fits = [name for name in own if name in stored and stored[name].shape == own[name].shape]
    if not fits:
        raise CheckpointError(
            "nothing in it fits the model",
            where=str(path),
            expected=f"tensors like {_listed(list(own))}",
            got=_listed(list(stored)),
        )
    model.load_state_dict({name: stored[name] for name in fits}, strict=False)
    return WarmStart(
        str(path),
        tuple(fits),
        tuple(name for name in own if name not in stored),
        tuple(name for name in own if name in stored and name not in fits),
        tuple(name for name in stored if name not in own),
    )
