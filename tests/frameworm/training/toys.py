"""Small real models and data, and the hand-written loop that the trainer is held against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from bus import EventBus
from frameworm.config import TrainerConfig
from frameworm.training import trainer as trainer_module
from frameworm.training.means import DeviceMeans
from frameworm.training.nonfinite import NonFinite
from frameworm.training.trainer import Trainer

Batch = tuple[Tensor, Tensor]

INPUTS, CLASSES = 6, 3


class Perceptron(nn.Module):
    """Two layers, with dropout between them, that tell three classes apart."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(INPUTS, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, 3) of inputs (n, 6)."""
        logits: Tensor = self.layers(x)
        return logits

    def compute_loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """Return the cross entropy with classes `y` (n,)."""
        assert y is not None
        return {"loss": functional.cross_entropy(self(x), y)}


class Scripted(nn.Module):
    """A model with one weight whose `compute_loss` is a function of `(model, batch)`."""

    def __init__(self, compute: Callable[[Scripted, Any], Any]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.compute = compute

    def compute_loss(self, batch: Any) -> Any:
        """Return whatever the script says."""
        return self.compute(self, batch)


def a_perceptron(dropout: float = 0.0, seed: int = 0) -> Perceptron:
    """Return a perceptron, the same one for the same seed."""
    torch.manual_seed(seed)
    return Perceptron(dropout)


def some_batches(count: int = 3, size: int = 4, seed: int = 0) -> list[Batch]:
    """Return batches of inputs (size, 6) and classes (size,)."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, INPUTS, generator=generator), torch.randint(CLASSES, (size,), generator=generator))
        for _ in range(count)
    ]


def adamw(model: nn.Module) -> Optimizer:
    """Return the optimizer that the trainer makes of the name."""
    return AdamW(model.parameters(), lr=0.01, fused=True)


def sgd(model: nn.Module) -> Optimizer:
    """Return one with momentum."""
    return SGD(model.parameters(), lr=0.1, momentum=0.9)


def a_trainer(model: nn.Module | None = None, train_data: Any = None, *args: Any, **rest: Any) -> Trainer:
    """Return a trainer on the CPU, on a bus of its own; what is an option of `TrainerConfig` goes there."""
    options = {name: rest.pop(name) for name in list(rest) if name in TrainerConfig.__struct_fields__}
    return Trainer(
        model if model is not None else a_perceptron(),
        train_data if train_data is not None else some_batches(),
        *args,
        options=TrainerConfig(**{"epochs": 1, "device": "cpu", **options}),
        **{"bus": EventBus(), "optimizer": "sgd", **rest},
    )


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the model's weights."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two models are the same, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def train_by_hand(
    model: Perceptron,
    batches: Sequence[Batch],
    optimizer: Optimizer,
    *,
    epochs: int = 1,
    accumulate: int = 1,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    precision: str = "fp32",
    scheduler: LRScheduler | None = None,
    average: AveragedModel | None = None,
) -> list[float]:
    """Train as one does without a framework; return the loss of every batch."""
    losses = []
    scaler = torch.amp.GradScaler("cpu", enabled=precision == "fp16")
    low = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    for _ in range(epochs):
        model.train()
        for index, (x, y) in enumerate(batches):
            first = index - index % accumulate
            window = min(accumulate, len(batches) - first)
            if index == first:
                optimizer.zero_grad()
            with torch.autocast("cpu", low, enabled=low is not None):
                loss = model.compute_loss(x, y)["loss"]
            losses.append(loss.item())
            scaler.scale(loss / window).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            if index == first + window - 1:
                scaler.unscale_(optimizer)
                if clip_norm is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
                if clip_value is not None:
                    nn.utils.clip_grad_value_(model.parameters(), clip_value)
                scaler.step(optimizer)
                scaler.update()
                if scheduler is not None:
                    scheduler.step()
                if average is not None:
                    average.update_parameters(model)
    return losses


def as_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the trainer look at numbers as seldom as on a GPU."""

    def means(device: torch.device, look_every: int, *, leave_out: bool) -> DeviceMeans:
        assert not leave_out
        return DeviceMeans(device, look_every)

    def non_finite(*args: Any, **options: Any) -> NonFinite:
        return NonFinite(*args, **{**options, "at_once": False})

    monkeypatch.setattr(trainer_module, "means_on", means)
    monkeypatch.setattr(trainer_module, "NonFinite", non_finite)
