"""Who may write: an exclusive lock on a file that names its owner, so that a second writer is refused by name."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import sys
import time
from pathlib import Path

import msgspec

from .errors import BusError

_UNSUPPORTED = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}
_PATIENCE = 0.2  # seconds for which a lock is tried: whoever looks at it holds it for a moment


class Owner(msgspec.Struct, frozen=True):
    """The identity of a process: no other process, on any machine, has the same."""

    host: str
    boot: str
    """The id of the machine's last start; empty where the system has none."""
    pid: int
    started: int
    """When the process started, in the system's clock ticks since boot; 0 where the system does not tell."""

    @classmethod
    def current(cls) -> Owner:
        """Return the identity of this process."""
        pid = os.getpid()
        return cls(socket.gethostname(), _boot(), pid, _started(pid) or 0)

    def alive(self) -> bool:
        """Whether the process may still live; of one on another host that cannot be known, so it may."""
        if self.host != socket.gethostname():
            return True
        return self.boot == _boot() and self.started == _started(self.pid)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


_UNKNOWN = Owner("an unknown host", "", 0, 0)


class LogBusyError(BusError):
    """`owner`, a living process, holds the lock at `path`."""

    def __init__(self, path: Path, owner: Owner) -> None:
        self.path = path
        self.owner = owner
        super().__init__(f"{path} is held by {owner}")


class Lock:
    """The exclusive lock at `path`, held until `close` or the end of the process; a forked child does not hold it on.

    Raises `LogBusyError` when another writer holds it, and OSError when the file cannot be written. The file stays, so
    that nobody ever locks one that has just been removed; it is empty when its last owner closed it.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not self._wait():
                raise LogBusyError(path, _read(self._fd) or _UNKNOWN)  # noqa: TRY301  closes the file like any error
            identity = msgspec.json.encode(Owner.current())
            os.pwrite(self._fd, identity, 0)
            os.ftruncate(self._fd, len(identity))
        except BaseException:
            os.close(self._fd)
            raise

    def _wait(self) -> bool:
        deadline = time.monotonic() + _PATIENCE
        while not _take(self._fd, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                return False
            time.sleep(_PATIENCE / 20)
        return True

    def close(self) -> None:
        """Give the lock back; again is no error."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):  # a file system that fails now cannot keep the lock from going
                os.ftruncate(self._fd, 0)
            self.abandon()

    def abandon(self) -> None:
        """Let go of the file without a word to others: what a forked child does with the lock of its parent."""
        os.close(self._fd)
        self._fd = -1


def owner_of(path: Path) -> Owner | None:
    """Return the living process that holds the lock at `path`; None when nobody does, or there is no such file."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        return None if _take(fd, fcntl.LOCK_SH) else _read(fd) or _UNKNOWN
    finally:
        os.close(fd)


def _take(fd: int, kind: int) -> bool:
    """Whether the lock was free; where the file system has none, by what the file says of its owner."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        owner = _read(fd)
        return owner is None or not owner.alive()
    return True


def _read(fd: int) -> Owner | None:
    try:
        return msgspec.json.decode(os.pread(fd, 4096, 0), type=Owner)
    except msgspec.DecodeError:  # empty, or just being written
        return None


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """When the process `pid` started, 0 where the system does not tell; None where there is no such process."""
    try:
        if sys.platform == "linux":
            stat = Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace")
            return int(stat.rpartition(")")[2].split()[19])  # field 22 in proc(5); the name before it may hold spaces
        os.kill(pid, 0)
    except PermissionError:
        return 0
    except OSError:
        return None
    return 0
