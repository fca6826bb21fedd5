"""Means over an epoch of the loss and whatever else a model reports, without ever waiting for a device in a step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor


class Means(Protocol):
    """Running means, weighted by samples."""

    finite: bool
    """Whether every loss that was looked at was finite, since this was last set."""

    def add(self, loss: Tensor, others: Mapping[str, Any], weight: int) -> None:
        """Take in a batch's loss and other scalars (0-dim tensors or numbers), for `weight` samples."""

    def read(self) -> dict[str, float]:
        """Return the means, the loss's under `loss`; empty when nothing was added. Waits for the device."""

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""


class HostMeans:
    """Means of values that are read at once, in double precision: on the CPU that costs nothing.

    `leave_out` has the means be those of the batches whose loss is finite.
    """

    __slots__ = ("_leave_out", "_loss", "_samples", "_sums", "_weights", "finite")

    def __init__(self, *, leave_out: bool = False) -> None:
        self.finite = True
        self._leave_out = leave_out
        self._sums: dict[str, float] = {}
        self._weights: dict[str, int] = {}
        self._loss = 0.0
        self._samples = 0

    def add(self, loss: Tensor, others: Mapping[str, Any], weight: int) -> None:
        """Take in a batch."""
        value = loss.item()
        if value - value != 0.0:  # infinite or nan
            self.finite = False
            if self._leave_out:
                return
        self._loss += value * weight
        self._samples += weight
        for name, other in others.items():
            value = number(other)
            self._sums[name] = self._sums.get(name, 0.0) + value * weight
            self._weights[name] = self._weights.get(name, 0) + weight

    def read(self) -> dict[str, float]:
        """Return the means."""
        if not self._samples:
            return {}
        return {
            "loss": self._loss / self._samples,
            **{name: total / self._weights[name] for name, total in self._sums.items()},
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the sums and the weights, as numbers, whatever the device."""
        return {
            "sums": {"loss": self._loss, **self._sums},
            "weights": {"loss": self._samples, **self._weights},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from those."""
        self._sums, self._weights = dict(state["sums"]), dict(state["weights"])
        self._loss, self._samples = self._sums.pop("loss", 0.0), self._weights.pop("loss", 0)


class DeviceMeans:
    """Means of values on another device: summed there, read when asked.

    The sum tells whether a loss was not finite; it is looked at once in `look_every` additions, so that a step need
    not wait for the device.
    """

    def __init__(self, device: torch.device, look_every: int) -> None:
        self.finite = True
        self._dtype = torch.float32 if device.type == "mps" else torch.float64  # MPS has no doubles
        self._device = device
        self._look_every = look_every
        self._added = 0
        self._sums: dict[str, Tensor] = {}
        self._weights: dict[str, int] = {}

    def add(self, loss: Tensor, others: Mapping[str, Any], weight: int) -> None:
        """Take in a batch."""
        for name, value in (("loss", loss), *others.items()):
            if name not in self._sums:
                self._sums[name] = torch.zeros((), dtype=self._dtype, device=self._device)
            self._sums[name].add_(value.detach() if isinstance(value, Tensor) else float(value), alpha=weight)
            self._weights[name] = self._weights.get(name, 0) + weight
        self._added += 1
        if self._added % self._look_every == 0:
            self.finite = math.isfinite(self._sums["loss"].item())

    def read(self) -> dict[str, float]:
        """Return the means."""
        means = {name: total.item() / self._weights[name] for name, total in self._sums.items() if self._weights[name]}
        self.finite = math.isfinite(means.get("loss", 0.0))
        return means

    def state_dict(self) -> dict[str, Any]:
        """Return the sums and the weights, as numbers, whatever the device. Waits for it."""
        return {"sums": {name: total.item() for name, total in self._sums.items()}, "weights": dict(self._weights)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from those."""
        self._sums = {
            name: torch.tensor(total, dtype=self._dtype, device=self._device) for name, total in state["sums"].items()
        }
        self._weights = dict(state["weights"])


def number(value: Any) -> float:
    """Return a number, or the one in a tensor, as a float; waits for the tensor's device."""
    return float(value.detach() if isinstance(value, Tensor) else value)


def means_on(device: torch.device, look_every: int, *, leave_out: bool = False) -> Means:
    """Return empty means for values on `device`; to `leave_out` a loss that is not finite, each has to be read."""
    if leave_out or device.type == "cpu":
        return HostMeans(leave_out=leave_out)
    return DeviceMeans(device, look_every)
