"""A generative adversarial network for small images: the model that shows how several optimizers are trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from msgspec import Struct
from torch import Tensor, nn
from torch.nn import functional

from frameworm.errors import UnknownNameError
from frameworm.models.checks import Count, Rate, check_samples, options_of


class Options(Struct, frozen=True, kw_only=True):
    """`channels` and `size` (height and width, pixels) of the images, the networks' widths, and dropout in judging."""

    channels: Count = 1
    size: Count = 8
    latent_dim: Count = 32
    hidden: Count = 256
    dropout: Rate = 0.3


class GAN(nn.Module):
    """Goodfellow et al., Generative Adversarial Nets, 2014, with two hidden layers on each side.

    The discriminator is trained first on each batch, then the generator, with the loss that does not saturate (section
    3 of the paper); each has an optimizer, and `optimizers.discriminator` and `optimizers.generator` in the config say
    what is different for one of them. Pixels are in 0..1. Raises UserError for keys of `config["model"]` that `Options`
    does not have.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        options = options_of("gan", Options, config)
        self.shape = (options.channels, options.size, options.size)
        self.latent_dim = options.latent_dim
        pixels, hidden = options.channels * options.size**2, options.hidden
        self.generator = nn.Sequential(
            nn.Linear(options.latent_dim, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, pixels),
            nn.Sigmoid(),
            nn.Unflatten(1, self.shape),
        )
        self.discriminator = nn.Sequential(
            nn.Flatten(),
            nn.Linear(pixels, hidden),
            nn.LeakyReLU(0.2),
            nn.Dropout(options.dropout),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(0.2),
            nn.Dropout(options.dropout),
            nn.Linear(hidden, 1),
        )

    def configure_optimizers(self) -> dict[str, nn.Module]:
        """What is optimized by itself, in the order of training."""
        return {"discriminator": self.discriminator, "generator": self.generator}

    def forward(self, z: Tensor) -> Tensor:
        """Latents (n, latent_dim) to images (n, channels, size, size) in 0..1."""
        images: Tensor = self.generator(z)
        return images

    def forward_inputs(self, batch: Any) -> Tensor:
        """What an export is tried with: a latent (n, latent_dim) for each image of a batch of the data."""
        images = batch[0] if isinstance(batch, tuple | list) else batch
        return torch.randn(len(images), self.latent_dim)

    def compute_loss(self, x: Tensor, y: Tensor | None = None, *, optimizer: str = "generator") -> dict[str, Tensor]:  # noqa: ARG002  the contract's y
        """The loss of one side on real images (n, channels, size, size): a mean of binary cross entropies, in nats.

        The discriminator's has `real` and `fake` besides, the mean probabilities of being real that it gives to both.
        """
        check_samples("gan", x, self.shape)
        if optimizer == "generator":
            judged = self.discriminator(self._images(len(x)))
            return {"loss": functional.binary_cross_entropy_with_logits(judged, torch.ones_like(judged))}
        if optimizer != "discriminator":
            raise UnknownNameError("optimizer of model 'gan':", optimizer, self.configure_optimizers())
        with torch.no_grad():
            images = self._images(len(x))
        real, fake = self.discriminator(x), self.discriminator(images)
        losses = [
            functional.binary_cross_entropy_with_logits(real, torch.ones_like(real)),
            functional.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake)),
        ]
        return {
            "loss": (losses[0] + losses[1]) / 2,
            "real": real.detach().sigmoid().mean(),
            "fake": fake.detach().sigmoid().mean(),
        }

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """`n` new images (n, channels, size, size), float32 in 0..1, of latents from a standard normal."""
        return self._images(n).float()

    def _images(self, n: int) -> Tensor:
        return self.forward(torch.randn(n, self.latent_dim, device=next(self.parameters()).device))
