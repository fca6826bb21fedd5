"""A training loop can be driven a block of steps at a time, through its data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from benchmarks.step import fit_bare, fit_trainer
from benchmarks.stepping import BLOCK, Batch, Stepping


def test_runs_a_block_when_called() -> None:
    """Each call gives the loop one block of batches; leaving ends its data."""
    seen: list[Batch] = []
    ended: list[bool] = []

    def fit(batches: Iterator[Batch]) -> None:
        for batch in batches:
            seen.append(batch)  # noqa: PERF402  one by one: the test looks in between
        ended.append(True)

    with Stepping(fit) as loop:
        loop()
        assert len(seen) == BLOCK
        loop()
        assert len(seen) == 2 * BLOCK
        assert not ended
    assert ended


def test_what_the_loop_raises_is_raised() -> None:
    """A loop that breaks breaks the measurement, it does not hang it."""

    def fit(batches: Iterator[Batch]) -> None:
        next(batches)
        raise ZeroDivisionError

    with Stepping(fit) as loop, pytest.raises(ZeroDivisionError):
        loop()


@pytest.mark.parametrize(
    "fit",
    [fit_bare, fit_trainer, partial(fit_trainer, hooks=True), partial(fit_trainer, record_every=1)],
    ids=["bare", "trainer", "hooks", "journal"],
)
def test_every_guarded_loop_runs(fit: Callable[[Iterator[Batch]], object]) -> None:
    """The loops that the guard compares train a block after a block, and end."""
    with Stepping(fit) as loop:
        loop()
        loop()
