"""Learning rate schedules by name, and whether each moves with the steps or with the epochs."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

from msgspec import Meta
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from frameworm.config import Named
from frameworm.core import create
from frameworm.errors import UnknownNameError, UserError
from frameworm.training.optimizers import look_up, require_numbers

_INTERVALS = ("step", "epoch")
_PER_STEP = (lr_scheduler.OneCycleLR, lr_scheduler.CyclicLR)  # as torch's documentation says of them
_NOT_BY_NAME = {"LRScheduler", "_LRScheduler", "ChainedScheduler", "SequentialLR"}  # bases, and those made of others

Steps = Annotated[int, Meta(ge=0)]
Rate = Annotated[float, Meta(ge=0)]


class Schedule(NamedTuple):
    """A scheduler, and after what its `step()` is due: each optimizer step or each epoch.

    `ReduceLROnPlateau` takes the metric that it watches: `step(metric)`.
    """

    scheduler: LRScheduler
    interval: Literal["step", "epoch"]


def schedule_for(
    optimizer: Optimizer,
    given: Schedule | LRScheduler | Named | str | None,
    *,
    steps_per_epoch: int | None,
    epochs: int,
    max_steps: int | None = None,
) -> Schedule | None:
    """The schedule that a trainer is given for `optimizer`: as it is, or by its name, alone or with options.

    A bare torch scheduler moves with the steps, one that waits for a plateau with the epochs. Raises UserError when it
    schedules another optimizer, and what `build_scheduler` raises.
    """
    if given is None:
        return None
    if isinstance(given, LRScheduler):
        given = Schedule(given, "epoch" if isinstance(given, ReduceLROnPlateau) else "step")
    if not isinstance(given, Schedule):
        named = given if isinstance(given, Named) else Named(given)
        ends = [] if steps_per_epoch is None else [steps_per_epoch * epochs]
        total = min([*ends, max_steps] if max_steps is not None else ends, default=None)
        return build_scheduler(
            named.name,
            optimizer,
            named.options,
            total_steps=total,
            steps_per_epoch=steps_per_epoch,
            where="scheduler.name",
        )
    if given.scheduler.optimizer is not optimizer:
        raise UserError(
            "the scheduler schedules another optimizer",
            expected="one made with the optimizer that the trainer is given",
            got=f"{type(given.scheduler).__name__} of another {type(given.scheduler.optimizer).__name__}",
        )
    return given


def build_scheduler(
    name: str,
    optimizer: Optimizer,
    options: Mapping[str, Any],
    *,
    total_steps: int | None,
    steps_per_epoch: int | None,
    where: str | None = None,
) -> Schedule:
    """The schedule called `name` for `optimizer`.

    `name` is a registered one, an import path, `cosine`, `linear`, or one of torch's, with or without underscores
    (`step_lr`, `StepLR`). torch's own move by the epoch (`OneCycleLR` and `CyclicLR` by the step) unless the option
    `interval` says otherwise. `total_steps` and `steps_per_epoch` count optimizer steps, None when the data's length
    is unknown; a factory that takes them gets them. Raises UserError when the name or an option is wrong.
    """
    factory = look_up("scheduler", name, _SCHEDULERS, where)
    takes = inspect.signature(factory).parameters
    facts = {"total_steps": total_steps, "steps_per_epoch": steps_per_epoch}
    given = {fact: value for fact, value in facts.items() if fact in takes} | dict(options)
    is_scheduler = isinstance(factory, type) and issubclass(factory, LRScheduler)
    interval = given.pop("interval", "step" if factory in _PER_STEP else "epoch") if is_scheduler else None
    require_numbers(f"scheduler {name!r}", factory, given, where)
    made = create("scheduler", name, factory, given, optimizer, where=where)
    scheduler, interval = (made, interval) if is_scheduler else made
    if interval not in _INTERVALS:
        raise UnknownNameError("interval", str(interval), _INTERVALS, where=where)
    return Schedule(scheduler, interval)


def cosine(optimizer: Optimizer, total_steps: int | None, warmup_steps: Steps = 0, min_lr: Rate = 0.0) -> Schedule:
    """Half a cosine from the optimizer's rate to `min_lr` over `total_steps`, after a linear warm-up.

    With `t` the part done of the steps after the warm-up, `min_lr + (lr - min_lr) * (1 + cos(pi * t)) / 2`
    (Loshchilov and Hutter, SGDR, 2017, without restarts). It stays at `min_lr` afterwards.
    """
    return _decay(optimizer, total_steps, warmup_steps, min_lr, lambda t: (1 + math.cos(math.pi * t)) / 2)


def linear(optimizer: Optimizer, total_steps: int | None, warmup_steps: Steps = 0, min_lr: Rate = 0.0) -> Schedule:
    """A straight line from the optimizer's rate to `min_lr` over `total_steps`, after a linear warm-up."""
    return _decay(optimizer, total_steps, warmup_steps, min_lr, lambda t: 1 - t)


def _decay(
    optimizer: Optimizer, total_steps: int | None, warmup_steps: int, min_lr: float, shape: Callable[[float], float]
) -> Schedule:
    if total_steps is None:
        raise UserError(
            "a schedule that ends cannot know when: the data has no length",
            expected="the number of optimizer steps to come",
            hint="scheduler.total_steps: 10000",
        )
    if warmup_steps >= total_steps:
        raise UserError(
            "the warm-up is as long as the training",
            expected=f"scheduler.warmup_steps below {total_steps}, all the steps there are",
            got=str(warmup_steps),
        )

    def factor(floor: float) -> Callable[[int], float]:
        def at(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / warmup_steps  # not from zero: the first step would be lost
            t = min(1.0, (step - warmup_steps) / (total_steps - warmup_steps))
            return floor + (1 - floor) * shape(t)

        return at

    rates = [float(group["lr"]) for group in optimizer.param_groups]
    return Schedule(LambdaLR(optimizer, [factor(min_lr / rate if rate else 0.0) for rate in rates]), "step")


_SCHEDULERS: Mapping[str, Callable[..., Any]] = {
    "cosine": cosine,
    "linear": linear,
    **{
        name: value
        for name, value in vars(lr_scheduler).items()
        if isinstance(value, type) and issubclass(value, LRScheduler) and name not in _NOT_BY_NAME
    },
}
