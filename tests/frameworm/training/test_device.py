"""Devices by name, and batches of any shape brought onto them."""

from __future__ import annotations

import types
from collections import OrderedDict, defaultdict
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence

from frameworm.errors import UserError
from frameworm.training.device import available_devices, move, resolve_device

CPU = torch.device("cpu")
META = torch.device("meta")  # stands for an accelerator: a real device to move to, wherever the tests run


class Pair(NamedTuple):
    """A batch as a named tuple."""

    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Sample:
    """A batch as a frozen dataclass whose constructor does not take all of it."""

    x: Tensor
    name: str
    extra: Tensor = field(init=False, default_factory=lambda: torch.ones(2))


class Foreign:
    """A batch of a library that moves itself."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def to(self, device: torch.device) -> Foreign:
        """As tensors do."""
        return Foreign(device)


def test_auto_is_the_best_device_there_is() -> None:
    """`auto` names something, and the CPU is always the last resort."""
    assert available_devices()[-1] == "cpu"
    assert resolve_device("auto").type == available_devices()[0].partition(":")[0]
    assert resolve_device("cpu") == CPU


def test_cuda_is_preferred_and_means_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """With two GPUs, `auto` and `cuda` are the process's current one, and an index names one of them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda:1")
    assert resolve_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(UserError, match="cuda:0, cuda:1"):
        resolve_device("cuda:2")


@pytest.mark.parametrize("name", ["cuda:9", "mps:3", "gpu", "", "meta"])
def test_a_device_that_is_not_here_is_named_with_those_that_are(name: str) -> None:
    """The error says which devices this torch build finds."""
    with pytest.raises(UserError) as caught:
        resolve_device(name)
    assert "cpu" in str(caught.value.expected)
    assert torch.__version__ in str(caught.value.expected)


def test_a_batch_that_is_there_already_is_the_same_object() -> None:
    """Containers are not rebuilt when none of their tensors had to move."""
    x = torch.ones(1)
    for batch in (x, [x], (x, "a"), {"x": x}, Pair(x, x), Sample(x, "a"), 3, None, "text", Sample):
        assert move(batch, CPU) is batch


def test_moving_keeps_types_and_everything_that_is_no_tensor() -> None:
    """Every kind of container keeps its type, its other items and what it carries besides."""
    x = torch.ones(2)
    to_meta = partial(move, device=META)

    pair = to_meta(Pair(x, x))
    assert type(pair) is Pair
    assert pair.x.device == pair.y.device == META

    sample = to_meta(Sample(x, "cat"))
    assert type(sample) is Sample
    assert (sample.x.device, sample.extra.device, sample.name) == (META, META, "cat")

    nested: dict[str, Any] = to_meta({"a": [x, (x, 1)], "b": "text"})
    assert nested["a"][1][0].device == META
    assert (nested["a"][1][1], nested["b"]) == (1, "text")

    lists: defaultdict[str, list[Tensor]] = defaultdict(list, x=[x])
    moved = to_meta(lists)
    assert moved["x"][0].device == META
    assert moved["new"] == []
    assert lists["x"][0].device == CPU

    ordered = to_meta(OrderedDict(b=x, a=x))
    assert type(ordered) is OrderedDict
    assert list(ordered) == ["b", "a"]


def test_what_moves_itself_is_asked_to() -> None:
    """A packed sequence, and any object with `to`, is moved by its own method."""
    assert move(Foreign(CPU), META).device == META
    assert move(pack_sequence([torch.ones(2)]), META).data.device == META


def test_only_cuda_copies_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy to a CUDA device is asynchronous; to any other it is not, as the source may be reused."""
    asked = []
    monkeypatch.setattr(Tensor, "to", lambda self, device, *, non_blocking: asked.append((device.type, non_blocking)))
    move(torch.ones(1), torch.device("cuda"))
    move(torch.ones(1), torch.device("mps"))
    assert asked == [("cuda", True), ("mps", False)]


def test_a_mapping_that_cannot_be_changed_is_left_alone() -> None:
    """A read-only mapping is no container of batches that anybody could rebuild."""
    view = types.MappingProxyType({"x": torch.ones(1)})
    assert move(view, META) is view
