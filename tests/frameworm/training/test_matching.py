"""Parts of a model by patterns: groups of parameters, frozen ones, and modules that recompute their activations."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD

from frameworm.config import Named
from frameworm.errors import UnknownNameError, UserError
from frameworm.training.optimizers import build_optimizer
from frameworm.training.recomputing import checkpoint_activations
from tests.frameworm.training.toys import (
    Perceptron,
    a_perceptron,
    a_trainer,
    same,
    sgd,
    some_batches,
    train_by_hand,
    weights,
)

# Groups of parameters


def test_groups_train_as_by_hand() -> None:
    """The first group that matches takes a parameter; the others have the optimizer's own options, and come first."""
    model, other = a_perceptron(), a_perceptron()
    first: Any = model.layers[0]
    last: Any = model.layers[3]
    by_name: list[dict[str, Any]] = [
        {"params": [last.weight]},
        {"params": [first.bias, last.bias], "lr": 0.5, "momentum": 0.9},
        {"params": [first.weight], "weight_decay": 0.1},
    ]
    by_hand = SGD(
        by_name,
        lr=0.01,
        fused=True,
    )
    train_by_hand(model, some_batches(5), by_hand)
    groups = [{"match": "*.bias", "lr": 0.5, "momentum": 0.9}, {"match": ["layers.0.*"], "weight_decay": 0.1}]
    trainer = a_trainer(other, some_batches(5), optimizer=Named("sgd", {"lr": 0.01, "groups": groups}))
    assert [len(group["params"]) for group in trainer.optimizer.param_groups] == [1, 2, 1]
    trainer.fit()
    assert same(weights(other), weights(model))


def test_a_schedule_scales_each_groups_own_rate() -> None:
    """Down to nothing at the end, from wherever it began."""
    groups = [{"match": "*.bias", "lr": 0.5}]
    optimizer = Named("sgd", {"lr": 0.1, "groups": groups})
    trainer = a_trainer(optimizer=optimizer, scheduler=Named("linear", {"total_steps": 6}))
    trainer.fit()
    assert [group["lr"] for group in trainer.optimizer.param_groups] == pytest.approx([0.05, 0.25])


def test_groups_may_take_everything() -> None:
    """Then there is no group of others."""
    groups = [{"match": "layers.0.*", "lr": 0.1}, {"match": "*", "lr": 0.2}]
    optimizer = build_optimizer("adamw", a_perceptron(), {"groups": groups})
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([{"lr": 0.1}], "says which by `match`"),
        (["*.bias"], "says which by `match`"),
        ([{"match": 3}], "says which by `match`"),
        ([{"match": "layer.*"}], "matches no parameter"),
        ([{"match": "*", "rate": 0.1}], "option of optimizer 'sgd': 'rate'"),
        ([{"match": "*", "lr": "fast"}], "wrong value for the option 'lr'"),
    ],
)
def test_groups_that_make_no_sense(groups: Any, message: str) -> None:
    """The error names the group."""
    with pytest.raises(UserError, match=message) as caught:
        build_optimizer("sgd", a_perceptron(), {"lr": 0.1, "groups": groups})
    assert caught.value.where == "optimizer.groups.0"


def test_only_some_parameters_are_grouped() -> None:
    """Of several optimizers each groups its own."""
    model = a_perceptron()
    own = list(model.layers[3].parameters())
    optimizer = build_optimizer("sgd", model, {"groups": [{"match": "*.bias", "lr": 1.0}]}, only=own)
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 1]
    with pytest.raises(UnknownNameError):
        build_optimizer("sgd", model, {"groups": [{"match": "*", "x": 1.0}]}, only=own)


# Frozen parts


def test_frozen_parts_train_as_by_hand() -> None:
    """They stay as they are, and the others train as they would."""
    model, other = a_perceptron(), a_perceptron()
    for parameter in model.layers[0].parameters():
        parameter.requires_grad_(False)
    before = weights(model)
    train_by_hand(model, some_batches(5), SGD(model.layers[3].parameters(), lr=0.1, momentum=0.9, fused=True))
    options: dict[str, Any] = {"lr": 0.1, "momentum": 0.9}
    a_trainer(other, some_batches(5), optimizer=Named("sgd", options), freeze=("layers.0.*",)).fit()
    assert same(weights(other), weights(model))
    assert torch.equal(weights(other)["layers.0.weight"], before["layers.0.weight"])


def test_a_pattern_that_matches_nothing_is_an_error() -> None:
    """Otherwise a misspelt one would train what should not be."""
    with pytest.raises(UserError, match="matches no parameter") as caught:
        a_trainer(freeze=("layers.O.weight",))
    assert caught.value.where == "trainer.freeze"
    assert str(caught.value.hint).startswith("layers.")


def test_a_model_that_is_frozen_as_a_whole_has_nothing_to_train() -> None:
    """The error says where to look."""
    with pytest.raises(UserError, match="nothing to train") as caught:
        a_trainer(freeze=("*",))
    assert "trainer.freeze" in str(caught.value.hint)


# Activations that are computed again


class Counting(nn.Linear):
    """Counts how often it computes."""

    calls = 0

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  torch's own name
        """Compute, and count it."""
        type(self).calls += 1
        return super().forward(input)


@pytest.mark.parametrize("patterns", [("layers",), ("layers.*",), ("layers.0", "layers.2")])
def test_recomputed_activations_train_as_kept_ones(patterns: tuple[str, ...]) -> None:
    """Bit for bit, with dropout."""
    model, other = a_perceptron(0.4), a_perceptron(0.4)
    torch.manual_seed(1)
    train_by_hand(model, some_batches(5), sgd(model))
    torch.manual_seed(1)
    trainer = a_trainer(other, some_batches(5), some_batches(1), optimizer=sgd(other), checkpoint_activations=patterns)
    trainer.fit()
    assert same(weights(other), weights(model))


def test_they_are_computed_twice_in_training_and_once_otherwise() -> None:
    """The outermost module is recomputed as a whole; asking twice changes nothing."""
    model = nn.Sequential(nn.Sequential(Counting(2, 2), nn.ReLU()))
    for _ in range(2):
        checkpoint_activations(model, ["0", "0.0"])
    Counting.calls = 0
    model(torch.randn(3, 2)).sum().backward()
    assert Counting.calls == 2
    with torch.no_grad():
        model(torch.randn(3, 2))
    model.eval()(torch.randn(3, 2)).sum().backward()
    assert Counting.calls == 4


def test_a_model_with_recomputed_parts_may_be_copied() -> None:
    """A copy computes with its own weights, and names stay as they are."""
    model = a_perceptron()
    names = list(model.state_dict())
    checkpoint_activations(model, ["layers"])
    assert list(model.state_dict()) == names
    x = torch.randn(2, 6)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert isinstance(copied, Perceptron)
        assert torch.equal(copied(x), model(x))
        with torch.no_grad():
            next(copied.parameters()).zero_()
        assert not torch.equal(copied(x), model(x))


def test_a_pattern_without_a_module_is_an_error() -> None:
    """The error says where it was written."""
    with pytest.raises(UserError, match="matches no module") as caught:
        a_trainer(checkpoint_activations=("blocks.*",))
    assert caught.value.where == "trainer.checkpoint_activations"
