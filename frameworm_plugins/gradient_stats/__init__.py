"""How large the gradients are, group by group, and an alarm when they explode or vanish: events for all who listen."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from msgspec import Meta
from torch import Tensor

from frameworm.core import register_callback
from frameworm.errors import UserError
from frameworm.events import TrainerHandle, TrainingEvent
from frameworm.plugins.hooks import CallbackHook

log = logging.getLogger(__name__)

Kind = Literal["exploding", "vanishing"]


class GradientNorms(TrainingEvent, frozen=True):
    """The 2-norms of the gradients by parameter group, before clipping. The hook is `on_gradient_norms`."""

    name: ClassVar = "gradient_norms"
    arguments: ClassVar = ("trainer", "norms")

    norms: Mapping[str, float]


class GradientAlarm(TrainingEvent, frozen=True):
    """A group's gradients are too large, or not finite (`exploding`), or too small (`vanishing`)."""

    name: ClassVar = "gradient_alarm"
    arguments: ClassVar = ("trainer", "group", "norm", "kind")

    group: str
    norm: float
    kind: Kind


class GradientStats(CallbackHook):
    """Measures every so many optimizer steps, and publishes `gradient_norms` and, where it is due, `gradient_alarm`.

    A norm above `explode`, or one that is not finite, is exploding; one below `vanish` is vanishing. The norms are
    taken where the gradients are; the one copy to the host, every so many steps, waits for the device. In the steps
    between it does nothing.
    """

    def __init__(
        self,
        every: Annotated[int, Meta(ge=1)] = 50,
        explode: Annotated[float, Meta(gt=0)] = 1e3,
        vanish: Annotated[float, Meta(ge=0)] = 1e-7,
    ) -> None:
        if vanish >= explode:
            raise UserError("no norm is in order", expected="vanish below explode", got=f"{vanish} and {explode}")
        self.every = every
        self.explode = explode
        self.vanish = vanish
        self._alarmed: set[tuple[str, Kind]] = set()

    def on_optimizer_stepped(self, trainer: TrainerHandle, grad_norm: Tensor | None) -> None:
        """Measure; the gradients of the step are still there, and if they were clipped, `grad_norm` says how much."""
        if trainer.step % self.every == 0:
            norms = group_norms(trainer.optimizer, grad_norm)
            self._publish(trainer, GradientNorms(trainer, norms))
            for group, norm in norms.items():
                self._judge(trainer, group, norm)

    def _judge(self, trainer: TrainerHandle, group: str, norm: float) -> None:
        """Publish an alarm for each measurement that is out of order, and log the first of a row."""
        kind: Kind | None = None
        if not math.isfinite(norm) or norm > self.explode:
            kind = "exploding"
        elif norm < self.vanish:
            kind = "vanishing"
        new = {(group, kind)} - self._alarmed if kind else set()
        self._alarmed = {alarm for alarm in self._alarmed if alarm[0] != group}
        if kind is not None:
            self._alarmed.add((group, kind))
            self._publish(trainer, GradientAlarm(trainer, group, norm, kind))
        if new:
            log.warning("the gradients of %s are %s: their norm is %.3g at step %d", group, kind, norm, trainer.step)

    def _publish(self, trainer: Any, event: TrainingEvent) -> None:
        trainer.bus.publish(event)


def group_norms(optimizer: torch.optim.Optimizer, total: Tensor | None = None) -> dict[str, float]:
    """Return the 2-norm of the gradients of each parameter group that has any, by the group's name or number.

    `total`, a 0-dim tensor, is the norm of all of them before they were clipped; clipping has scaled them alike.
    """
    norms: dict[str, Tensor] = {}
    for number, group in enumerate(optimizer.param_groups):
        gradients = [parameter.grad.detach() for parameter in group["params"] if parameter.grad is not None]
        if gradients:
            norms[str(group.get("name", f"group {number}"))] = _norm(gradients)
    if not norms:
        return {}
    measured = torch.stack([norm.to(next(iter(norms.values())).device) for norm in norms.values()])
    if total is not None:
        measured = measured * (total.to(measured) / torch.linalg.vector_norm(measured))
    return dict(zip(norms, measured.tolist(), strict=True))


def _norm(gradients: list[Tensor]) -> Tensor:
    parts = [torch.linalg.vector_norm(gradient, dtype=torch.float32) for gradient in gradients]
    norm: Tensor = torch.linalg.vector_norm(torch.stack([part.to(parts[0].device) for part in parts]))
    return norm


def register() -> None:
    """Make the measurement available to configs as `gradient_stats`; nothing is switched on by that."""
    register_callback("gradient_stats", GradientStats)
