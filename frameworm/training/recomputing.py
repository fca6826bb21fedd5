"""Modules that compute their activations again in the backward pass, instead of keeping them: memory for time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from frameworm.training.matching import matching


class Recomputed:
    """A module's `forward` that keeps only its inputs while it trains; random numbers are the same both times.

    Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016, as torch implements it.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute what the module's own `forward` does."""
        forward = type(self._module).forward
        if not (self._module.training and torch.is_grad_enabled()):
            return forward(self._module, *args, **kwargs)
        return checkpoint(forward, self._module, *args, use_reentrant=False, **kwargs)


def checkpoint_activations(model: nn.Module, patterns: Iterable[str]) -> None:
    """Have those modules of `model` recompute their activations; of nested ones the outer alone.

    Weights and their names stay as they are. Raises UserError for a pattern that matches no module.
    """
    named = {name: module for name, module in model.named_modules() if name}
    chosen: list[str] = []
    for name in matching(patterns, list(named), what="module", where="trainer.checkpoint_activations"):
        if not any(name.startswith(f"{outer}.") for outer in chosen):
            chosen.append(name)
            named[name].forward = Recomputed(named[name])  # of this instance alone
