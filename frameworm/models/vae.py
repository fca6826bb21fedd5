"""A variational autoencoder for small images: the generative model of the first run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from msgspec import Meta, Struct
from torch import Tensor, nn
from torch.nn import functional

from frameworm.models.checks import Count, check_samples, options_of


class Options(Struct, frozen=True, kw_only=True):
    """`channels` and `size` (height and width, pixels) of the images, the network's widths, the KL's weight `beta`."""

    channels: Count = 1
    size: Count = 8
    latent_dim: Count = 16
    hidden: Count = 256
    beta: Annotated[float, Meta(ge=0)] = 1.0


class VAE(nn.Module):
    """Kingma and Welling, Auto-Encoding Variational Bayes, 2013, with one hidden layer on each side.

    The prior is a standard normal, the posterior a diagonal one, and pixels in 0..1 are the means of Bernoulli
    variables. `beta` other than 1 weighs the KL divergence as in Higgins et al., beta-VAE, 2017. Raises UserError for
    keys of `config["model"]` that `Options` does not have.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        options = options_of("vae", Options, config)
        self.shape = (options.channels, options.size, options.size)
        self.latent_dim = options.latent_dim
        self.beta = options.beta
        pixels = options.channels * options.size**2
        self.encoder = nn.Sequential(
            nn.Flatten(),
            nn.Linear(pixels, options.hidden),
            nn.ReLU(),
            nn.Linear(options.hidden, 2 * options.latent_dim),
        )
        self.decoder = nn.Sequential(
            nn.Linear(options.latent_dim, options.hidden),
            nn.ReLU(),
            nn.Linear(options.hidden, pixels),
            nn.Unflatten(1, self.shape),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, channels, size, size) in 0..1 to their reconstructions, from the posterior's mean."""
        mean, _ = self.encode(x)
        return torch.sigmoid(self.decoder(mean))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The posterior of each image: mean and log variance, both (n, latent_dim), float32."""
        check_samples("vae", x, self.shape)
        mean, log_variance = self.encoder(x).float().chunk(2, dim=1)
        return mean, log_variance

    def compute_loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:  # noqa: ARG002  the contract's y
        """The negative ELBO per image, in nats, averaged over the batch: `loss` = `reconstruction` + beta * `kl`.

        `reconstruction` is estimated from one sample of the posterior, `kl` is exact (appendix B of the paper).
        """
        mean, log_variance = self.encode(x)
        latent = mean + torch.randn_like(mean) * torch.exp(log_variance / 2)
        logits = self.decoder(latent)
        reconstruction = functional.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)
        kl = (mean**2 + log_variance.exp() - 1 - log_variance).sum() / (2 * len(x))
        return {"loss": reconstruction + self.beta * kl, "reconstruction": reconstruction.detach(), "kl": kl.detach()}

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """`n` new images (n, channels, size, size), float32 in 0..1: the decoder's means for latents from the prior."""
        latent = torch.randn(n, self.latent_dim, device=next(self.parameters()).device)
        return torch.sigmoid(self.decoder(latent)).float()
