"""Where tensors live: a device from its name, and batches of any shape brought onto it."""

from __future__ import annotations

import copy
import dataclasses
import operator
import time
from collections.abc import Callable, MutableMapping, Sequence
from functools import partial
from typing import Any, TypeVar, cast

import torch

from frameworm.errors import UserError

T = TypeVar("T")


def available_devices() -> tuple[str, ...]:
    """The names of the devices that this torch build and this machine have, best first."""
    cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return (*cuda, *mps, "cpu")


def resolve_device(name: str) -> torch.device:
    """The device called `name`: `auto` (the best there is), `cpu`, `cuda` (the current one), `cuda:1`, `mps`.

    Raises UserError when there is no such device here.
    """
    available = available_devices()
    kind = available[0].partition(":")[0] if name == "auto" else name
    if kind == "cuda" and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if kind not in available:
        raise UserError(
            f"no device {name!r} here",
            expected=f"auto, or one of {', '.join(available)}: what torch {torch.__version__} finds",
            got=name,
            hint="trainer.device: auto",
        )
    return torch.device(kind)


def clock_of(device: torch.device) -> Callable[[], float]:
    """A clock, in seconds, that first waits for what `device` still computes."""
    if device.type == "cpu":
        return time.perf_counter
    synchronize = getattr(torch, device.type).synchronize

    def clock() -> float:
        synchronize()
        return time.perf_counter()

    return clock


def move(batch: T, device: torch.device) -> T:
    """`batch` with every tensor in it on `device`; the same object when there was nothing to move.

    Goes into tuples, lists, mappings, named tuples and dataclasses, keeps their types, and calls `to(device)` on
    whatever else has it. A copy from pinned memory to a CUDA device does not wait.
    """
    return cast("T", _move(batch, device))


def _move(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, torch.Tensor):
        # CUDA alone: what it copies from pageable memory is staged before `to` returns; other devices may race.
        return batch.to(device, non_blocking=device.type == "cuda")
    if hasattr(batch, "to"):
        return batch.to(device)
    items, rebuild = _take_apart(batch)
    moved = [_move(item, device) for item in items]
    return batch if all(map(operator.is_, moved, items)) else rebuild(moved)


def _take_apart(batch: Any) -> tuple[Sequence[Any], Callable[[Sequence[Any]], Any]]:
    """The items of a container, and what makes one like it of other items; no items when `batch` is none."""
    if isinstance(batch, tuple | list):
        return batch, getattr(batch, "_make", type(batch))  # a named tuple takes its items one by one
    if isinstance(batch, MutableMapping):
        return list(batch.values()), partial(_refill, batch, list(batch), operator.setitem)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        names = [field.name for field in dataclasses.fields(batch)]
        return [getattr(batch, name) for name in names], partial(_refill, batch, names, object.__setattr__)
    return (), type(batch)


def _refill(batch: Any, keys: Sequence[Any], put: Callable[[Any, Any, Any], None], items: Sequence[Any]) -> Any:
    # A copy keeps what the type carries besides its items, and needs no constructor; frozen dataclasses included.
    filled = copy.copy(batch)
    for key, item in zip(keys, items, strict=True):
        put(filled, key, item)
    return filled


class ScalarCopy:
    """A 0-dim tensor on its way from a CUDA device to the host; nobody waits before `value` is asked for."""

    def __init__(self, scalar: torch.Tensor) -> None:
        self._host = torch.empty((), dtype=scalar.dtype, pin_memory=True)
        self._host.copy_(scalar, non_blocking=True)
        self._arrived: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._arrived.record(torch.cuda.current_stream(scalar.device))

    def ready(self) -> bool:
        """Whether it has arrived."""
        return bool(self._arrived.query())

    def value(self) -> float:
        """The number; waits for it."""
        self._arrived.synchronize()
        return float(self._host)


class ScalarRead:
    """A 0-dim tensor that was read at once: for devices that cannot copy behind one's back."""

    def __init__(self, scalar: torch.Tensor) -> None:
        self._number = float(scalar)

    def ready(self) -> bool:
        """Whether it has arrived: yes."""
        return True

    def value(self) -> float:
        """The number."""
        return self._number


def copy_scalar(scalar: torch.Tensor) -> ScalarCopy | ScalarRead:
    """Start to bring the 0-dim tensor `scalar` to the host, on CUDA without waiting for the device."""
    return ScalarCopy(scalar.detach()) if scalar.device.type == "cuda" else ScalarRead(scalar.detach())
