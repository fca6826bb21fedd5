"""Training from Python: a model, a DataLoader and two listeners of one's own, in one short file.

Run it as `python examples/python_api.py`; it takes a few seconds.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from bus import EventBus
from frameworm import CallbackHook, Trainer, TrainerConfig
from frameworm.events import BatchEnd, TrainerHandle


class Spirals(nn.Module):
    """Tells two spirals apart."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, 2) of points (n, 2)."""
        logits: Tensor = self.layers(x)
        return logits

    def compute_loss(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Return the loss, which is all that the trainer asks for; further 0-dim values become metrics."""
        logits = self(x)
        return {"loss": functional.cross_entropy(logits, y), "confidence": logits.softmax(1).amax(1).mean()}


def spirals(points: int, seed: int) -> TensorDataset:
    """Return points (n, 2) on two spirals, with noise, and which spiral each is on (n,)."""
    generator = torch.Generator().manual_seed(seed)
    which = torch.arange(points) % 2
    turn = torch.rand(points, generator=generator) * 7
    angle = turn + which * torch.pi
    positions = torch.stack([turn * angle.cos(), turn * angle.sin()], 1) / 7
    return TensorDataset(positions + 0.02 * torch.randn(positions.shape, generator=generator), which)


class Report(CallbackHook):
    """Prints an epoch in ten, and stops when there is nothing left to learn."""

    def on_epoch_end(self, trainer: TrainerHandle, epoch: int, metrics: dict[str, float]) -> None:
        """Have a look at the metrics; ask for the end when they are good enough."""
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1}: val_accuracy {metrics['val_accuracy']:.3f}")
        if metrics["val_accuracy"] > 0.995:
            trainer.stop(f"{metrics['val_accuracy']:.1%} is good enough")


def main() -> None:
    """Train, listening."""
    torch.manual_seed(0)
    bus = EventBus()
    Report().register(bus)
    losses: list[float] = []

    @bus.on(BatchEnd, every=10)
    def remember(event: BatchEnd) -> None:
        losses.append(float(event.loss))

    trainer = Trainer(
        Spirals(),
        DataLoader(spirals(2000, seed=0), batch_size=64, shuffle=True),
        DataLoader(spirals(500, seed=1), batch_size=500),
        metrics=["accuracy"],
        options=TrainerConfig(epochs=60, device="cpu"),
        bus=bus,
    )
    result = trainer.fit()
    print(f"{result.status} after {result.epochs} epochs: {result.reason}")
    print(f"loss {losses[0]:.3f} at first, {losses[-1]:.3f} in the end")


if __name__ == "__main__":
    main()
