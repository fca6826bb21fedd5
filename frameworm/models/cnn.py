"""A small convolutional classifier: the model of the first run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta, Struct
from torch import Tensor, nn
from torch.nn import functional

from frameworm.models.checks import Count, Rate, check_samples, options_of, targets_of


class Options(Struct, frozen=True, kw_only=True):
    """`channels` and `size` (height and width, pixels) of the images, how many `classes`, and the network's `width`."""

    channels: Count = 1
    size: Annotated[int, Meta(ge=2)] = 8
    classes: Annotated[int, Meta(ge=2)] = 10
    width: Count = 32
    dropout: Rate = 0.25


class CNN(nn.Module):
    """Two 3x3 convolutions with batch normalisation and pooling between them, then one linear layer.

    LeCun et al., Gradient-Based Learning Applied to Document Recognition, 1998; Ioffe and Szegedy, Batch Normalization,
    2015. Raises UserError for keys of `config["model"]` that `Options` does not have.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        options = options_of("cnn", Options, config)
        width = options.width
        self.shape = (options.channels, options.size, options.size)
        self.layers = nn.Sequential(
            nn.Conv2d(options.channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(options.dropout),
            nn.Linear(2 * width * (options.size // 2) ** 2, options.classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, channels, size, size) to logits (n, classes)."""
        check_samples("cnn", x, self.shape)
        logits: Tensor = self.layers(x)
        return logits

    def compute_loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """`loss`, the mean cross entropy against the classes `y` (n,), int64, and `predictions`, the logits."""
        targets = targets_of("cnn", y)
        logits = self(x)
        return {"loss": functional.cross_entropy(logits, targets), "predictions": logits.detach()}
