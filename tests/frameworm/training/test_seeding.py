"""The global generators as one value."""

from __future__ import annotations

import io
import os
import random
from typing import Any

import numpy as np
import pytest
import torch

from frameworm.errors import CheckpointError, UserError
from frameworm.training.seeding import deterministic, isolated_rng, restore_rng, rng_state, seed_everything


def draw() -> tuple[float, float, float, float, float]:
    """A number of each kind from each global generator, the ones that keep a spare value included."""
    return (
        random.random(),
        random.gauss(0, 1),
        float(np.random.rand()),  # noqa: NPY002  the global generator is under test
        float(np.random.randn()),  # noqa: NPY002  likewise
        float(torch.rand(())),
    )


def test_a_seed_fixes_every_generator() -> None:
    """The same seed gives the same numbers, another seed others."""
    seed_everything(7)
    first = draw()
    seed_everything(7)
    assert draw() == first
    seed_everything(8)
    assert all(a != b for a, b in zip(draw(), first, strict=True))


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_some_generator_refuses_is_refused(seed: int) -> None:
    """A seed outside 32 bits is the user's error, before any generator is touched."""
    before = random.getstate()
    with pytest.raises(UserError, match="0 to 4294967295"):
        seed_everything(seed)
    assert random.getstate() == before


def test_the_state_goes_through_a_safe_file_and_restores_everything() -> None:
    """What `rng_state` returns loads back with weights_only and continues each sequence, mid-pair gaussians too."""
    seed_everything(1)
    draw()
    buffer = io.BytesIO()
    torch.save(rng_state(), buffer)
    expected = draw(), draw()
    buffer.seek(0)
    restore_rng(torch.load(buffer, weights_only=True))
    assert (draw(), draw()) == expected


@pytest.mark.parametrize(
    "damage", [{"torch": torch.zeros(3)}, {"numpy": ("MT19937",)}, {"python": 3}, {"torch": torch.zeros(9000).byte()}]
)
def test_a_state_that_cannot_be_restored_is_an_error(damage: dict[str, Any]) -> None:
    """A damaged state raises instead of going on with other numbers."""
    with isolated_rng(), pytest.raises(CheckpointError, match="cannot be restored"):
        restore_rng({**rng_state(), **damage})


def test_a_missing_generator_is_an_error() -> None:
    """A state without one of the generators is refused."""
    state = rng_state()
    del state["torch"]
    with isolated_rng(), pytest.raises(CheckpointError, match="KeyError: 'torch'"):
        restore_rng(state)


def test_the_state_of_a_device_that_is_not_here_is_an_error() -> None:
    """A state with more GPUs than this machine has says so, before any generator is touched."""
    seed_everything(3)
    state = {**rng_state(), "cuda": [torch.zeros(16, dtype=torch.uint8)] * 99}
    expected = draw()
    seed_everything(3)
    with pytest.raises(CheckpointError, match="99 CUDA"):
        restore_rng(state)
    assert draw() == expected


def test_what_is_drawn_in_isolation_leaves_no_trace() -> None:
    """Drawing and reseeding inside `isolated_rng` does not move the sequences outside, even when it raises."""
    seed_everything(5)
    expected = draw()
    seed_everything(5)

    def reseed_and_fail() -> None:
        seed_everything(6)
        draw()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), isolated_rng():
        reseed_and_fail()
    assert draw() == expected


def test_deterministic_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The switch holds inside the block alone, and does nothing when it is off."""
    monkeypatch.setitem(os.environ, "CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with deterministic(False):
        assert not torch.are_deterministic_algorithms_enabled()
    with deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.benchmark
    assert not torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
