"""The lock of a log: one owner, by name, gone when its process is."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bus.lock import Lock, LogBusyError, Owner, owner_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the test's file is."""
    return tmp_path / "events.lock"


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that knows no locks."""

    def refuse(_fd: int, _kind: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr("bus.lock.fcntl.flock", refuse)


def dead_process() -> Owner:
    """The identity that a process on this machine had, which has ended."""
    code = "import msgspec; from bus.lock import Owner; print(msgspec.json.encode(Owner.current()).decode())"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=30).stdout
    return msgspec.json.decode(output, type=Owner)


def test_a_lock_is_held_once(path: Path) -> None:
    """The second one is told who has it, and gets it when it was given back."""
    lock = Lock(path)
    with pytest.raises(LogBusyError) as refused:
        Lock(path)
    assert refused.value.owner == Owner.current()
    lock.close()
    lock.close()
    Lock(path).close()


def test_the_owner_is_known_while_the_lock_is_held(path: Path) -> None:
    """Nobody owns a lock that does not exist, or was given back."""
    assert owner_of(path) is None
    lock = Lock(path)
    assert owner_of(path) == Owner.current()
    lock.close()
    assert owner_of(path) is None


def test_looking_at_a_lock_does_not_keep_a_writer_out(path: Path) -> None:
    """A reader holds the lock only for a moment, and a writer is patient for longer."""
    Lock(path).close()
    code = (
        "import fcntl, sys, time; file = open(sys.argv[1]); fcntl.flock(file, fcntl.LOCK_SH); print(flush=True);"
        "time.sleep(0.1)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        reader.stdout.readline()
        Lock(path).close()


def test_an_owner_that_cannot_be_read_still_owns(path: Path) -> None:
    """Between locking and naming itself a writer is unknown, but there."""
    lock = Lock(path)
    path.write_bytes(b"")
    owner = owner_of(path)
    assert owner is not None
    assert "unknown" in str(owner)
    lock.close()


def test_a_process_is_told_from_its_successors() -> None:
    """A number alone is no identity: processes end, numbers come again, machines restart."""
    me = Owner.current()
    assert me.alive()
    assert not dead_process().alive()
    assert not msgspec.structs.replace(me, boot="another").alive()
    if sys.platform == "linux":
        assert not msgspec.structs.replace(me, started=me.started + 1).alive()
    assert msgspec.structs.replace(me, host="elsewhere").alive()


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_living_owner_is_believed(path: Path) -> None:
    """Where the file system cannot lock, what the file says of a living process keeps others out."""
    lock = Lock(path)
    assert owner_of(path) == Owner.current()
    with pytest.raises(LogBusyError):
        Lock(path)
    lock.close()
    Lock(path).close()


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_dead_owner_is_followed(path: Path) -> None:
    """A process that died without a word does not keep its successor out."""
    path.write_bytes(msgspec.json.encode(dead_process()))
    assert owner_of(path) is None
    Lock(path).close()


def test_other_errors_are_not_taken_for_a_free_lock(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not known to be harmless is raised."""

    def fail(_fd: int, _kind: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("bus.lock.fcntl.flock", fail)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        Lock(path)
