"""What a process says to those it trains with, where it is alone, and what it may not ask for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from frameworm.errors import UserError
from frameworm.training.distributed.world import ALONE, current, joined, merged


def test_who_is_alone_says_everything_to_itself() -> None:
    """Nothing is started, and nobody is waited for."""
    with joined() as world:
        assert world is ALONE is current()
        assert (world.rank, world.size, world.is_first) == (0, 1, True)
        assert world.gathered("a") == ["a"]
        assert world.from_first("a") == "a"
        assert world.any(True)
        assert not world.any(False)
        with pytest.raises(ZeroDivisionError):
            world.decided_by_first(lambda: 1 // 0)
    assert not torch.distributed.is_initialized()


def test_means_of_several_are_weighted() -> None:
    """A process with more samples counts more; what one of them lacks is the others' mean."""
    states: list[dict[str, Any]] = [
        {"sums": {"loss": 6.0, "real": 1.0}, "weights": {"loss": 3, "real": 2}},
        {"sums": {"loss": 2.0}, "weights": {"loss": 1}},
        {"sums": {}, "weights": {}},
    ]
    assert merged(states) == {"loss": 2.0, "real": 0.5}


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them find it, before any waits for another."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    launched = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    for name, value in {**launched, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="more processes than GPUs"), joined():
        pass
