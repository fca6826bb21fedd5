"""Ctrl-C and SIGTERM: asked once, then as before; handlers are borrowed, not kept. Real runs are in `test_endings`."""

from __future__ import annotations

import signal
import threading

import pytest

from frameworm.training.interrupts import SIGNALS, interrupts


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_asks_and_the_second_is_as_before(number: signal.Signals) -> None:
    """Both kinds go back to their former handlers with the first."""
    asked: list[signal.Signals] = []
    former: list[int] = []
    before = {each: signal.signal(each, lambda number, _frame: former.append(number)) for each in SIGNALS}
    try:
        with interrupts(asked.append):
            signal.raise_signal(number)
            assert (asked, former) == ([number], [])
            for each in SIGNALS:
                signal.raise_signal(each)
        assert (asked, former) == ([number], list(SIGNALS))
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def test_handlers_are_restored_whatever_happens() -> None:
    """An error inside, too."""
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(ValueError, match="mine"), interrupts(print):
        raise ValueError("mine")
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_signal_that_is_ignored_stays_so() -> None:
    """As for a job in the background of a shell."""
    asked: list[signal.Signals] = []
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts(asked.append):
            signal.raise_signal(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert asked == []


def test_another_thread_installs_nothing() -> None:
    """Python would refuse it."""
    inside: list[object] = []

    def train() -> None:
        with interrupts(print):
            inside.extend(signal.getsignal(number) for number in SIGNALS)

    before = [signal.getsignal(number) for number in SIGNALS]
    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert inside == before
