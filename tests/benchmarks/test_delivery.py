"""Every measurement of listeners that are served elsewhere runs, short: the guard takes what it returns."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from benchmarks import delivery, memory, relay
from benchmarks.delivery import Blocks, RelayedRun
from benchmarks.peers import Log, log_asynchronously, log_in_the_loop, log_through_a_queue, logged_against_bare
from benchmarks.stepping import BLOCK, Stepping
from frameworm.delivery.listener import ProcessListener
from frameworm.delivery.status import status

SHORT = Blocks(long=1, pairs=2, lives=2)

pytestmark = pytest.mark.timeout(180)  # MLflow makes its tables


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work where the relay finds the benchmarks, as `python -m benchmarks.guard` does."""
    monkeypatch.chdir(Path(delivery.__file__).parents[1])


def nothing(_folder: Path) -> ProcessListener:
    """Describe a listener that does nothing."""
    return ProcessListener("nothing", f"{relay.__name__}:Nothing")


def test_mlflow_and_none_are_compared() -> None:
    """Steps that are kept in MLflow and steps that are not take turns."""
    pytest.importorskip("mlflow")
    ratio = delivery.mlflow_against_none(1, blocks=SHORT)
    assert 0 < ratio.low <= ratio.median <= ratio.high


def test_what_mlflow_is_behind_is_measured() -> None:
    """In seconds from the end of the training to that of the delivery."""
    pytest.importorskip("mlflow")
    assert 0 <= delivery.mlflow_behind(seconds=0.1).median < delivery.PATIENCE


@pytest.mark.filterwarnings("ignore")  # MLflow's own
@pytest.mark.parametrize("logging_to", [log_in_the_loop, log_asynchronously, log_through_a_queue])
def test_other_ways_to_mlflow_are_compared(logging_to: Callable[[], AbstractContextManager[Log]]) -> None:
    """They log what they are given, and have stored it when they have settled."""
    pytest.importorskip("mlflow")
    assert logged_against_bare(logging_to, long=1, pairs=1).median > 0


def test_a_burner_and_none_are_compared() -> None:
    """The relay is left behind nowhere, though its listener never comes back."""
    assert delivery.burner_against_none(blocks=SHORT).median > 0


def test_a_sleeper_and_none_are_compared() -> None:
    """Nobody waits for what the asynchronous listener has before it."""
    assert delivery.sleeper_against_none(blocks=SHORT).median > 0


def test_the_noise_is_measured() -> None:
    """Of both sizes of step."""
    assert delivery.none_against_itself(blocks=SHORT).noise >= 0
    assert delivery.long_against_itself(blocks=SHORT).noise >= 0


def test_a_relay_that_stands_still_delivers_nothing() -> None:
    """And goes on with what was recorded meanwhile."""
    with RelayedRun(nothing, record_every=1) as run, Stepping(run.fit) as loop:
        loop()
        run.wait()
        run.stand_still()
        loop()
        (report,) = status(run.folder)
        assert report.pending == BLOCK
        run.go_on()
        run.check()


def test_a_flood_is_measured() -> None:
    """In processes of their own."""
    assert memory.growth(events=1000).median < 16
