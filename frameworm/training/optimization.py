"""One optimizer of a model, and how its steps are taken: over which batches, clipped, scaled, on which schedule."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from frameworm.errors import CheckpointError
from frameworm.training.contract import LossFunction
from frameworm.training.distributed.shards import spread, whole
from frameworm.training.means import Means
from frameworm.training.schedules import Schedule


class Optimization:
    """Takes the steps of `optimizer` on what `loss_function` gives.

    - `name`: the optimizer's name, among several of one model; None for the only one.
    - `schedule`: moves after each step or at the end of each epoch.
    - `accumulate`: how many batches make a step.
    - `clip_norm`: the largest total 2-norm of the gradients (Pascanu et al. 2013, https://arxiv.org/abs/1211.5063);
      `clip_value`: after that, the largest absolute value of each.
    - `scaler`: scales the loss, where gradients in half precision would vanish (Micikevicius et al. 2018,
      https://arxiv.org/abs/1710.03740).
    - `check_gradients`: compute the norm also where it is not clipped.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        loss_function: LossFunction,
        *,
        name: str | None = None,
        schedule: Schedule | None = None,
        accumulate: int = 1,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        scaler: GradScaler | None = None,
        check_gradients: bool = False,
    ) -> None:
        self.name = name
        self.optimizer = optimizer
        self.loss_function = loss_function
        self.schedule = schedule
        self.accumulate = accumulate
        self.means: Means
        """The means of the loss and of what else the model reports, over the epoch so far."""
        self.spoilt = False
        """Whether a loss of the window that is open was not finite, and its step is to be left out."""
        self._clip_norm = clip_norm
        self._clip_value = clip_value
        self.scaler = scaler
        self._check_gradients = check_gradients
        self.backward: Callable[[Tensor], object] = Tensor.backward
        """Add a loss's gradients to those of the window."""
        if name is not None or scaler is not None:
            self.backward = self._backward
        acts = scaler is not None or clip_norm is not None or clip_value is not None or check_gradients
        self.prepare = self._prepare if acts else None
        """Unscale and clip the window's gradients; return their norm before, None where nobody needs it."""
        self.advance = self._advance if schedule is not None and schedule.interval == "step" else None
        """Move a schedule by the step, which counts also when it was left out: what is planned ends in time."""

    @property
    def lr(self) -> float:
        """The learning rate of the first parameter group."""
        return float(self.optimizer.param_groups[0]["lr"])

    def trained(self) -> list[nn.Parameter]:
        """Return what the optimizer trains by now: a hook may have added a group, or thawed a part of the model."""
        return trained(self.optimizer)

    def _backward(self, loss: Tensor) -> None:
        scaled = loss if self.scaler is None else self.scaler.scale(loss)
        # Of several optimizers each adds to its own gradients only: the others' windows may be open.
        own = None if self.name is None else [parameter for parameter in self.trained() if parameter.requires_grad]
        scaled.backward(inputs=own)  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def _prepare(self) -> Tensor | None:
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        norm = None
        if self._clip_norm is not None:
            norm = whole(nn.utils.clip_grad_norm_(self.trained(), self._clip_norm))
        elif self._check_gradients:
            norm = whole(nn.utils.get_total_norm([p.grad for p in self.trained() if p.grad is not None]))
        if self._clip_value is not None:
            nn.utils.clip_grad_value_(self.trained(), self._clip_value)
        return norm

    def scaled_step(self, scaler: GradScaler) -> bool:
        """Take the step of scaled gradients; return whether it was: with a scale that is too large it is left out."""
        scale = scaler.get_scale()
        scaler.step(self.optimizer)
        scaler.update()
        return scaler.get_scale() >= scale  # reads it from the device, as `scaler.step` itself does as a rule

    def _advance(self, stepped: bool) -> None:  # noqa: FBT001  it is the only argument
        assert self.schedule is not None
        if stepped:
            self.schedule.scheduler.step()
            return
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
            self.schedule.scheduler.step()  # torch would take it that the order is wrong

    def end_epoch(self) -> None:
        """Move a schedule by the epoch, unless it goes by what it watches."""
        if self.schedule is None or self.schedule.interval == "step":
            return
        if not isinstance(self.schedule.scheduler, ReduceLROnPlateau):
            self.schedule.scheduler.step()

    def watch(self, value: float) -> None:
        """Show a schedule that waits for a plateau what it watches."""
        if self.schedule is not None and isinstance(self.schedule.scheduler, ReduceLROnPlateau):
            self.schedule.scheduler.step(value)

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on."""
        return {
            "type": type(self.optimizer).__name__,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.schedule.scheduler.state_dict() if self.schedule else None,
            "scaler": self.scaler.state_dict() if self.scaler else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state. Raises CheckpointError when it is another optimizer's."""
        kind = type(self.optimizer).__name__
        if state["type"] != kind:  # torch itself would take it, and fail in the first step
            raise CheckpointError(
                "the checkpoint is of another optimizer",
                expected=kind,
                got=state["type"],
                hint="the optimizer section of that run's config.yaml",
            )
        self.optimizer.load_state_dict(self._spread(state["optimizer"]))
        if self.schedule is not None and state["scheduler"] is not None:
            self.schedule.scheduler.load_state_dict(state["scheduler"])
        if self.scaler is not None and state["scaler"] is not None:
            self.scaler.load_state_dict(state["scaler"])

    def _spread(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Return an optimizer's state, what it has for a sharded parameter sharded like it."""
        numbers = [number for group in state["param_groups"] for number in group["params"]]
        parameters = dict(zip(numbers, self.trained(), strict=False))  # torch complains when they do not fit

        def of(value: Any, parameter: nn.Parameter | None) -> Any:
            if parameter is None or not isinstance(value, Tensor) or value.shape != parameter.shape:
                return value
            return spread(value, parameter)

        own = {
            number: {key: of(value, parameters.get(number)) for key, value in values.items()}
            for number, values in state["state"].items()
        }
        return {**state, "state": own}


def trained(optimizer: Optimizer) -> list[nn.Parameter]:
    """Return what an optimizer trains by now."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
