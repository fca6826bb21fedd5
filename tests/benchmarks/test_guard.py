"""The guard passes what keeps its bar, allows for noise and no more, and fails what misses three times."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.guard import MOST_NOISE, Row, judge, possible, report, rows
from benchmarks.paired import Estimate, Ratio


def ratio(median: float, spread: float = 0.0) -> Ratio:
    """Return a measurement."""
    return Ratio(median, median - spread, median + spread, median, 1.0)


def row(*medians: float, bar: float = 1.0, noise: float = 0.0) -> Row:
    """Return a promise whose measurements come out like this, one after the other."""
    measured: Iterator[float] = iter(medians)
    return Row("this", "that", bar, lambda: ratio(next(measured)), lambda: ratio(1.0, noise))


def quantity(value: float, needs: str | None = None) -> Row:
    """Return a promise about seconds, say."""
    return Row("this", "seconds", 2.0, lambda: Estimate(value, value, value), None, needs=needs)


def test_what_keeps_its_bar_passes_at_once() -> None:
    """One measurement is enough, the bar itself included."""
    assert judge(row(1.0)).passed
    assert judge(row(1.0)).tries == 1


def test_noise_is_allowed_for() -> None:
    """What the baseline against itself cannot tell apart does not fail a row; more than that does."""
    assert judge(row(1.01, noise=0.015)).passed
    assert not judge(row(1.016, 1.016, 1.016, noise=0.015)).passed


def test_a_noisy_machine_excuses_little() -> None:
    """The allowance has an end."""
    verdict = judge(row(1.03, 1.03, 1.03, noise=0.5))
    assert verdict.allowed == 1 + MOST_NOISE
    assert not verdict.passed


def test_a_miss_is_measured_again() -> None:
    """Only missing three times is a failure."""
    once = judge(row(2.0, 2.0, 0.9))
    assert (once.passed, once.tries, once.ratio.median) == (True, 3, 0.9)
    always = judge(row(2.0, 3.0, 4.0, 0.1))
    assert (always.passed, always.tries, always.ratio.median) == (False, 3, 4.0)


def test_the_table_says_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """A line per row with the measurement, the bar, the margin and the verdict; the whole passes when all do."""
    assert report([judge(row(0.5))])
    assert not report([judge(row(0.5)), judge(row(2.0, 2.0, 2.0))])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines] == ["tries", "PASS", "tries", "PASS", "FAIL"]
    assert lines[1].split() == ["this", "that", "0.500", "0.000", "1.00", "1.00", "0.0%", "50.0%", "1", "PASS"]


def test_a_quantity_keeps_its_bar_as_it_is() -> None:
    """What is no ratio has no baseline whose noise could be allowed for."""
    assert judge(quantity(2.0)).passed
    assert not judge(quantity(2.001)).passed


def test_what_is_not_installed_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    """The other rows are measured, and it is said which is not."""
    rows = [quantity(1.0, needs="no_such_module"), quantity(1.5, needs="benchmarks")]
    assert [row.needs for row in possible(rows)] == ["benchmarks"]
    assert "left out: no_such_module is not installed" in capsys.readouterr().out


def test_every_promise_is_guarded() -> None:
    """The rows are those that the project promises; a bar above its goal is what has been reached so far."""
    assert all(row.bar is not None and row.bar >= (row.goal or 0) for row in rows())
    assert [(row.what, row.goal or row.bar) for row in rows()] == [
        ("emit, no typed listeners", 0.15),
        ("emit, 1 typed listener", 0.20),
        ("emit, 10 typed listeners", 0.12),
        ("emit, 1 asynchronous listener", 0.50),
        ("1 000 000 events, queue full", 16.0),
        ("100 000 steps, three listeners", 5.0),
        ("step, no listeners, journal off", 1.04),
        ("step, options on", 1.03),
        ("step, five document hooks", 1.07),
        ("step, five hooks of a plugin", 1.07),
        ("step, five hooks of a plugin", 1.03),
        ("step, journal, log_every=10", 1.03),
        ("step, journal, a record per step", 1.10),
        ("step, two processes, DDP", 1.03),
        ("step, two processes, FSDP2", 1.05),
        ("step, MLflow, a record per step", 1.15),
        ("step, MLflow, log_every=10", 1.04),
        ("MLflow, a record per step", 2.0),
        ("step, a relay that burns Python", 1.06),
        ("5 ms step, async listener of 100 ms", 1.01),
        ("100 MB in the background, the stall", 1.5),
        ("... and a step meanwhile", 1.1),
        ("frameworm --help", 3.0),
        ("frameworm plugins list, 200 of them", 2.0),
        ("load 100 small plugins", 3.0),
        ("relay, 100 000 records behind", 5.0),
        ("runs plot, 100 000 records", 3.0),
    ]
