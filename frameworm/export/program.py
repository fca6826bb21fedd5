"""The format `torch-export`: the graph that `torch.export` makes of `forward`, which runs without the model's code."""

from __future__ import annotations

import inspect
import io
import logging
import re
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from frameworm.errors import UserError
from frameworm.export.forward import BATCH, Forward, place_of

FILE = "model.pt2"
_CONSTANT = re.compile(r"specialized it to be a constant \((\d+)\)")


class TorchExport:
    """Writes `model.pt2`, which `torch.export.load` reads."""

    def write(self, forward: Forward, folder: Path) -> Mapping[str, str | int]:
        """Write the program, of any number of samples. Raises UserError for a `forward` that has no graph."""
        content = io.BytesIO()  # torch's own writing to a disk that is full fails with no OSError
        with quietly():
            torch.export.save(program_of(forward), content)
        (folder / FILE).write_bytes(content.getbuffer())
        return {}

    def load(self, _forward: Forward, folder: Path) -> Callable[..., Any]:
        """Return the program that was written."""
        with quietly():
            return torch.export.load(folder / FILE).module()


def program_of(forward: Forward) -> ExportedProgram:
    """Return the graph of `forward`, its batch size left open; raises UserError, with the line, where there is none."""
    batch = Dim(BATCH, min=1)
    shapes = tuple({spec.shape.index(BATCH): batch} if BATCH in spec.shape else None for spec in forward.inputs)
    takes_many = any(
        parameter.kind is parameter.VAR_POSITIONAL
        for parameter in inspect.signature(forward.model.forward).parameters.values()
    )
    with quietly(), torch.no_grad(), untraceable_told(forward.model):
        return torch.export.export(forward.model, forward.example, dynamic_shapes=(shapes,) if takes_many else shapes)


@contextmanager
def untraceable_told(model: nn.Module) -> Iterator[None]:
    """Turn what torch raises inside into a UserError that says which line of the model is the reason."""
    try:
        yield
    except Exception as error:
        where, line = _place(error, model)
        root = _causes(error)[-1]
        first = str(root).strip().partition("\n")[0]
        constant = _CONSTANT.search(str(error))
        if isinstance(error, GuardOnDataDependentSymNode):
            message = "`forward` goes a way that depends on the values in its inputs: that has no graph"
            expected, got = "the same operations whatever the values are, such as torch.where", line or first
        elif constant:
            message = "`forward` works for one batch size alone"
            expected, got = "operations that take any number of samples", f"{constant[1]} samples only"
        else:
            message, expected, got = "`forward` cannot be exported", None, f"{type(root).__name__}: {first}"
        raise UserError(message, expected=expected, got=got, where=where) from error


def _place(error: BaseException, model: nn.Module) -> tuple[str, str | None]:
    """Return the place in the model's code that an error is about, and the line there; else where `forward` is."""
    files = {place_of(module).rpartition(":")[0] for module in model.modules()}
    files = {file for file in files if not Path(file).is_relative_to(Path(torch.__file__).parent)}
    for cause in _causes(error):
        for frame in reversed(traceback.extract_tb(cause.__traceback__)):
            if frame.filename in files:
                return f"{frame.filename}:{frame.lineno}", frame.line
        said = re.findall(r'File:? "?([^"\n]+?)"?(?:, line |:)(\d+)', str(cause))  # two ways in which torch says it
        if own := [found for found in said if found[0] in files]:
            return ":".join(own[-1]), None
    return place_of(model), None


def _causes(error: BaseException) -> list[BaseException]:
    """Return the error and what caused it, the root last."""
    found = [error]
    while (cause := found[-1].__cause__) is not None:
        found.append(cause)
    return found


@contextmanager
def quietly() -> Iterator[None]:
    """Keep to itself what torch says while it exports: of its own deprecations, and graphs of what it raises anyway."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.fx", "torch.export", "torch._export", "torch")]
    before = [(logger, logger.level) for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # where torch prints the graph so far
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in before:
            logger.setLevel(level)
