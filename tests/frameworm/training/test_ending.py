"""Listeners that are behind are waited for: as long as the ending allows, and less when a signal comes meanwhile."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable

import pytest

from frameworm.training.ending import drain, patience


@pytest.mark.parametrize(
    ("number", "failed", "usual", "seconds"),
    [
        (None, False, 30.0, 30.0),
        (None, False, "forever", float("inf")),
        (None, True, 30.0, 10.0),
        (None, True, 3.0, 3.0),
        (signal.SIGINT, False, 30.0, 5.0),
        (signal.SIGINT, False, 1.0, 1.0),
        (signal.SIGTERM, False, "forever", 10.0),
    ],
)
def test_how_long(number: signal.Signals | None, failed: bool, usual: float, seconds: float) -> None:  # noqa: FBT001  a table
    """The config's time, less after a failure, a Ctrl-C or a SIGTERM."""
    assert patience(number, failed=failed, usual=usual) == seconds


def test_how_long_a_sigterm_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment says, as a cluster knows it; what is no number does not count."""
    for text, seconds in {"2.5": 2.5, "-1": 0.0, "soon": 10.0}.items():
        monkeypatch.setenv("FRAMEWORM_GRACE", text)
        assert patience(signal.SIGTERM, failed=False, usual=30.0) == seconds


def test_what_is_delivered_is_not_waited_for() -> None:
    """Each is asked once, whatever the others say."""
    asked: list[str] = []

    def wait(name: str, *, delivered: bool) -> bool:
        asked.append(name)
        return delivered

    assert drain([lambda _left: wait("a", delivered=True), lambda _left: wait("b", delivered=True)], lambda: 9.0)
    assert not drain([lambda _left: wait("a", delivered=False), lambda _left: wait("b", delivered=True)], lambda: 9.0)
    assert asked == ["a", "b", "a", "b"]


def test_the_time_is_for_all_together(caplog: pytest.LogCaptureFixture) -> None:
    """One that hangs uses it up; nothing is left for the next. People are told, once, what is waited for."""
    rests: list[float] = []

    def hang(left: Callable[[], float]) -> bool:
        while left():
            time.sleep(0.05)
        return False

    def late(left: Callable[[], float]) -> bool:
        rests.append(left())
        return True

    with caplog.at_level(logging.INFO):
        start = time.monotonic()
        assert not drain([hang, late], lambda: 1.5)
    assert 1.4 < time.monotonic() - start < 10
    assert rests == [0.0]
    assert [record.message for record in caplog.records] == ["waiting for listeners that are behind, 0 s at most"]


def test_there_may_be_less_time_meanwhile() -> None:
    """As after a first Ctrl-C."""
    times = iter([60.0, 60.0])
    rests: list[float] = []

    def wait(left: Callable[[], float]) -> bool:
        while rest := left():
            rests.append(rest)
        return False

    assert not drain([wait], lambda: next(times, 0.0))
    assert len(rests) == 2
