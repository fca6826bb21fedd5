"""What is switched off in the trainer is switched off in the process lane, but nobody is left without an end."""

from __future__ import annotations

from pathlib import Path

from frameworm.delivery.relay import Outcome, Relay
from tests.frameworm.delivery.listeners import lines
from tests.frameworm.delivery.recorded import listener, new_run, plan, writing


def heard(run_dir: Path, path: Path) -> list[int]:
    """The numbers of the records that a listener gets."""
    plan(run_dir, listener("a", "ToFile", path=path))
    with Relay(run_dir) as relay:
        assert relay.run() is Outcome.DELIVERED
    return [line["seq"] for line in lines(path)] if path.exists() else []


def test_hooks_that_are_switched_off_for_a_while(tmp_path: Path) -> None:
    """They hear what comes before and afterwards."""
    run = new_run(tmp_path)
    with writing(run) as write:
        write("train_begin", epochs=1)
        write("batch_end", batch_idx=0, loss=0.5)
        write("hooks_switched", enabled=False)
        write("batch_end", batch_idx=1, loss=0.5)
        write("hooks_switched", enabled=True)
        write("batch_end", batch_idx=2, loss=0.5)
        write("train_end", status="finished", reason=None, error=None)
    assert heard(run, tmp_path / "a") == [2, 6, 7]


def test_hooks_that_are_switched_off_until_the_end(tmp_path: Path) -> None:
    """Whoever has heard of the run hears how it ended; of the next attempt everything counts again."""
    run = new_run(tmp_path)
    with writing(run) as write:
        write("batch_end", batch_idx=0, loss=0.5)
        write("hooks_switched", enabled=False)
        write("batch_end", batch_idx=1, loss=0.5)
        write("train_end", status="finished", reason=None, error=None)
    with writing(run, attempt=2) as write:
        write("batch_end", batch_idx=2, loss=0.5)
        write("train_end", status="finished", reason=None, error=None)
    assert heard(run, tmp_path / "a") == [1, 4, 5, 6]


def test_hooks_that_are_off_all_the_time(tmp_path: Path) -> None:
    """They have no run to end."""
    run = new_run(tmp_path)
    with writing(run) as write:
        write("hooks_switched", enabled=False)
        write("batch_end", batch_idx=0, loss=0.5)
        write("train_end", status="finished", reason=None, error=None)
    assert heard(run, tmp_path / "a") == []
