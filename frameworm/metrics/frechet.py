"""How far a generator's images are from the real ones, without another network to judge them."""

from __future__ import annotations

import torch
from torch import Tensor

from frameworm.errors import UserError


class FrechetPixels:
    """The Fréchet distance between two Gaussians, one fitted to the real images' pixels, one to the generated ones'.

    For means m, n and covariances A, B it is |m - n|² + tr(A + B - 2 (A B)^½): Dowson and Landau, 1982. The Fréchet
    Inception Distance of Heusel et al., 2017, is the same distance between features of an Inception network; this one
    is between the pixels themselves, so its values are not comparable with published FIDs. It suits small images: it
    keeps (d, d) float64 numbers for images of d pixels, and is biased unless there are many more images than d.

    `update` takes real and generated images, (n, ...) and (m, ...), of one shape, and never waits for the device.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._real = _Moments()
        self._fake = _Moments()

    def update(self, real_images: Tensor, fake_images: Tensor) -> None:
        """Take in one batch of each kind."""
        if real_images.shape[1:] != fake_images.shape[1:]:
            expected, got = f"shape {tuple(real_images.shape[1:])}", f"shape {tuple(fake_images.shape[1:])}"
            raise UserError("generated images do not look like the real ones", expected=expected, got=got)
        self._real.add(real_images)
        self._fake.add(fake_images)

    def compute(self) -> float:
        """The distance for all images so far, at least 0; UserError for fewer than two of a kind."""
        mean, covariance = self._real.gaussian()
        other_mean, other_covariance = self._fake.gaussian()
        return frechet_distance(mean, covariance, other_mean, other_covariance)

    def __call__(self, real_images: Tensor, fake_images: Tensor) -> float:
        """The distance for these images alone."""
        fresh = FrechetPixels()
        fresh.update(real_images, fake_images)
        return fresh.compute()


def frechet_distance(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> float:
    """The (squared) distance between two Gaussians with means (d,) and covariances (d, d), all float64."""
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    # A B and A^½ B A^½ have the same eigenvalues, and the latter is symmetric.
    cross = torch.linalg.eigvalsh(root @ other_covariance @ root).clamp(min=0).sqrt().sum()
    distance = (mean - other_mean).square().sum() + covariance.trace() + other_covariance.trace() - 2 * cross
    return max(float(distance), 0.0)


class _Moments:
    """The sums from which mean and covariance of flattened images follow."""

    def __init__(self) -> None:
        self._count = 0
        self._sum: Tensor | float = 0.0
        self._products: Tensor | float = 0.0

    def add(self, images: Tensor) -> None:
        exact = torch.float32 if images.device.type == "mps" else torch.float64  # mps has no float64
        pixels = images.detach().flatten(1).to(exact)
        self._count += len(pixels)
        self._sum = self._sum + pixels.sum(0)
        self._products = self._products + pixels.T @ pixels

    def gaussian(self) -> tuple[Tensor, Tensor]:
        if self._count < 2:
            raise UserError("a Gaussian cannot be fitted", expected="at least 2 images", got=str(self._count))
        mean = torch.as_tensor(self._sum).cpu().double() / self._count
        products = torch.as_tensor(self._products).cpu().double()
        return mean, (products - self._count * torch.outer(mean, mean)) / (self._count - 1)
