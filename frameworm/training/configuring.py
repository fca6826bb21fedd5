"""What a trainer is given to optimize with, made into a model's optimizations: one, or one for each name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from frameworm.config import Named, OptimizerConfig, TrainerConfig
from frameworm.errors import ModelContractError, UnknownNameError, UserError
from frameworm.training.contract import JointLoss, LossFunction
from frameworm.training.distributed.strategies import Strategy
from frameworm.training.optimization import Optimization
from frameworm.training.optimizers import build_optimizer, optimizer_for
from frameworm.training.precision import Precision
from frameworm.training.schedules import Schedule, schedule_for

Scheduler = Schedule | LRScheduler | Named | str | None

_SEVERAL = "configure_optimizers() -> {name: an optimizer, a module or parameters}"


def optimizations_for(
    model: nn.Module,
    model_name: str,
    *,
    optimizer: Optimizer | Named | str,
    scheduler: Scheduler,
    optimizers: Mapping[str, OptimizerConfig],
    options: TrainerConfig,
    precision: Precision,
    batches: int | None,
    strategy: Strategy | None = None,
) -> tuple[Optimization, ...]:
    """The optimizations of `model`, which has a single one unless it says otherwise by `configure_optimizers`.

    Of several, each has `optimizer` and `scheduler` (names with options, not objects) over its own parameters, but for
    what `optimizers` says of it. `batches` is how many an epoch has, if that is known. Raises UserError for names and
    options that are wrong, ModelContractError for a model that does not keep its contract.
    """
    parts = _parts(model, model_name)
    if unknown := [name for name in optimizers if name not in parts]:
        raise UnknownNameError(
            f"optimizer of model {model_name!r}:", unknown[0], parts, where=f"optimizers.{unknown[0]}"
        )
    compute = _compiled(options)

    def dressed(made: Optimizer, function: Any) -> Any:
        computed = precision.wrap(compute(function))
        return computed if strategy is None else strategy.dress(computed, made)

    def of(name: str | None, made: Optimizer, own: OptimizerConfig, scheduler: Scheduler) -> Optimization:
        accumulate = own.accumulate or options.accumulate
        steps = None if batches is None else -(-batches // accumulate)
        return Optimization(
            made,
            LossFunction(model, model_name, partial(dressed, made), optimizer=name),
            name=name,
            schedule=schedule_for(
                made, scheduler, steps_per_epoch=steps, epochs=options.epochs, max_steps=options.max_steps
            ),
            accumulate=accumulate,
            clip_norm=own.clip_norm or options.clip_norm,
            clip_value=own.clip_value or options.clip_value,
            scaler=GradScaler(precision.device.type) if precision.name == "fp16" else None,
            check_gradients=options.check_gradients,
        )

    if not parts:
        return (of(None, optimizer_for(model, optimizer), OptimizerConfig(), scheduler),)
    if isinstance(optimizer, Optimizer) or isinstance(scheduler, Schedule | LRScheduler):
        raise UserError(
            f"{model_name} makes its optimizers itself: {', '.join(parts)}",
            expected="the name of an optimizer and of a schedule, for those that it leaves open",
            got=f"a {type(optimizer if isinstance(optimizer, Optimizer) else scheduler).__name__}",
        )
    base = optimizer if isinstance(optimizer, Named) else Named(optimizer)
    made = []
    for name, part in parts.items():
        own = optimizers.get(name, OptimizerConfig())
        made.append(of(name, _optimizer(model, name, part, base, own), own, own.scheduler or scheduler))
    return tuple(made)


def joint_loss(optimizations: Sequence[Optimization]) -> LossFunction | JointLoss:
    """The loss that a model's optimizations minimize together."""
    losses = {part.name: part.loss_function for part in optimizations}
    return losses[None] if None in losses else JointLoss({str(name): loss for name, loss in losses.items()})


def loss_of(model: nn.Module, model_name: str, wrap: Any) -> LossFunction | JointLoss:
    """The loss of a model that is not trained, for all of its optimizers together."""
    names = list(_parts(model, model_name))
    if not names:
        return LossFunction(model, model_name, wrap)
    return JointLoss({name: LossFunction(model, model_name, wrap, optimizer=name) for name in names})


def _parts(model: nn.Module, model_name: str) -> dict[str, Any]:
    """What the model's `configure_optimizers` says; nothing where it has none."""
    configure = getattr(model, "configure_optimizers", None)
    if configure is None:
        return {}
    found = configure()
    if isinstance(found, Mapping) and found and all(isinstance(name, str) for name in found):
        return dict(found)
    raise ModelContractError(
        model_name,
        "configure_optimizers returned no names",
        expected=_SEVERAL,
        got=f"{type(found).__name__} {found!r:.60}",
        hint="no configure_optimizers at all for a single optimizer: the config's, over all parameters",
    )


def _optimizer(model: nn.Module, name: str, part: Any, base: Named, own: OptimizerConfig) -> Optimizer:
    """The optimizer that `part` is; else the config's, over its parameters: what is `own` replaces what is for all."""
    if isinstance(part, Optimizer):
        if own.name or own.options:
            raise UserError(
                f"the model makes the optimizer {name!r} itself",
                expected="only how its steps are taken: scheduler, accumulate, clip_norm, clip_value",
                got=", ".join(["name"] * bool(own.name) + [*own.options]),
                where=f"optimizers.{name}",
            )
        return part
    if not isinstance(part, nn.Module | Iterable):
        raise ModelContractError(
            type(model).__name__,
            f"configure_optimizers gave nothing to optimize for {name!r}",
            expected=_SEVERAL,
            got=type(part).__name__,
        )
    parameters = list(part.parameters() if isinstance(part, nn.Module) else part)
    options = own.options if own.name else {**base.options, **own.options}
    return build_optimizer(own.name or base.name, model, options, only=parameters, where=f"optimizers.{name}.name")


def _compiled(options: TrainerConfig) -> Any:
    """What compiles a function, as the options say; for False it leaves it as it is."""
    if options.compile is False:
        return lambda function: function
    mode = None if options.compile is True else options.compile
    return lambda function: torch.compile(function, mode=mode)
