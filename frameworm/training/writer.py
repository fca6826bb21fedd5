"""Writes checkpoints in a process of its own, from a copy in memory, while training goes on.

A thread would not do: hashing and writing take the interpreter, the caches and a core from the loop. The process is
given a piece of memory that both share, and jobs on its standard input, a line of JSON each, which it answers one by
one. It needs no torch. When the training is gone, killed even, it finishes what it was given, and ends.

While training goes on it works about a seventh of the time: where training takes every core, a step takes longer while
it works. When somebody waits for it, it does not rest.
"""

from __future__ import annotations

import logging
import mmap
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from frameworm.errors import CheckpointError
from frameworm.training.manifest import Manifest
from frameworm.training.store import CheckpointStore, Content, lock

log = logging.getLogger("frameworm")

_NICENESS = 15
_PIECE = 2**24  # bytes from one rest to the next, enough that waking up is seldom: that disturbs more than the work
_REST = 6.0  # times as long as a piece took
_NAP = 0.05  # seconds between two looks, in a rest, whether somebody waits
_URGENT = 0  # where in the shared memory it says so, in a byte
_HEAD = 64  # bytes before the files in it
_LOOK = 0.5  # seconds after which it is looked whether the training is still there


class Copied(Protocol):
    """A file that can be copied into memory."""

    size: int
    """In bytes."""

    def copy_into(self, target: memoryview) -> None:
        """Copy it."""


class Job(msgspec.Struct, frozen=True):
    """A checkpoint to be written."""

    root: str
    keep: int
    keep_best: int
    monitor: str | None
    mode: Literal["auto", "min", "max"]
    manifest: Manifest
    files: Mapping[str, tuple[int, int]]
    """Where each of them begins and ends in the shared memory."""


class Answer(msgspec.Struct, frozen=True):
    """The name of the checkpoint's directory, or the fields of the CheckpointError that it came to."""

    name: str = ""
    error: Mapping[str, str | None] | None = None


class Writer:
    """The process that writes into `store`, started with the first checkpoint; one is written at a time."""

    def __init__(self, store: CheckpointStore) -> None:
        self.store = store
        self._descriptor = _memory()
        self._shared = mmap.mmap(-1, 1)
        self.process: subprocess.Popen[bytes] | None = None
        self._thread = ThreadPoolExecutor(1, "checkpoints")

    def write(self, manifest: Manifest, files: Mapping[str, Copied]) -> Future[Path]:
        """Copy the files, while none is being written, and have them written.

        The future raises CheckpointError when the disk does not take them.
        """
        ends = list(accumulate((file.size for file in files.values()), initial=_HEAD))
        spans = dict(zip(files, pairwise(ends), strict=True))
        self._make_room(ends[-1])
        self._shared[_URGENT] = 0
        for name, (begin, end) in spans.items():
            files[name].copy_into(memoryview(self._shared)[begin:end])
        store = self.store
        job = Job(str(store.root.absolute()), store.keep, store.keep_best, store.monitor, store.mode, manifest, spans)
        return self._thread.submit(self._written, job)

    def hurry(self) -> None:
        """Let it write without a rest: somebody waits."""
        self._shared[_URGENT] = 1

    def _make_room(self, size: int) -> None:
        if size > len(self._shared):
            size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
            os.ftruncate(self._descriptor, size)
            self._shared = mmap.mmap(self._descriptor, size)

    def close(self) -> None:
        """Let the process end when it has written what it was given; this does not wait for it."""
        self._thread.submit(self._end)
        self._thread.submit(os.close, self._descriptor)
        self._thread.shutdown(wait=False)

    def _written(self, job: Job) -> Path:
        try:
            answer = self._asked(job)
        except (OSError, msgspec.DecodeError) as error:
            log.warning("no other process writes this checkpoint (%s): it is written here", error)
            self._end()
            memory = memoryview(self._shared)
            return _write(job, {name: [memory[begin:end]] for name, (begin, end) in job.files.items()})
        if answer.error is not None:
            raise CheckpointError(**answer.error)  # type: ignore[arg-type]  # its message is text
        return self.store.root / answer.name

    def _asked(self, job: Job) -> Answer:
        if self.process is None:
            self.process = self._started()
        requests, answers = self.process.stdin, self.process.stdout
        assert requests is not None
        assert answers is not None
        requests.write(msgspec.json.encode(job) + b"\n")
        requests.flush()
        return msgspec.json.decode(answers.readline(), type=Answer)

    def _started(self) -> subprocess.Popen[bytes]:
        self.store.make_root()
        held = lock(self.store.root)  # before there is a job, and handed over: nobody comes in between
        try:
            process = subprocess.Popen(  # noqa: S603  our own interpreter
                [sys.executable, "-m", __name__, str(os.getpid()), str(self._descriptor)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[self._descriptor, held],
                start_new_session=True,  # a terminal's signals are meant for the training
            )
        finally:
            os.close(held)
        with suppress(OSError):  # it may be gone already
            os.setpriority(os.PRIO_PROCESS, process.pid, _NICENESS)
        return process

    def _end(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            with suppress(OSError):
                process.communicate()


def _memory() -> int:
    """Return the descriptor of memory that another process can share."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("checkpoint")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _write(job: Job, files: Mapping[str, Content]) -> Path:
    store = CheckpointStore(Path(job.root), keep=job.keep, keep_best=job.keep_best, monitor=job.monitor, mode=job.mode)
    return store.write(job.manifest, files)


def main() -> None:
    """Write what standard input asks for, until its end, or that of the training."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # whose end is meant will say when it is over
    training, descriptor = int(sys.argv[1]), int(sys.argv[2])
    answers, memory = sys.stdout.buffer, mmap.mmap(-1, 1)
    for line in _lines(training):
        job = msgspec.json.decode(line, type=Job)
        size = os.fstat(descriptor).st_size
        if size != len(memory):
            memory = mmap.mmap(descriptor, size, prot=mmap.PROT_READ)
        try:
            files = {name: paced(memoryview(memory), *span, training) for name, span in job.files.items()}
            answer = Answer(name=_write(job, files).name)
        except CheckpointError as error:
            fields = {name: getattr(error, name) for name in ("message", "expected", "got", "where", "hint")}
            answer = Answer(error=fields)
        with suppress(BrokenPipeError):  # nobody waits for it any more
            answers.write(msgspec.json.encode(answer) + b"\n")
            answers.flush()


def paced(memory: memoryview, begin: int, end: int, training: int) -> Iterator[memoryview]:
    """What is in the memory from `begin` to `end`, piece by piece, with a rest between two while nobody waits."""
    while begin < end:
        since = time.perf_counter()
        yield memory[begin : min(begin + _PIECE, end)]
        begin += _PIECE
        until = time.perf_counter() + _REST * (time.perf_counter() - since)
        while begin < end and time.perf_counter() < until and not memory[_URGENT] and os.getppid() == training:
            time.sleep(_NAP)


def _lines(training: int) -> Iterator[bytes]:
    """The lines of standard input as they come, until it ends or its writer is gone.

    Workers that the training has forked hold the other end open, and may outlive it.
    """
    received = b""
    while True:
        if select.select([0], [], [], _LOOK)[0]:
            chunk = os.read(0, 2**16)
            if not chunk:
                return
            *lines, received = (received + chunk).split(b"\n")
            yield from lines
        elif os.getppid() != training:
            return


if __name__ == "__main__":
    main()
