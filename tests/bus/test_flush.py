"""Flushing on a thread of its own: on request, in intervals, not while it is held."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bus.flush import Flusher


class Disk:
    """A file, and an account of the flushes of it."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.flushed: list[int] = []
        self.failures: list[OSError] = []
        path.touch()
        monkeypatch.setattr("bus.flush._flush", self._flush)

    def _flush(self, fd: int) -> None:
        os.fstat(fd)
        self.flushed.append(fd)

    def open(self) -> int:
        """Return a new descriptor of the file."""
        return os.open(self.path, os.O_RDONLY)

    def flusher(self, every: float | None = None) -> Flusher:
        """Return a flusher of the file."""
        return Flusher(self.open, self.failures.append, every)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """A disk on which no flush fails."""
    disk = Disk(tmp_path / "file", monkeypatch)
    yield disk
    assert disk.failures == []


def wait_for(condition: Callable[[], bool]) -> None:
    """Return when the condition holds, which it must do soon."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_request_flushes_once_and_closes_what_it_flushed(disk: Disk) -> None:
    """The descriptor is the flusher's, and it does not keep it."""
    flusher = disk.flusher()
    flusher.request()
    wait_for(lambda: len(disk.flushed) == 1)
    flusher.close()
    assert len(disk.flushed) == 1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(disk.flushed[0])


def test_intervals_flush_without_a_request(disk: Disk) -> None:
    """With `every` it goes on by itself."""
    flusher = disk.flusher(0.01)
    wait_for(lambda: len(disk.flushed) >= 3)
    flusher.close()


def test_nothing_is_flushed_while_held(disk: Disk) -> None:
    """Intervals pass over a hold, and the next request ends it."""
    flusher = disk.flusher(0.01)
    flusher.hold()
    time.sleep(0.03)  # a flush that was under way
    before = len(disk.flushed)
    time.sleep(0.05)
    assert len(disk.flushed) == before
    flusher.request()
    wait_for(lambda: len(disk.flushed) > before)
    flusher.close()


def test_closing_flushes_what_was_retired_and_ends_the_thread(disk: Disk) -> None:
    """Nothing that was handed over is left behind."""
    flusher = disk.flusher()
    fd = disk.open()
    flusher.retire(fd)
    flusher.close()
    assert disk.flushed == [fd]
    assert "log-flusher" not in {thread.name for thread in threading.enumerate()}
