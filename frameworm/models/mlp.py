"""A stack of fully connected layers, for classification and for regression."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal

from msgspec import Struct
from torch import Tensor, nn
from torch.nn import functional

from frameworm.errors import UserError
from frameworm.models.checks import Count, Rate, check_samples, options_of, targets_of


class Options(Struct, frozen=True, kw_only=True):
    """How many numbers go in and come out, the widths of the `hidden` layers, and the loss."""

    inputs: Count = 64
    hidden: tuple[Count, ...] = (128, 64)
    outputs: Count = 10
    loss: Literal["cross_entropy", "mse"] = "cross_entropy"
    dropout: Rate = 0.0


class MLP(nn.Module):
    """Linear layers with ReLU and dropout between them. Samples of any shape are flattened.

    Raises UserError for keys of `config["model"]` that `Options` does not have.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        options = options_of("mlp", Options, config)
        self.inputs = options.inputs
        self.regression = options.loss == "mse"
        widths = (options.inputs, *options.hidden)
        hidden = [
            layer
            for before, after in pairwise(widths)
            for layer in (nn.Linear(before, after), nn.ReLU(), nn.Dropout(options.dropout))
        ]
        self.layers = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(widths[-1], options.outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Samples (n, ...) of `inputs` numbers each to outputs (n, outputs)."""
        check_samples("mlp", x.flatten(1), (self.inputs,))
        outputs: Tensor = self.layers(x)
        return outputs

    def compute_loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """`loss` against `y`, and `predictions`, the outputs (n, outputs).

        The loss is the mean cross entropy against classes (n,), int64, or the mean squared error against targets
        (n, outputs); (n,) will do for a single output.
        """
        targets = targets_of("mlp", y)
        outputs = self(x)
        loss = _squared_error(outputs, targets) if self.regression else functional.cross_entropy(outputs, targets)
        return {"loss": loss, "predictions": outputs.detach()}


def _squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    if targets.numel() != outputs.numel():  # broadcasting would hide it
        expected, got = f"targets of shape {tuple(outputs.shape)}", str(tuple(targets.shape))
        raise UserError("the data does not fit model 'mlp'", expected=expected, got=got)
    return functional.mse_loss(outputs, targets.reshape(outputs.shape).to(outputs.dtype))
