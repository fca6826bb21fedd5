"""Optimizers by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from frameworm.core import registries
from frameworm.errors import UnknownNameError, UserError
from frameworm.training.optimizers import build_optimizer


def model() -> nn.Module:
    """A small model, the same each time."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


@pytest.fixture
def registered() -> Iterator[list[Any]]:
    """An optimizer that a user registered as `mine`, and what it was called with."""
    calls: list[Any] = []

    def mine(parameters: list[Tensor], lr: float = 0.1, fused: bool = False) -> torch.optim.Optimizer:  # noqa: FBT001, FBT002  as torch's are
        calls.append((len(parameters), lr, fused))
        return torch.optim.SGD(parameters, lr=lr)

    registries["optimizer"].register("mine", mine)
    yield calls
    registries["optimizer"].unregister("mine")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("adamw", torch.optim.AdamW),
        ("AdamW", torch.optim.AdamW),
        ("SGD", torch.optim.SGD),
        ("rmsprop", torch.optim.RMSprop),
        ("sparse_adam", torch.optim.SparseAdam),
        ("torch.optim:NAdam", torch.optim.NAdam),
    ],
)
def test_torch_s_optimizers_go_by_name(name: str, expected: type) -> None:
    """Case and underscores do not matter, and an import path names any class."""
    optimizer = build_optimizer(name, model(), {"lr": 0.01})
    assert type(optimizer) is expected
    assert optimizer.param_groups[0]["lr"] == 0.01


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "adagrad"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_fused_kernel_is_the_default(name: str, dtype: torch.dtype) -> None:
    """Where torch has a fused kernel for the parameters it is used, and a step works."""
    net = model().to(dtype)
    optimizer = build_optimizer(name, net, {})
    assert optimizer.defaults["fused"]
    net(torch.ones(1, 4, dtype=dtype)).sum().backward()
    optimizer.step()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("adamw", {"fused": False}),
        ("adamw", {"foreach": True}),
        ("sgd", {"differentiable": True}),
        ("rmsprop", {}),
    ],
)
def test_fused_is_not_imposed(name: str, options: dict[str, Any]) -> None:
    """An option that decides the kernel is respected, and an optimizer without a fused one works."""
    assert not build_optimizer(name, model(), options).defaults.get("fused")


def test_fused_is_not_used_for_what_it_cannot_do() -> None:
    """Sparse gradients and complex parameters train unfused, instead of failing in the first step."""
    embedding = nn.Embedding(5, 3, sparse=True)
    optimizer = build_optimizer("sgd", embedding, {"lr": 0.1})
    embedding(torch.tensor([1])).sum().backward()
    optimizer.step()
    complex_layer = nn.Linear(2, 2, dtype=torch.complex64)
    assert not build_optimizer("adamw", complex_layer, {}).defaults["fused"]


def test_the_steps_equal_those_of_torch_used_by_hand() -> None:
    """The optimizer is torch's own: the same steps give the same weights, bit for bit, and no random number is used."""
    ours, theirs = model(), model()
    before = torch.get_rng_state()
    optimizers = build_optimizer("adamw", ours, {"lr": 1e-2}), torch.optim.AdamW(theirs.parameters(), 1e-2, fused=True)
    assert torch.equal(torch.get_rng_state(), before)
    for _ in range(5):
        for net, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            net(torch.ones(3, 4)).square().sum().backward()
            optimizer.step()
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


def test_frozen_parameters_are_left_out() -> None:
    """Only what requires a gradient is optimized."""
    net = model()
    net[0].requires_grad_(False)  # type: ignore[index]  # it is a Sequential
    assert len(build_optimizer("sgd", net, {}).param_groups[0]["params"]) == 2


@pytest.mark.parametrize("net", [nn.ReLU(), nn.Linear(2, 2).requires_grad_(False)])
def test_a_model_with_nothing_to_train_is_an_error(net: nn.Module) -> None:
    """No parameter that requires a gradient: said before training."""
    with pytest.raises(UserError, match="has nothing to train"):
        build_optimizer("sgd", net, {})


def test_a_registered_optimizer_comes_first_and_gets_its_own_options(registered: list[Any]) -> None:
    """A user's factory is called with the parameters and the options it was given, and nothing is added."""
    assert isinstance(build_optimizer("mine", model(), {"lr": 0.5}), torch.optim.SGD)
    assert registered == [(4, 0.5, False)]


@pytest.mark.usefixtures("registered")
def test_an_unknown_name_is_offered_the_nearest_of_all() -> None:
    """The error lists registered names and torch's."""
    with pytest.raises(UnknownNameError) as caught:
        build_optimizer("rmsprob", model(), {}, where="config.yaml:7 (optimizer.name)")
    assert caught.value.nearest == "RMSprop"
    assert {"mine", "AdamW"} <= set(caught.value.known)
    assert caught.value.where == "config.yaml:7 (optimizer.name)"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adamw", {"lrr": 1}, "no option 'lrr'"),
        ("adamw", {"lr": "fast"}, "expected: a number, like 0.001"),
        ("adamw", {"lr": -1}, "Invalid learning rate: -1\n  got: lr: -1$"),
        ("muon", {"lr": 1}, "2D parameters"),
        ("lbfgs", {}, "several times a step"),
        ("collections:Counter", {}, "a torch.optim.Optimizer"),
    ],
)
def test_a_wrong_option_is_an_error_about_that_option(name: str, options: dict[str, Any], message: str) -> None:
    """What is wrong is said in one message, in the user's words."""
    with pytest.raises(UserError, match=message):
        build_optimizer(name, model(), options)
