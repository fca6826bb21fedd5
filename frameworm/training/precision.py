"""The numbers that a forward pass computes in, chosen once and free of cost when nothing needs to be cast."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import torch

from frameworm.errors import UnknownNameError, UserError

P = ParamSpec("P")
R = TypeVar("R")

PRECISIONS = ("fp32", "bf16", "fp16")
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Precision:
    """`name` (`fp32`, `bf16` or `fp16`) on `device`: torch's autocast, weights and gradients stay as they are.

    Raises UnknownNameError for another name and UserError when the device cannot compute in it.
    """

    name: str
    device: torch.device

    def __post_init__(self) -> None:
        if self.name not in PRECISIONS:
            raise UnknownNameError("precision", self.name, PRECISIONS)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # torch warns, and stays in fp32, where some devices lack bf16
                self.context()
        except (RuntimeError, UserWarning) as error:
            raise UserError(
                f"device {self.device} cannot train in {self.name}", got=str(error), hint="trainer.precision: fp32"
            ) from error

    def context(self) -> AbstractContextManager[Any]:
        """A context in which to compute; make one for each use."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=_AUTOCAST[self.name])

    def wrap(self, function: Callable[P, R]) -> Callable[P, R]:
        """`function` computing in this precision; for fp32 that is `function` itself."""
        if self.name == "fp32":
            return function

        @functools.wraps(function)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
            # One context for each call: autocast's own decorator shares one, which a nested call leaves switched on.
            with self.context():
                return function(*args, **kwargs)

        return wrapped
