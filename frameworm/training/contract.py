"""What the trainer asks of a model: `compute_loss` on a batch, and what has to come back."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from numbers import Real
from typing import Any

from torch import Tensor, nn

from frameworm.errors import ModelContractError

Outputs = dict[str, Any]

RESERVED = ("loss", "predictions", "targets")
"""The keys of what `compute_loss` returns that are not metrics."""


class LossFunction:
    """Calls a model's `compute_loss` with a batch of whatever shape, and checks what it returns.

    `(x,)` or a tensor calls `compute_loss(x)`. A pair `(x, y)` or a longer sequence is spread over the parameters, and
    a mapping over those of its keys' names, where the signature takes them; otherwise the batch goes in whole. `wrap`
    may dress `compute_loss`, say in a precision. Of a model with several optimizers, the loss is that of `optimizer`:
    `compute_loss` is told by a keyword of this name.
    """

    def __init__(
        self,
        model: nn.Module,
        name: str,
        wrap: Callable[[Any], Any] = lambda function: function,
        *,
        optimizer: str | None = None,
    ) -> None:
        compute_loss = getattr(model, "compute_loss", None)
        if not callable(compute_loss):
            raise ModelContractError(
                name,
                "it has no compute_loss",
                expected='compute_loss(x, y=None) -> {"loss": 0-dim tensor, ...}',
                got=f"{type(model).__qualname__} without it",
            )
        self.name = name
        self._class = type(model).__module__ + "." + type(model).__qualname__
        self._compute_loss: Callable[..., Any] = wrap(compute_loss)
        if optimizer is not None:
            self._require_optimizer(compute_loss)
            compute_loss = partial(compute_loss, optimizer=optimizer)
            self._compute_loss = partial(self._compute_loss, optimizer=optimizer)
        self._signature = inspect.signature(compute_loss)
        self._takes_pairs = self._takes((None, None), {})

    def __call__(self, batch: Any) -> Outputs:
        """Return what `compute_loss` gave for the batch; raises `ModelContractError` when it is not a loss."""
        if type(batch) in (tuple, list) and len(batch) == 2 and self._takes_pairs:
            outputs = self._compute_loss(batch[0], batch[1])
        else:
            outputs = self._call_with_other(batch)
        if type(outputs) is dict:
            loss = outputs.get("loss")
            if type(loss) is Tensor and not loss.shape:
                return outputs
        return self._checked(outputs)

    def _call_with_other(self, batch: Any) -> Any:
        if isinstance(batch, tuple | list) and len(batch) == 1:
            return self._compute_loss(batch[0])
        if isinstance(batch, Mapping) and self._takes((), batch):
            return self._compute_loss(**batch)
        if isinstance(batch, tuple | list) and self._takes(batch, {}):
            return self._compute_loss(*batch)
        return self._compute_loss(batch)

    def _require_optimizer(self, compute_loss: Callable[..., Any]) -> None:
        parameters = inspect.signature(compute_loss).parameters
        if "optimizer" not in parameters and all(kind.kind is not kind.VAR_KEYWORD for kind in parameters.values()):
            raise ModelContractError(
                self.name,
                "it has several optimizers, and one loss",
                expected="compute_loss(x, y=None, *, optimizer), with the loss of the optimizer of that name",
                got=f"compute_loss({', '.join(parameters)})",
                where=f"{self._class}.compute_loss",
            )

    def _takes(self, args: Sequence[Any], kwargs: Mapping[Any, Any]) -> bool:
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError:
            return False
        return True

    def require_graph(self, loss: Tensor) -> None:
        """Raise `ModelContractError` for a loss that gives no parameter a gradient."""
        if not loss.requires_grad:
            raise ModelContractError(
                self.name,
                "its loss does not depend on its parameters",
                expected='a tensor under "loss" that was computed from them',
                got="one without a graph",
                where=f"{self._class}.compute_loss",
                hint="neither .detach() nor .item() nor torch.no_grad() on the way to the loss",
            )

    def _checked(self, outputs: Any) -> Outputs:
        """Say what is wrong with what came back; a subclass of dict or of Tensor is right."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else None
        if isinstance(outputs, dict) and isinstance(loss, Tensor) and loss.dim() == 0:
            return outputs
        if not isinstance(outputs, dict):
            got, hint = _describe(outputs), 'return {"loss": loss}'
        elif "loss" not in outputs:
            got, hint = f"a dict with {', '.join(map(repr, outputs)) or 'nothing'} in it", 'put the loss under "loss"'
        else:
            got = f'{_describe(loss)} under "loss"'
            hint = "loss.mean()" if isinstance(loss, Tensor) else "a tensor computed from the model's parameters"
        raise ModelContractError(
            self.name,
            "compute_loss returned no loss",
            expected='a dict with a 0-dim tensor under "loss"',
            got=got,
            where=f"{self._class}.compute_loss",
            hint=hint,
        )


class JointLoss:
    """The losses of a model's several optimizers on a batch, as one: their sum, and each under its optimizer's name."""

    def __init__(self, losses: Mapping[str, LossFunction]) -> None:
        self._losses = losses
        self.name = next(iter(losses.values())).name

    def __call__(self, batch: Any) -> Outputs:
        """Return the joint outputs; raises `ModelContractError` when one of them is not a loss."""
        outputs = {name: loss_function(batch) for name, loss_function in self._losses.items()}
        reserved = {key: value for output in outputs.values() for key, value in output.items() if key in RESERVED}
        found = {name: {"loss": output["loss"], **scalars(output)} for name, output in outputs.items()}
        return reserved | joined(found)

    def require_graph(self, loss: Tensor) -> None:
        """Raise `ModelContractError` for a loss that gives no parameter a gradient."""
        next(iter(self._losses.values())).require_graph(loss)


def joined(found: Mapping[str | None, Mapping[str, Any]] | Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the values that belong to each optimizer as one mapping: `<name>_<key>`, and the sum of the losses.

    The only optimizer of a model has no name, and its values keep theirs.
    """
    if set(found) == {None}:
        return dict(next(iter(found.values())))
    named = {f"{name}_{key}": value for name, values in found.items() for key, value in values.items()}
    losses = [values["loss"] for values in found.values() if "loss" in values]
    return {"loss": sum(losses[1:], losses[0]), **named} if losses else named


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"{type(value).__name__} {value!r:.60}"


def size_of(batch: Any) -> int:
    """Return how many samples a batch holds: the first dimension of the first tensor in it, 1 if there is none."""
    first = batch[0] if type(batch) in (tuple, list) and batch else batch
    if type(first) is Tensor:  # the short way of nearly every batch
        return first.shape[0] if first.shape else 1
    return next((tensor.shape[0] if tensor.shape else 1 for tensor in _tensors(batch)), 1)


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping | tuple | list):
        for part in batch.values() if isinstance(batch, Mapping) else batch:
            yield from _tensors(part)


def scalars(outputs: Outputs) -> Outputs:
    """Return the outputs that become metrics: numbers and 0-dim tensors, the loss apart."""
    return {
        key: value
        for key, value in outputs.items()
        if key not in RESERVED and (value.dim() == 0 if isinstance(value, Tensor) else isinstance(value, Real))
    }
