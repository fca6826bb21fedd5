"""Ctrl-C and SIGTERM: asked once, then as before; handlers are borrowed, not kept. Real runs are in `test_endings`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

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


def test_a_save_is_asked_for_each_time() -> None:
    """SIGUSR1 ends nothing, and its handler is borrowed like the others."""
    asked: list[signal.Signals] = []
    before = signal.getsignal(signal.SIGUSR1)
    with interrupts(asked.append):
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGUSR1)
    assert asked == [signal.SIGUSR1, signal.SIGUSR1]
    assert signal.getsignal(signal.SIGUSR1) is before


BUSY = """
import hashlib
from frameworm.training.interrupts import interrupts
data = bytes(800_000_000)
with interrupts(lambda number: print("asked", flush=True)):
    print("ready", flush=True)
    while True:
        hashlib.sha256(data)  # a second and more in one call, in which no handler of Python's can run
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_ends_a_process_that_is_busy(number: signal.Signals, tmp_path: Path) -> None:
    """A moment later, whatever long call is being made."""
    (tmp_path / "busy.py").write_text(BUSY, "utf-8")
    with subprocess.Popen([sys.executable, "busy.py"], cwd=tmp_path, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == b"asked\n"
        time.sleep(0.3)  # well inside the next call
        start = time.monotonic()
        process.send_signal(number)
        code = process.wait(20)
        assert time.monotonic() - start < 2
    assert code in (128 + number, -number)


def test_who_heard_of_signals_before_hears_of_them_still() -> None:
    """An event loop has a wake-up descriptor of its own; it gets what comes, and its place back at the end."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    os.set_blocking(reader, False)
    former = signal.set_wakeup_fd(writer)
    own = signal.signal(signal.SIGINT, lambda _number, _frame: None)
    try:
        with interrupts(lambda _number: None):
            signal.raise_signal(signal.SIGINT)
            assert os.read(reader, 1) == bytes([signal.SIGINT])
            signal.raise_signal(signal.SIGINT)
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                try:
                    assert os.read(reader, 1) == bytes([signal.SIGINT])
                    break
                except BlockingIOError:
                    time.sleep(0.01)
            else:
                pytest.fail("the number was not passed on")
        assert signal.set_wakeup_fd(writer) == writer
    finally:
        signal.signal(signal.SIGINT, own)
        signal.set_wakeup_fd(former)
        os.close(reader)
        os.close(writer)
