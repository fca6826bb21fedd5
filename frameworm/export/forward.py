"""What is exported of a model: its `forward`, with what goes in and what comes out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
import torch
from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_flatten_with_path

from frameworm.errors import UserError
from frameworm.training.evaluation import parts_of

BATCH = "batch"
_EXAMPLES = 4  # samples in the example: neither 0 nor 1, which torch.export takes for constants


class TensorSpec(msgspec.Struct, frozen=True):
    """A tensor that goes in or comes out: a dimension that follows the number of samples is called `batch`."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str


@dataclass(frozen=True)
class Forward:
    """A model's `forward`, in evaluation mode and on the CPU, with an `example` of what it is given: a few samples.

    `build` makes the model anew, as its config says, without the weights.
    """

    model: nn.Module
    example: tuple[Tensor, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    build: Callable[[], nn.Module]


class Exporter(Protocol):
    """What `register_exporter` takes: a class, or another factory without arguments, of such objects."""

    def write(self, forward: Forward, folder: Path, /) -> Mapping[str, str | int]:
        """Write files into the empty `folder`; return what else the manifest should say, such as versions."""

    def load(self, forward: Forward, folder: Path, /) -> Callable[..., Any]:
        """Return what the files hold, to be called as `forward` is; its tensors are compared with the model's."""


def inputs_of(model: nn.Module, batch: Any) -> tuple[Tensor, ...]:
    """Return what `forward` is given for a batch of the data: what the model's `forward_inputs(batch)` says, if any.

    Else it is the batch's first part, as in a validation. Raises UserError unless it is tensors, samples first.
    """
    if type(model).forward is nn.Module.forward:
        raise UserError(
            "the model has no `forward`: there is nothing that could be exported",
            expected="a method forward(x)",
            got=f"{type(model).__module__}.{type(model).__qualname__}",
            hint="the model.safetensors of the checkpoint, for the weights alone",
        )
    given = getattr(model, "forward_inputs", lambda batch: parts_of(batch)[0])(batch)
    inputs = (given,) if isinstance(given, Tensor) else given
    if isinstance(inputs, tuple | list) and inputs and all(isinstance(value, Tensor) for value in inputs):
        found = tuple(value.detach().cpu() for value in inputs)
        if found[0].ndim and len(found[0]):
            return found
    raise UserError(
        "there is nothing that `forward` could be exported with",
        expected="a tensor (n, ...) or a tuple of them",
        got=type(given).__name__,
        where=place_of(model),
        hint="a method forward_inputs(batch) of the model, which returns what `forward` takes for a batch",
    )


def cut(inputs: Sequence[Tensor], begin: int, end: int) -> tuple[Tensor, ...]:
    """Return some of the samples; a tensor that has not a row for each sample stays whole."""
    count = len(inputs[0])
    return tuple(value[begin:end] if value.ndim and len(value) == count else value for value in inputs)


def tensors_in(outputs: Any) -> dict[str, Tensor]:
    """Return the tensors of an output by their names: `output` alone, else `output_0`, `output_logits` and so on."""
    leaves, _ = tree_flatten_with_path(outputs)
    names = [
        ("output" + keystr(path).replace("']", "").replace("['", "_").replace("[", "_").replace("]", ""), leaf)
        for path, leaf in leaves
    ]
    for _, leaf in names:
        if not isinstance(leaf, Tensor):
            raise UserError(
                "`forward` gives what cannot be exported",
                expected="tensors, alone or in tuples, lists and dicts",
                got=type(leaf).__name__,
            )
    if not names:
        raise UserError("`forward` gives no tensor: there is nothing that could be exported", got=repr(outputs))
    return dict(names)


def forward_of(model: nn.Module, inputs: tuple[Tensor, ...], build: Callable[[], nn.Module]) -> Forward:
    """Try `forward` on some of the inputs; raises UserError where it does not take them, or is no function of them."""
    count = min(len(inputs[0]), _EXAMPLES)
    example, single = cut(inputs, 0, count), cut(inputs, 0, 1)
    if count == 1:
        example, count = tuple(torch.cat([value, value]) for value in cut(inputs, 0, 1)), 2
    outputs, again, one = (tensors_in(call(model, given)) for given in (example, example, single))
    for name, output in outputs.items():
        if not torch.equal(output.nan_to_num(), again[name].nan_to_num()):
            raise UserError(
                "`forward` draws random numbers: there is nothing that an export could agree with",
                expected="the same outputs for the same inputs, in evaluation mode",
                got=f"another {name} each time",
                where=place_of(model),
            )
    names = list(inspect.signature(model.forward).parameters)[: len(inputs)]
    if len(names) < len(inputs) or len({*names, *outputs}) < len(names) + len(outputs):  # *args, or a name twice
        names = [f"input_{index}" for index in range(len(inputs))]
    specs = [_spec(name, value, part) for name, value, part in zip(names, example, single, strict=True)]
    made = [_spec(name, value, one[name]) for name, value in outputs.items()]
    return Forward(model, example, tuple(specs), tuple(made), build)


def call(model: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    """Return what the model makes of the inputs; raises UserError where it takes no such inputs."""
    try:
        with torch.no_grad():
            return model(*inputs)
    except Exception as error:
        shapes = ", ".join(f"{tuple(value.shape)} {value.dtype}" for value in inputs)
        raise UserError(
            "`forward` does not take what the validation data give",
            got=f"{shapes}: {str(error).partition(chr(10))[0]}",
            where=place_of(model),
            hint="a method forward_inputs(batch) of the model, which returns what `forward` takes for a batch",
        ) from error


def place_of(model: nn.Module) -> str:
    """Return where the model's `forward` is written, "file:line"."""
    code = getattr(inspect.unwrap(type(model).forward), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else type(model).__qualname__


def _spec(name: str, many: Tensor, one: Tensor) -> TensorSpec:
    """Describe a tensor by what it is for several samples and for one."""
    shape = tuple(size if size == other else BATCH for size, other in zip(many.shape, one.shape, strict=True))
    return TensorSpec(name, shape, str(many.dtype).removeprefix("torch."))
