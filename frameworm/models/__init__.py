"""Models that ship: small, real, and each an example of the contract that the trainer has with any model."""

from frameworm.models.cnn import CNN
from frameworm.models.gan import GAN
from frameworm.models.mlp import MLP
from frameworm.models.vae import VAE

__all__ = ["CNN", "GAN", "MLP", "VAE"]
