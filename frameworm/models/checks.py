"""What every model that ships checks at its door: the options in its config, and the batches it is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from msgspec import Meta
from torch import Tensor

from frameworm.core import create
from frameworm.errors import UserError

Count = Annotated[int, Meta(ge=1)]
Rate = Annotated[float, Meta(ge=0, lt=1)]

T = TypeVar("T")


def options_of(model: str, kind: type[T], config: Any) -> T:
    """`config["model"]`, but for its name, as a `kind`; UserError for a key or value that it does not take."""
    section = config.get("model", {}) if isinstance(config, Mapping) else config
    if not isinstance(section, Mapping):
        raise UserError(f"model {model!r} takes a config", expected='{"model": {...}}', got=repr(config))
    options = {key: value for key, value in section.items() if key != "name"}
    return create("model", model, kind, options)


def check_samples(model: str, x: Tensor, shape: tuple[int, ...]) -> None:
    """UserError unless `x` is a batch of samples of `shape`."""
    if x.shape[1:] != shape:
        expected = f"samples of shape {shape}, as the model's options say"
        raise UserError(f"the data does not fit model {model!r}", expected=expected, got=str(tuple(x.shape[1:])))


def targets_of(model: str, y: Tensor | None) -> Tensor:
    """`y`, or a UserError that says why there must be one."""
    if y is None:
        raise UserError(f"model {model!r} learns from targets", expected="batches of (x, y)", got="x alone")
    return y
