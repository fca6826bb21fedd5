"""The format `onnx`, for runtimes other than torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from frameworm.errors import UserError
from frameworm.export.forward import BATCH, Forward
from frameworm.export.program import program_of, quietly, untraceable_told

FILE = "model.onnx"
_NEEDED = ("onnx", "onnxscript", "onnxruntime")


class ONNX:
    """Writes `model.onnx`, made of the program of `torch.export`, and runs it with onnxruntime, on the CPU.

    Raises UserError where the extra `onnx` is not installed.
    """

    def __init__(self) -> None:
        for name in _NEEDED:
            try:
                import_module(name)
            except ImportError as error:
                hint = "pip install 'frameworm[onnx]'"
                raise UserError(f"the format onnx needs {name}", got=str(error), hint=hint) from error

    def write(self, forward: Forward, folder: Path) -> Mapping[str, str | int]:
        """Write the model; return opset and versions. Raises UserError for what has no graph, or is not in ONNX."""
        program = program_of(forward)
        with quietly(), untraceable_told(forward.model):
            made = torch.onnx.export(
                program,
                forward.example,
                input_names=[spec.name for spec in forward.inputs],
                output_names=[spec.name for spec in forward.outputs],
                dynamic_shapes=tuple({0: BATCH} if BATCH in spec.shape else None for spec in forward.inputs),
                dynamo=True,
                verbose=False,
            )
        assert made is not None
        with quietly():
            made.save(folder / FILE)
        versions = {name: str(import_module(name).__version__) for name in ("onnx", "onnxruntime")}
        return {"opset": made.model.opset_imports[""], **versions}

    def load(self, forward: Forward, folder: Path) -> Callable[..., Any]:
        """Return a function that has onnxruntime compute what was written."""
        runtime = import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # many share the cores
        session = runtime.InferenceSession(folder / FILE, options, providers=["CPUExecutionProvider"])
        names = [spec.name for spec in forward.inputs]

        def run(*inputs: Tensor) -> list[Tensor]:
            given = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
            return [torch.from_numpy(output) for output in session.run(None, given)]

        return run
