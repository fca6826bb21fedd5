"""The measurement of `runs plot` runs, short: the guard takes what it returns."""

from __future__ import annotations

import pytest

from benchmarks import curves


def test_a_plot_and_reading_are_compared() -> None:
    """They take turns over the same record."""
    pytest.importorskip("matplotlib")
    assert curves.plot_against_reading(records=1_000, pairs=2).median > 0
    assert curves.reading_against_itself(records=1_000, pairs=2).median > 0
