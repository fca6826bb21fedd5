"""The models that ship learn what they are there for."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from frameworm.config import Named, TrainerConfig
from frameworm.data import Splits, digits, loaders, synthetic
from frameworm.events import ValidationEnd
from frameworm.metrics import Accuracy, FrechetPixels
from frameworm.models import CNN, GAN, MLP, VAE
from frameworm.training.trainer import Trainer


def _train(model: nn.Module, splits: Splits, epochs: int, lr: float = 1e-3) -> list[float]:
    """Train by hand; the mean loss of each epoch."""
    compute_loss: Any = model.compute_loss
    optimizer = torch.optim.AdamW(model.parameters(), lr)
    train = loaders(splits, batch_size=64).train
    means = []
    for epoch in range(epochs):
        train.set_epoch(epoch)
        losses = []
        for x, y in train:
            optimizer.zero_grad()
            loss = compute_loss(x, y)["loss"]
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        means.append(torch.stack(losses).mean().item())
    return means


def _accuracy(model: nn.Module, splits: Splits) -> float:
    model.eval()
    metric = Accuracy()
    val = loaders(splits, batch_size=64).val
    assert val is not None
    with torch.no_grad():
        for x, y in val:
            metric.update(y, model(x))
    return metric.compute()


def test_the_cnn_reads_digits() -> None:
    """98 % of the digits held out, after ten epochs."""
    torch.manual_seed(0)
    model, splits = CNN({}), digits()
    _train(model, splits, epochs=10)
    assert _accuracy(model, splits) >= 0.98


def test_the_mlp_reads_digits() -> None:
    """95 % of them, as a fully connected network does."""
    torch.manual_seed(0)
    model, splits = MLP({}), digits(flatten=True)
    _train(model, splits, epochs=15, lr=2e-3)
    assert _accuracy(model, splits) >= 0.95


def test_the_mlp_learns_a_regression() -> None:
    """On the quick start's data it explains nearly all of the targets' variance, which is 1."""
    torch.manual_seed(0)
    model = MLP({"model": {"inputs": 10, "outputs": 5, "loss": "mse"}})
    losses = _train(model, synthetic(), epochs=20, lr=3e-3)
    assert losses[0] > 0.3
    assert losses[-1] < 0.1


def test_the_vae_learns_to_draw() -> None:
    """Its samples come nearer to the digits, and the negative ELBO falls."""
    torch.manual_seed(0)
    model, splits = VAE({}), digits()
    images = next(iter(loaders(splits, batch_size=1024).train))[0]
    before = FrechetPixels()(images, model.sample(1024))
    losses = _train(model, splits, epochs=20)
    after = FrechetPixels()(images, model.sample(1024))
    assert losses[-1] < losses[0]
    assert after < before / 3


def test_the_gan_learns_to_draw() -> None:
    """Its samples come much nearer to the digits; the average of its weights is what draws."""
    torch.manual_seed(0)
    model, data = GAN({}), loaders(digits(), batch_size=64)
    trainer = Trainer(
        model,
        data.train,
        data.val,
        optimizer=Named("adam", {"lr": 3e-4, "betas": [0.5, 0.999]}),
        metrics=["frechet_pixels"],
        options=TrainerConfig(epochs=20, device="cpu", ema=0.99, validate_every=19),
    )
    before: list[float] = []
    with trainer.bus.subscribe(ValidationEnd, lambda event: before.append(event.metrics["val_frechet_pixels"])):
        trainer.validate_now()
        trainer.fit()
    first, *_, last = before
    assert last < first / 3
