"""What the trainer asks of a model: how a batch gets into `compute_loss`, and what has to come out."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from frameworm.errors import ModelContractError
from frameworm.training.contract import LossFunction, scalars, size_of
from tests.frameworm.training.toys import Scripted, a_perceptron, a_trainer, some_batches

LOSS = torch.tensor(1.5)


def calls_of(signature: Callable[..., Any], batch: Any) -> Any:
    """Return what a model whose `compute_loss` has this signature is called with for `batch`."""

    @functools.wraps(signature)
    def compute_loss(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return {"loss": LOSS, "got": (args, kwargs)}

    model = nn.Module()
    model.__dict__["compute_loss"] = compute_loss
    return LossFunction(model, "m")(batch)["got"]


def x_and_y(x: Any, y: Any = None) -> None:
    """The document's signature."""


def three(a: Any, b: Any, c: Any) -> None:
    """Takes three."""


def one(batch: Any) -> None:
    """Takes the batch."""


def named(pixels: Any, *, label: Any, weight: Any = None) -> None:
    """Takes a mapping's items."""


class Pair(NamedTuple):
    """A batch as some collate functions give it."""

    x: str
    y: str


@pytest.mark.parametrize(
    ("signature", "batch", "args", "kwargs"),
    [
        (x_and_y, ("x", "y"), ("x", "y"), {}),
        (x_and_y, ["x", "y"], ("x", "y"), {}),
        (x_and_y, Pair("x", "y"), ("x", "y"), {}),
        (x_and_y, ("x",), ("x",), {}),
        (x_and_y, ["x"], ("x",), {}),
        (x_and_y, "x", ("x",), {}),
        (x_and_y, {"x": 1, "y": 2}, (), {"x": 1, "y": 2}),
        (x_and_y, {"x": 1}, (), {"x": 1}),
        (named, {"pixels": 1, "label": 2}, (), {"pixels": 1, "label": 2}),
        (three, ("a", "b", "c"), ("a", "b", "c"), {}),
        (x_and_y, ("a", "b", "c"), (("a", "b", "c"),), {}),
        (x_and_y, (), ((),), {}),
        (one, ("x", "y"), (("x", "y"),), {}),
        (one, {"pixels": 1, "label": 2}, ({"pixels": 1, "label": 2},), {}),
        (one, {1: 2}, ({1: 2},), {}),
        (x_and_y, {"pixels": 1}, ({"pixels": 1},), {}),
    ],
)
def test_a_batch_is_spread_over_the_parameters_where_they_take_it(
    signature: Callable[..., Any], batch: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Otherwise it goes in whole."""
    assert calls_of(signature, batch) == (args, kwargs)


def test_a_tensor_is_the_input() -> None:
    """Data without targets."""
    x = torch.ones(2)
    (got,), _ = calls_of(x_and_y, x)
    assert got is x


def bad(what: Any) -> nn.Module:
    """Return a model that gives `what` for a loss."""
    return Scripted(lambda model, batch: what)


@pytest.mark.parametrize(
    ("what", "got"),
    [
        (torch.ones(()), "a tensor of shape ()"),
        (None, "NoneType None"),
        (1.0, "float 1.0"),
        ({}, "a dict with nothing in it"),
        ({"los": LOSS, "accuracy": 1}, "a dict with 'los', 'accuracy' in it"),
        ({"loss": 1.0}, 'float 1.0 under "loss"'),
        ({"loss": None}, 'NoneType None under "loss"'),
        ({"loss": torch.ones(2)}, 'a tensor of shape (2,) under "loss"'),
        ({"loss": torch.ones(1)}, 'a tensor of shape (1,) under "loss"'),
    ],
    ids=str,
)
def test_what_is_no_loss_is_an_error_that_names_the_model_and_says_what_came(what: Any, got: str) -> None:
    """The same from the trainer, under the name that the model has in its run."""
    with pytest.raises(ModelContractError, match="model 'mine'") as caught:
        LossFunction(bad(what), "mine")("x")
    assert caught.value.got == got
    assert caught.value.model == "mine"
    assert caught.value.where == "tests.frameworm.training.toys.Scripted.compute_loss"
    trainer = a_trainer(bad(what))
    with pytest.raises(ModelContractError, match="model 'Scripted'"):
        trainer.fit()
    assert trainer.error is not None
    assert got in trainer.error


def test_a_hint_says_what_to_do_with_a_loss_for_each_sample() -> None:
    """As people often forget the mean."""
    with pytest.raises(ModelContractError) as caught:
        LossFunction(bad({"loss": torch.ones(2)}), "mine")("x")
    assert caught.value.hint == "loss.mean()"


def test_a_model_without_compute_loss_is_refused_before_training() -> None:
    """It is named as well."""
    with pytest.raises(ModelContractError, match="model 'Linear': it has no compute_loss"):
        a_trainer(nn.Linear(6, 3))


def test_subclasses_of_dict_and_tensor_will_do() -> None:
    """Libraries return their own."""

    class Named(Tensor):
        pass

    outputs = OrderedDict(loss=LOSS.as_subclass(Named))
    assert LossFunction(bad(outputs), "m")("x") is outputs
    parameter = {"loss": nn.Parameter(LOSS)}
    assert LossFunction(bad(parameter), "m")("x") is parameter


def test_an_error_in_the_model_stays_its_own() -> None:
    """Nothing is guessed from a TypeError."""

    def broken(_model: Scripted, _batch: Any) -> Any:
        raise TypeError("mine")

    with pytest.raises(TypeError, match="mine"):
        LossFunction(Scripted(broken), "m")(("x", "y"))


def test_compute_loss_may_be_dressed() -> None:
    """As for a precision; the signature is the model's own."""
    seen: list[str] = []

    def dress(function: Callable[..., Any]) -> Callable[..., Any]:
        def dressed(*args: Any) -> Any:
            seen.append("dressed")
            return function(*args)

        return dressed

    LossFunction(a_perceptron(), "m", dress)(some_batches()[0])
    assert seen == ["dressed"]


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (torch.ones(3, 2), 3),
        (torch.ones(()), 1),
        ((torch.ones(3, 2), torch.ones(4)), 3),
        ([["a", "b"], torch.ones(4)], 4),
        ({"id": ["a", "b"], "x": {"pixels": torch.ones(5, 2)}}, 5),
        ((), 1),
        ("text", 1),
        (None, 1),
        (torch.ones(0, 2), 0),
    ],
    ids=str,
)
def test_a_batch_is_as_large_as_its_first_tensor(batch: Any, size: int) -> None:
    """However deep that lies."""
    assert size_of(batch) == size


def test_numbers_and_scalars_become_metrics() -> None:
    """Whatever else a model returns is not for the epoch's means."""
    outputs = {
        "loss": LOSS,
        "predictions": LOSS,
        "targets": LOSS,
        "kl": torch.tensor(0.5),
        "count": 3,
        "share": np.float32(0.25),
        "logits": torch.ones(2),
        "note": "text",
    }
    assert scalars(outputs) == {"kl": torch.tensor(0.5), "count": 3, "share": np.float32(0.25)}
