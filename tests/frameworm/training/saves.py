"""Checkpoints of a small model, for the tests of what they hold and of where they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from frameworm.training import checkpoint
from frameworm.training.store import CheckpointStore


def a_store(root: Path, *, monitor: str | None = "val_loss", keep: int = 2) -> CheckpointStore:
    """The checkpoints in `root`."""
    return CheckpointStore(root, keep=keep, monitor=monitor)


def save(
    store: CheckpointStore,
    step: int,
    *,
    model: nn.Module | None = None,
    state: dict[str, Any] | None = None,
    metrics: dict[str, float] | None = None,
) -> Path:
    """Save a small model whose weights are all `step`."""
    return checkpoint.save(
        store,
        model=model or filled(step),
        state=state or {"step": step},
        run="digits-1",
        model_name="line",
        epoch=0,
        step=step,
        metrics=metrics or {},
        reason="test",
    )


def filled(value: float) -> nn.Module:
    """A model whose weights are all `value`."""
    model = nn.Linear(3, 2)
    for parameter in model.parameters():
        nn.init.constant_(parameter, value)
    return model


def steps(store: CheckpointStore) -> list[int]:
    """The steps of the complete checkpoints."""
    return [checkpoint.manifest.step for checkpoint in store.list()]
