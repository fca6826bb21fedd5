"""Means over an epoch: right, weighted, the same on every device, and never waiting for one in a step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from frameworm.training.means import DeviceMeans, HostMeans, Means, means_on

CPU = torch.device("cpu")


def on_host() -> Means:
    """Means of what is on the CPU."""
    return HostMeans()


def on_device() -> Means:
    """Means that sum up where the values are; the CPU is such a place as well."""
    return DeviceMeans(CPU, look_every=1 << 30)


both = pytest.mark.parametrize("new", [on_host, on_device])


@both
def test_means_are_weighted_by_samples(new: Callable[[], Means]) -> None:
    """A smaller last batch counts for less; a metric that only some batches have, for those."""
    means = new()
    means.add(torch.tensor(1.0), {"kl": torch.tensor(2.0)}, 3)
    means.add(torch.tensor(5.0), {}, 1)
    assert means.read() == {"loss": 2.0, "kl": 2.0}


@both
def test_numbers_of_any_kind_are_taken_in(new: Callable[[], Means]) -> None:
    """And floats come out, whatever went in."""
    means = new()
    means.add(torch.tensor(1.0, dtype=torch.bfloat16), {"a": 1, "b": 2.5, "c": np.float32(0.5), "d": True}, 2)
    read = means.read()
    assert read == {"loss": 1.0, "a": 1.0, "b": 2.5, "c": 0.5, "d": 1.0}
    assert {type(value) for value in read.values()} == {float}


@both
def test_nothing_added_gives_no_means(new: Callable[[], Means]) -> None:
    """Rather than a division by zero."""
    assert new().read() == {}
    means = new()
    means.load_state_dict(new().state_dict())
    assert means.read() == {}


@both
def test_a_loss_with_a_graph_is_taken_in_without_it(new: Callable[[], Means]) -> None:
    """Or an epoch's graphs would be kept."""
    means = new()
    weight = torch.ones((), requires_grad=True)
    means.add(weight * 2, {"other": weight * 3}, 1)
    assert means.read() == {"loss": 2.0, "other": 3.0}


@both
def test_sums_are_exact_to_double_precision(new: Callable[[], Means]) -> None:
    """An epoch of small losses is not lost in the sum."""
    means = new()
    for _ in range(1000):
        means.add(torch.tensor(0.1), {}, 64)
    assert means.read()["loss"] == pytest.approx(float(torch.tensor(0.1)), rel=1e-12)


@both
@given(cut=st.integers(0, 6))
def test_going_on_from_a_saved_state_is_as_if_it_had_never_been_saved(new: Callable[[], Means], cut: int) -> None:
    """Bit for bit, from wherever the epoch was cut, and from one kind of device to the other."""
    losses = [torch.tensor(0.1 * n).sin() for n in range(6)]

    def feed(means: Means, part: list[Tensor]) -> Means:
        for loss in part:
            means.add(loss, {"kl": loss * 2}, 3)
        return means

    first = feed(on_host(), losses[:cut])
    second = new()
    second.load_state_dict(first.state_dict())
    third = on_host()
    third.load_state_dict(feed(second, losses[cut:]).state_dict())
    assert third.read() == feed(on_host(), losses).read()


def test_a_state_is_plain_and_its_own() -> None:
    """What goes into a checkpoint does not change afterwards."""
    means = on_host()
    means.add(torch.tensor(1.0), {"kl": 2.0}, 3)
    state = means.state_dict()
    means.add(torch.tensor(1.0), {"kl": 2.0}, 3)
    assert state == {"sums": {"loss": 3.0, "kl": 6.0}, "weights": {"loss": 3, "kl": 3}}


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_on_the_host_a_loss_that_is_not_finite_shows_at_once(poison: float) -> None:
    """Before it touches a weight."""
    means = HostMeans()
    means.add(torch.tensor(1.0), {"kl": math.nan}, 1)
    assert means.finite
    means.add(torch.tensor(poison), {}, 1)
    assert not means.finite


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_on_a_device_it_shows_when_somebody_looks(poison: float) -> None:
    """Once in so many additions, or when the means are read: the sum remembers."""
    means = DeviceMeans(CPU, look_every=3)
    means.add(torch.tensor(poison), {}, 1)
    means.add(torch.tensor(1.0), {}, 1)
    assert means.finite
    means.add(torch.tensor(1.0), {}, 1)
    assert not means.finite
    other = DeviceMeans(CPU, look_every=100)
    other.add(torch.tensor(poison), {}, 1)
    assert other.finite
    other.read()
    assert not other.finite


def test_adding_on_a_device_waits_for_it_only_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """All methods of a tensor that wait for its device are counted."""
    waited: list[str] = []

    def counting(name: str) -> Callable[..., Any]:
        method = getattr(Tensor, name)

        def call(tensor: Tensor, *args: Any) -> Any:
            waited.append(name)
            return method(tensor, *args)

        return call

    for name in ("item", "__bool__", "__float__", "__int__", "__index__", "tolist", "numpy", "cpu"):
        monkeypatch.setattr(Tensor, name, counting(name))
    means = DeviceMeans(CPU, look_every=10)
    loss, other = torch.tensor(1.0), torch.tensor(2.0)
    for _ in range(9):
        means.add(loss, {"kl": other, "count": 3}, 64)
    assert waited == []
    means.add(loss, {"kl": other, "count": 3}, 64)
    assert waited == ["item"]


def test_the_cpu_has_means_on_the_host() -> None:
    """Any other device its own."""
    assert isinstance(means_on(CPU, 10), HostMeans)
    assert isinstance(means_on(torch.device("meta"), 10), DeviceMeans)
