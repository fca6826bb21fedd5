"""What a process hears of those that it trains with: that one has something to say, has failed, or is gone.

A thread waits at the store of torch.distributed; nothing is asked or sent in a step. When a process has something to
say it rings. Each thread answers with the first moment at which its process can meet the others, and all meet at the
latest of these: a process may be waiting in a collective for one that is already waiting for it.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch.distributed as dist

from bus.lock import Owner
from frameworm.errors import RankError

Transport = Callable[[], Any]
"""Makes a connection to the store at which the processes met."""

_LISTEN = 0.25  # seconds between two looks at the store: waiting there with a timeout, torch warns of each
_LOOK = 1.0  # seconds between two looks whether the others are alive
_SOON = 0.01  # seconds between two looks for what is about to come
_WORD = 3.0  # seconds for which another's failure may be heard of after a collective broke
_GENTLE = 5.0  # seconds for which a process may come to a good end by itself when another has failed
_HARD = 20.0  # seconds after which it is ended, whatever it does
_FAILURE = "failure"


class Peers:
    """The other processes, as this one of `rank` hears of them; `owners` says who each of them is.

    `abort` breaks off what the processes do together.
    """

    def __init__(
        self, rank: int, owners: Sequence[Owner], connect: Transport, abort: Callable[[], None] = lambda: None
    ) -> None:
        self.rank = rank
        self._abort = abort
        self._owners = dict(enumerate(owners))
        self._connect = connect
        self._store = connect()
        self._mutex = threading.RLock()  # a signal's handler may ring while its thread does
        self._rung = 0  # how many bells have been heard or rung
        self._met = 0  # how many of them have been followed by a meeting
        self._meeting: int | None = None  # the moment of the next meeting, when it is known
        self._over = threading.Event()
        self._ending = threading.Event()
        self.has_ended = False
        """Whether a training has ended, as agreed."""
        self.failure: RankError | None = None
        """What has ended another process, and so ends this one."""
        self.next_moment: Callable[[], int] = lambda: 0
        """Says the first moment at which this process can still meet the others; called by the thread."""
        self.on_failure: Callable[[RankError], None] = lambda _failure: None

    @property
    def called(self) -> bool:
        """Whether a meeting is called for."""
        return self._rung > self._met

    def ring(self) -> None:
        """Call for a meeting, unless one is called for already."""
        with self._mutex:
            if not self.called:
                self._rung += 1
                self._store.set(f"bell/{self._met}", b"")

    def meets_at(self, moment: int) -> bool:
        """Whether all processes meet now, at this moment; waits for the answers of the others' threads.

        Raises `RankError` when one of them has failed.
        """
        if self._meeting is None:
            keys = [f"at/{self._met}/{rank}" for rank in self._owners]
            self._await(keys)
            self._meeting = max(int(self._store.get(key)) for key in keys)
        if moment < self._meeting:
            return False
        with self._mutex:
            self._met += 1
            self._meeting = None
        return True

    def _await(self, keys: Sequence[str]) -> None:
        while not self._store.check(list(keys)):
            if self.failure is not None:
                raise self.failure
            time.sleep(_SOON)

    # Failures

    def blamed(self, error: BaseException) -> BaseException:
        """Return what ends all processes: `error`, which the others are told, or what another has failed with before.

        Nothing can be done together afterwards.
        """
        text = f"{type(error).__name__}: {error}".partition("\n")[0]
        failed = self._cause_of(error) or self._tell(text)
        self._ending.set()
        self._abort()
        return error if failed is None or failed.error == text else failed

    def _tell(self, error: str) -> RankError | None:
        """Tell the others that this process has failed; return what failed before it, if anything did."""
        try:
            rank, first = json.loads(self._store.compare_set(_FAILURE, "", json.dumps([self.rank, error])))
        except (RuntimeError, ValueError):  # the store is gone, with the process that had it
            return None
        return None if rank == self.rank else RankError(rank, first)

    def _cause_of(self, error: BaseException) -> RankError | None:
        """Return what another process has done that explains `error`, if it is one of talking to it."""
        if isinstance(error, RankError):
            return error
        if isinstance(error, RuntimeError) and (isinstance(error, dist.DistError) or _is_of_talking(error)):
            until = time.monotonic() + _WORD
            while self.failure is None and time.monotonic() < until:
                time.sleep(0.05)
        return self.failure

    # The end

    def begin(self) -> None:
        """Take up a training, after another perhaps, in which the others are missed when they are gone."""
        self.has_ended = False
        self._ending.clear()

    def end(self) -> None:
        """Say that a training has ended as agreed: what a process has left to do is its own affair."""
        self.has_ended = True
        self._ending.set()

    def farewell(self) -> None:
        """Wait until all others are here, or dead; a launcher may end all when the first one leaves."""
        self._ending.set()
        with suppress(RuntimeError):  # the store goes with the process that has it
            self._store.set(f"gone/{self.rank}", b"")
            while any(
                owner.alive() and not self._store.check([f"gone/{rank}"]) for rank, owner in self._owners.items()
            ):
                time.sleep(_SOON)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen to the others, on a thread, as long as this lasts."""
        thread = threading.Thread(target=self._listen, name="frameworm-peers", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join(_LOOK)

    def _listen(self) -> None:
        store, bell, looked = self._connect(), 0, time.monotonic()
        while not self._over.wait(_LISTEN):
            try:
                if store.check([f"bell/{bell}"]):
                    with self._mutex:
                        self._rung = max(self._rung, bell + 1)
                    store.set(f"at/{bell}/{self.rank}", str(self.next_moment()))
                    bell += 1
                if self.failure is None and time.monotonic() - looked > _LOOK:
                    looked = time.monotonic()
                    self._look(store)
            except RuntimeError:  # the store is gone, and does not come back
                if self.failure is None and not self._ending.is_set():
                    self._end_for(RankError(None, "the launcher is gone, or the process at which all have met"))
                return

    def _look(self, store: Any) -> None:
        """Look whether another process has failed or is gone."""
        if store.check([_FAILURE]):
            rank, error = json.loads(store.get(_FAILURE))
        elif not self._ending.is_set() and (gone := self._gone()) is not None:
            text = "its process is gone without a word: killed, or out of memory"
            rank, error = json.loads(store.compare_set(_FAILURE, "", json.dumps([gone, text])))
        else:
            return
        if rank != self.rank:
            self._end_for(RankError(rank, error))

    def _gone(self) -> int | None:
        return next((rank for rank, owner in self._owners.items() if not owner.alive()), None)

    def _end_for(self, failure: RankError) -> None:
        """Let it be known that this process ends with another, and see to it that it does."""
        self.failure = failure
        self.on_failure(failure)
        threading.Thread(target=self._end, name="frameworm-end", daemon=True).start()

    def _end(self) -> None:
        """See to it that this process ends, as another has: by itself, or else by breaking off what it waits for."""
        if not self._ending.wait(_GENTLE):
            self._abort()
        if not self._ending.wait(_HARD - _GENTLE) and not self._over.is_set():
            os.write(2, f"[rank {self.rank}] ended at once: {self.failure}\n".encode())  # needs no lock of anybody
            os._exit(1)


def _is_of_talking(error: BaseException) -> bool:
    """Whether torch says by this error, of no type of its own, that a collective broke."""
    text = str(error).lower()
    return any(word in text for word in ("gloo", "nccl", "connection", "broken pipe", "socket", "timed out"))
