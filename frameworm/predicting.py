"""What a trained model makes of new samples."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from frameworm import config as configs
from frameworm import runs
from frameworm.data.inputs import read_inputs
from frameworm.errors import DataError, UserError
from frameworm.trained import load_model
from frameworm.training.device import resolve_device

_FORMATS = (".npy", ".npz", ".csv")


def predict(
    run: Path | str,
    inputs: Tensor | Path | str,
    *,
    checkpoint: Literal["best", "latest"] = "best",
    batch_size: int = 256,
) -> Tensor:
    """Return what the `forward` of a run's trained model gives for samples (n, ...): (n, ...), on the CPU.

    The model is that of `load_model`. The samples are a tensor, or in a file: an .npy, an .npz or a .csv, read as the
    datasets `npz` and `csv` read inputs. Computed in float32, on a GPU where there is one. Raises `UserError`.
    """
    directory = runs.find(Path("runs"), str(run))
    samples = (
        inputs if isinstance(inputs, Tensor) else read_inputs(Path(inputs), configs.read(directory.config)["data"])
    )
    if batch_size < 1 or not len(samples):
        raise DataError("there is nothing to predict from", expected="samples, in batches of at least one")
    device = resolve_device("auto")
    model = load_model(directory.path, checkpoint=checkpoint).to(device)
    outputs = []
    with torch.inference_mode():
        for batch in torch.split(samples, batch_size):
            try:
                output = model(batch.to(device))
            except torch.cuda.OutOfMemoryError:  # the samples are right, the batches too large
                raise
            except RuntimeError as error:
                raise UserError(
                    "the model does not take these samples",
                    expected="samples as those that it was trained on",
                    got=f"{tuple(batch.shape[1:])} each, {batch.dtype}: {error}",
                ) from error
            outputs.append(_checked(output, len(batch)).cpu())
    return torch.cat(outputs)


def _checked(output: object, count: int) -> Tensor:
    """Return an output of the model if it has a row for each sample."""
    if isinstance(output, Tensor) and output.ndim and len(output) == count:
        return output
    got = f"a tensor {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
    raise UserError(
        "the model's `forward` gives no prediction for each sample",
        expected=f"a tensor ({count}, ...)",
        got=got,
        hint="frameworm.load_model gives the model, to be called as it wants to be",
    )


def save(predictions: Tensor, file: Path) -> None:
    """Write predictions (n, ...) as .npy, as `predictions` in an .npz, or as .csv: a line each, if they are (n, m).

    Raises UserError for another suffix or shape, and where it cannot be written.
    """
    check_output(file)
    array = predictions.float().numpy() if predictions.dtype == torch.bfloat16 else predictions.numpy()
    written = io.BytesIO()
    match file.suffix.lower():
        case ".npy":
            np.save(written, array)
        case ".npz":
            np.savez(written, predictions=array)
        case _:
            if array.ndim > 2:
                got = f"{array.shape[1:]} for each sample"
                raise UserError("these predictions make no table", expected=".npy or .npz", got=got, where=str(file))
            rows = array.reshape(len(array), -1)
            text = io.StringIO(newline="")
            csv.writer(text).writerows([[f"output_{index}" for index in range(rows.shape[1])], *rows.tolist()])
            written.write(text.getvalue().encode())
    try:
        file.write_bytes(written.getbuffer())
    except OSError as error:
        raise UserError("the predictions cannot be written", got=error.strerror, where=str(file)) from error


def check_output(file: Path) -> None:
    """Raise UserError for a file that `save` has no format for, or no folder to put it in."""
    if file.suffix.lower() not in _FORMATS:
        expected = f"a name that ends with one of {', '.join(_FORMATS)}"
        raise UserError("that is no format of predictions", expected=expected, got=file.name)
    if not file.absolute().parent.is_dir():
        raise UserError("there is no such folder", got=str(file.absolute().parent), where=str(file))
