"""Optimizers by name: the ones that users registered, then all of torch's, fused where torch can."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from frameworm.config import Named
from frameworm.core import create, registries
from frameworm.errors import UnknownNameError, UserError
from frameworm.training.matching import matching

_OPTIMIZERS = {
    name: value
    for name, value in vars(torch.optim).items()
    if isinstance(value, type) and issubclass(value, Optimizer) and value is not Optimizer
}


def optimizer_for(model: nn.Module, given: Optimizer | Named | str) -> Optimizer:
    """The optimizer that a trainer is given for `model`: as it is, or by its name, alone or with options.

    Raises UserError when it is over the parameters of something else, and what `build_optimizer` raises.
    """
    if not isinstance(given, Optimizer):
        named = given if isinstance(given, Named) else Named(given)
        return build_optimizer(named.name, model, named.options, where="optimizer.name")
    own = set(map(id, model.parameters()))
    if own.isdisjoint(id(parameter) for group in given.param_groups for parameter in group["params"]):
        raise UserError(
            "the optimizer would not train the model",
            expected=f"an optimizer over parameters of this {type(model).__name__}",
            got=f"{type(given).__name__} over others",
        )
    return given


def build_optimizer(
    name: str,
    model: nn.Module,
    options: Mapping[str, Any],
    *,
    only: Iterable[nn.Parameter] | None = None,
    where: str | None = None,
) -> Optimizer:
    """The optimizer called `name` over those parameters of `model` (`only` some of them) that require a gradient.

    The option `groups` gives parameters options of their own, by patterns of their names, as in
    `[{"match": "*.bias", "weight_decay": 0.0}]`: the first group that matches takes a parameter, those that none
    matches come first.

    `name` is a registered one, an import path, or one of torch's, in any case (`adamw`, `RMSprop`). torch's fused
    kernel is used where the optimizer has one for these parameters, unless an option decides it. Raises UserError
    when the name or an option is wrong, or nothing is to be trained.
    """
    options = dict(options)
    groups = options.pop("groups", None)
    among = None if only is None else set(map(id, only))
    named = {
        parameter_name: parameter
        for parameter_name, parameter in model.named_parameters()
        if parameter.requires_grad and (among is None or id(parameter) in among)
    }
    parameters = list(named.values())
    if not parameters:
        raise UserError(
            f"{type(model).__name__} has nothing to train",
            expected="a parameter that requires a gradient",
            got=f"{sum(1 for _ in model.parameters())} parameters, none of which does",
            hint="fewer patterns in trainer.freeze",
        )
    factory = look_up("optimizer", name, _OPTIMIZERS, where)
    require_numbers(f"optimizer {name!r}", factory, options, where)
    if factory in _OPTIMIZERS.values() and not {"fused", "foreach", "differentiable"} & options.keys():
        factory = _fused(factory, model, parameters)
    trained: list[Any] = parameters if groups is None else _grouped(name, factory, groups, named)
    optimizer = create("optimizer", name, factory, options, trained, where=where)
    if not isinstance(optimizer, Optimizer):
        raise UserError(
            f"optimizer {name!r} is none", expected="a torch.optim.Optimizer", got=type(optimizer).__name__, where=where
        )
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise UserError(
            f"optimizer {name!r} computes the loss several times a step, which the trainer does not do",
            where=where,
            hint="adamw",
        )
    return optimizer


def _grouped(
    name: str, factory: Callable[..., Any], groups: Any, named: Mapping[str, nn.Parameter]
) -> list[dict[str, Any]]:
    """Return the parameters in groups, each with its options; raises UserError for groups that make no sense."""
    where = "optimizer.groups"
    known = inspect.signature(factory).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
    left = dict(named)
    made: list[dict[str, Any]] = []
    for index, group in enumerate(groups if isinstance(groups, list | tuple) else [groups]):
        if not isinstance(group, Mapping) or not _is_pattern(group.get("match")):
            raise UserError(
                "a group of parameters says which by `match`",
                expected='a mapping like {match: "*.bias", weight_decay: 0.0}',
                got=repr(group),
                where=f"{where}.{index}",
            )
        own = {option: value for option, value in group.items() if option != "match"}
        if unknown := [option for option in own if option not in known and not takes_all]:
            raise UnknownNameError(f"option of optimizer {name!r}:", unknown[0], known, where=f"{where}.{index}")
        require_numbers(f"optimizer {name!r}", factory, own, f"{where}.{index}")
        patterns = [group["match"]] if isinstance(group["match"], str) else group["match"]
        matched = matching(patterns, list(named), what="parameter that is trained", where=f"{where}.{index}")
        taken = [left.pop(parameter) for parameter in matched if parameter in left]
        if taken:
            made.append({"params": taken, **own})
    return [{"params": list(left.values())}, *made] if left else made


def _is_pattern(match: Any) -> bool:
    return isinstance(match, str) or (isinstance(match, list | tuple) and all(isinstance(one, str) for one in match))


def look_up(kind: str, name: str, ours: Mapping[str, Callable[..., Any]], where: str | None) -> Callable[..., Any]:
    """What `name` means: a registration or an import path; else one of `ours`, whatever its case and underscores."""
    registry = registries[kind]
    if ":" in name or name in registry.names():
        return registry.get(name, where=where)
    for known, factory in ours.items():
        if _folded(known) == _folded(name):
            return factory
    raise UnknownNameError(kind, name, [*registry.names(), *ours], where=where)


def _folded(name: str) -> str:
    return name.replace("_", "").lower()


def require_numbers(what: str, factory: Callable[..., Any], options: Mapping[str, Any], where: str | None) -> None:
    """Raise UserError if an option whose default is a number is text: torch would fail on it in its own words."""
    parameters = inspect.signature(factory).parameters
    for option, value in options.items():
        default = parameters[option].default if option in parameters else None
        if isinstance(value, str) and isinstance(default, int | float):
            raise UserError(
                f"wrong value for the option {option!r} of {what}",
                expected=f"a number, like {default}",
                got=f"the text {value!r}",
                where=where,
            )


def _fused(factory: Callable[..., Any], model: nn.Module, parameters: Sequence[nn.Parameter]) -> Callable[..., Any]:
    """`factory` with `fused=True`, where it can; else as it is."""
    # No fused kernel takes sparse gradients, and those show only in the first step.
    sparse = any(getattr(module, "sparse", False) for module in model.modules())
    if sparse or "fused" not in inspect.signature(factory).parameters:
        return factory
    # What torch can do differs by its version, the device and the dtype: one step on scratch parameters tells.
    kinds = {(parameter.device, parameter.dtype) for parameter in parameters}
    scratch = [torch.zeros(1, device=device, dtype=dtype, requires_grad=True) for device, dtype in kinds]
    for parameter in scratch:
        parameter.grad = torch.zeros_like(parameter)
    fused = partial(factory, fused=True)
    try:
        fused(scratch).step()
    except (NotImplementedError, RuntimeError):
        return factory
    return fused
