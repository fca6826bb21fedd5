"""What a checkpoint holds, in files that any tool can read: writing one refuses, and reading one cannot run, code."""

from __future__ import annotations

import io
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import NoneType
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from frameworm.errors import CheckpointError, CorruptCheckpointError
from frameworm.training.distributed.shards import FOLDER, is_sharded, mesh_of, read_shards, spread
from frameworm.training.manifest import Manifest, find_checkpoint, list_checkpoints, verify
from frameworm.training.store import CheckpointStore

WEIGHTS = "model.safetensors"
STATE = "state.pt"
TENSORS = "state.safetensors"

_MAPPINGS = (dict, OrderedDict, Counter)
_SEQUENCES = (list, tuple, set, torch.Size)
_VALUES = (NoneType, bool, float, complex, str, torch.dtype, torch.device)
_INT_BITS = 2040  # longer ones are pickled in a way that torch's restricted reader does not know
_ELSEWHERE = f"{TENSORS}#"  # begins the text that stands for a tensor in the other file
_WEIGHT = "weights."  # begins the names of the model's own among the sharded tensors
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def save(
    store: CheckpointStore,
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

    `state` is what `load` gives back: plain containers, numbers, text and tensors. `metrics` are those of these very
    weights. Raises CheckpointError when `state` holds anything else (it names the key) and when the disk does not take
    it; then the earlier checkpoints are as they were, and nothing of this one is left.
    """
    files, _ = packed(model, state)
    manifest = manifest_of(run=run, model_name=model_name, epoch=epoch, step=step, metrics=metrics, reason=reason)
    return store.write(manifest, {name: file.pieces() for name, file in files.items()})


@cache
def _version() -> str:
    return version("frameworm")


def manifest_of(
    *, run: str, model_name: str, epoch: int, step: int, metrics: Mapping[str, float], reason: str
) -> Manifest:
    """The manifest of a checkpoint that is written now, still without its files."""
    return Manifest(
        frameworm=_version(),
        run=run,
        model=model_name,
        epoch=epoch,
        step=step,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        reason=reason,
        metrics={name: float(value) if math.isfinite(value) else None for name, value in metrics.items()},
        files={},
    )


class Packed:
    """A file of a checkpoint, as what it consists of: bytes, and tensors as they are.

    The tensors must not change until they have been copied.
    """

    def __init__(self, *parts: bytes | Tensor) -> None:
        self._parts = parts
        self.size = sum(map(_size, parts))
        """In bytes."""

    def copy_into(self, target: memoryview) -> None:
        """Copy the file into so much memory."""
        end = 0
        for part in self._parts:
            begin, end = end, end + _size(part)
            if isinstance(part, bytes):
                target[begin:end] = part
            elif part.numel():
                place = torch.frombuffer(target, dtype=part.dtype, count=part.numel(), offset=begin)
                place.view(part.shape).copy_(part)

    def pieces(self) -> Iterator[bytes | memoryview]:
        """Return the bytes one part after the other, each copied from its device when it is asked for."""
        for part in self._parts:
            if isinstance(part, bytes):
                yield part
            else:
                yield part.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data


def _size(part: bytes | Tensor) -> int:
    return len(part) if isinstance(part, bytes) else part.nbytes


def packed(model: nn.Module, state: Mapping[str, Any]) -> tuple[dict[str, Packed], dict[str, Tensor]]:
    """The files of a checkpoint by their names, and the sharded tensors, which need files of all processes.

    Raises CheckpointError for what cannot go into one.
    """
    weights, aliases, extra = _weights(model)
    tensors: dict[str, Tensor] = {}
    plain = _taken({"model": extra, "state": dict(state)}, tensors)
    stream = io.BytesIO()
    torch.save(plain, stream)
    shards = {name: tensor for name, tensor in tensors.items() if is_sharded(tensor)}
    shards |= {f"{_WEIGHT}{name}": weight for name, weight in weights.items() if is_sharded(weight)}
    files = {
        WEIGHTS: _safetensors(weights, aliases),
        TENSORS: _safetensors(tensors, {}),
        STATE: Packed(stream.getvalue()),
    }
    return files, shards


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
        shards = _shards(directory, mesh_of(model.parameters()))
        if TENSORS in manifest.files:  # in those of format 1 it is all in one file
            stored = _given_back(stored, read_weights(directory / TENSORS) | shards)
        state, weights = stored["state"], {**read_weights(directory / WEIGHTS), **_sharded(shards), **stored["model"]}
    except Exception as error:
        raise CheckpointError(
            "the checkpoint holds more than plain values, or not what a checkpoint holds",
            where=str(directory),
            got=str(error).partition("\n")[0],
            hint="one that FRAMEWORM wrote",
        ) from error
    own = model.state_dict()
    if difference := _difference(own, weights):
        raise CheckpointError(
            "the checkpoint is of another model",
            where=str(directory),
            expected=f"the weights of {model_name or type(model).__name__}",
            got=f"those of {manifest.model}: {difference}",
            hint="the model section of that run's config.yaml",
        )
    model.load_state_dict({name: spread(value, own[name]) for name, value in weights.items()})
    return dict(state)


def weights_at(directory: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint, whole, by name. Raises CheckpointError when there are none."""
    return read_weights(directory / WEIGHTS) | _sharded(_shards(directory))


def _shards(directory: Path, mesh: Any = None) -> dict[str, Tensor]:
    folder = directory / FOLDER
    return read_shards(folder, mesh) if folder.exists() else {}


def _sharded(shards: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The model's own weights among sharded tensors."""
    return {name.removeprefix(_WEIGHT): tensor for name, tensor in shards.items() if name.startswith(_WEIGHT)}


def _weights(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str], dict[str, Any]]:
    """What a model is: its tensors, each once; the other names of tied ones; and what `get_extra_state` adds."""
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    extra: dict[str, Any] = {}
    names: dict[Any, str] = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            extra[name] = value
        elif not _is_ordinary(value):
            raise _refused(name, expected="dense tensors of safetensors' dtypes, on a device", got=_kind(value))
        elif is_sharded(value):  # two names of one tensor have the same parts, and are written twice
            tensors[name] = value
        else:
            first = names.setdefault((value.data_ptr(), value.device, value.dtype, value.shape, value.stride()), name)
            if first == name:
                tensors[name] = value
            else:
                aliases[name] = first
    return tensors, aliases, extra


def _safetensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Packed:
    """A file of safetensors: the largest elements first, so that each tensor is aligned.

    It is laid out here, since the library's own writer wants all of it in memory twice. Source:
    https://github.com/huggingface/safetensors#format
    """
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    here = [(name, tensor) for name, tensor in tensors.items() if not is_sharded(tensor)]
    ordered = sorted(here, key=lambda item: -item[1].element_size())
    end = 0
    for name, tensor in ordered:
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = msgspec.json.encode(header)
    text += b" " * (-len(text) % 8)
    return Packed(len(text).to_bytes(8, "little") + text, *(tensor for _, tensor in ordered))


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


def _taken(value: Any, tensors: dict[str, Tensor]) -> Any:
    """`value`, a text in the place of each ordinary tensor, which goes to `tensors`; one that is met again stays one.

    Raises CheckpointError, naming the key, unless torch will load what it returns with `weights_only=True`.
    """
    names: dict[int, str] = {}

    def take(value: Any, where: str) -> Any:
        kind = type(value)
        if (kind is Tensor and _is_ordinary(value) and not (value.requires_grad or vars(value))) or _is_shard(value):
            name = names.setdefault(id(value), where)
            tensors[name] = value
            return f"{_ELSEWHERE}{name}"
        if kind in (Tensor, nn.Parameter):
            _mapped(vars(value), take, f"{where}.__dict__")
        elif kind not in _VALUES and not (kind is int and value.bit_length() < _INT_BITS):
            raise _refused(where, expected=_PLAIN, got=f"{kind.__module__}.{kind.__qualname__}")
        elif kind is str and value.startswith(_ELSEWHERE):
            raise _refused(where, expected="text that does not stand for a tensor", got=repr(value))
        return value

    return {key: _mapped(item, take, key) for key, item in value.items()}


def _given_back(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `_taken` was given."""

    def give(value: Any, _where: str) -> Any:
        is_elsewhere = type(value) is str and value.startswith(_ELSEWHERE)
        return tensors[value.removeprefix(_ELSEWHERE)] if is_elsewhere else value

    return _mapped(value, give, "")


def _mapped(value: Any, leaf: Callable[[Any, str], Any], where: str) -> Any:
    """`value` with each leaf of its containers, which `where` says, replaced by what `leaf` makes of it."""
    kind = type(value)
    if kind in _MAPPINGS:
        items = (
            (_mapped(key, leaf, f"a key of {where}"), _mapped(item, leaf, f"{where}[{key!r}]"))
            for key, item in value.items()
        )
        return kind(dict(items))
    if kind in _SEQUENCES:
        return kind(_mapped(item, leaf, f"{where}[{index}]") for index, item in enumerate(value))
    return leaf(value, where)


def _is_ordinary(value: Tensor) -> bool:
    """Whether a file of safetensors takes it and gives it back as it was."""
    return (
        value.dtype in _DTYPES
        and value.layout is torch.strided
        and value.device.type != "meta"
        and not (value.is_conj() or value.is_neg())
    )


def _is_shard(value: Any) -> bool:
    return isinstance(value, Tensor) and is_sharded(value) and value.dtype in _DTYPES


_PLAIN = "numbers, text, None, tensors, and lists, tuples, sets and dicts of them"


def _refused(where: str, *, expected: str, got: str) -> CheckpointError:
    return CheckpointError(
        f"{where} cannot go into a checkpoint",
        expected=expected,
        got=got,
        hint="a state of plain values, from which the object can be made again",
    )


def _kind(tensor: Tensor) -> str:
    return f"{tensor.layout}, {tensor.dtype}, {tensor.device}"
