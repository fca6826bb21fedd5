"""Handing events to a listener until it has taken them or they are buried: retries, isolation, and noting it down."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from bus import Event
from bus.log import Record
from frameworm.delivery.listener import ProcessListener
from frameworm.delivery.progress import Account, Progress
from frameworm.delivery.receiver import Receiver
from frameworm.delivery.retry import Blame, RetryPolicy, blame_of, waits
from frameworm.delivery.status import bury, error_text

log = logging.getLogger("frameworm")

_NOTED_AFTER = 0.05  # seconds of deliveries that a crash may repeat, where single ones take long

Clock = Callable[[], float]


class Item(NamedTuple):
    """An event to be delivered, and the record it was made of."""

    seq: int
    record: Record
    event: Event


class Stopped(Exception):  # noqa: N818  nothing went wrong
    """The relay was asked to stop, and all that is delivered is noted."""


class Patience:
    """Waits after errors as a policy says, and gives up as it says; raises `Stopped` when stopped meanwhile."""

    def __init__(self, policy: RetryPolicy, stop: threading.Event, clock: Clock) -> None:
        self._policy = policy
        self._stop = stop
        self._clock = clock
        self._waits: Generator[float, BaseException, None] | None = None

    def outlasts(self, error: BaseException) -> bool:
        """Wait for the next try, and return True; False when it is time to give up."""
        if self._waits is None:
            self._waits = waits(self._policy, self._clock)
            next(self._waits)
        try:
            pause = self._waits.send(error)
        except StopIteration:
            return False
        if self._stop.wait(pause):
            raise Stopped
        return True


class Handover:
    """Hands events to one listener, and keeps its progress and account."""

    def __init__(
        self,
        *,
        listener: ProcessListener,
        receiver: Receiver,
        progress: Progress,
        account: Account,
        folder: Path,
        patience: Callable[[], Patience],
        stop: threading.Event,
        turn: threading.Lock,
        clock: Clock,
    ) -> None:
        self._listener = listener
        self._receiver = receiver
        self._progress = progress
        self._account = account
        self._folder = folder
        self._patience = patience
        self._stop = stop
        self._turn = turn
        self._clock = clock

    def deliver(self, items: Sequence[Item]) -> None:
        """Return when all items are delivered or buried, and that is noted; raises `Stopped` when stopped before."""
        if self._receiver.batched:
            self._until_settled(items, items[-1].seq)
            self.note(items[-1].seq)
            return
        noted = self._clock()
        for item in items:
            self._until_settled([item], items[-1].seq)
            self._progress.seq = item.seq
            now = self._clock()
            if now - noted > _NOTED_AFTER or self._stop.is_set():
                self.note(item.seq)
                noted = now
                if self._stop.is_set() and item is not items[-1]:
                    raise Stopped
        self.note(items[-1].seq)

    def note(self, seq: int) -> None:
        """Note that all up to `seq` is settled, with the listener's state; one that cannot be kept is its error."""
        self._progress.seq = seq
        before = self._progress.state
        try:
            self._progress.state = self._receiver.state()
            self._progress.save()
        except Exception as error:  # the listener's, or that of a full disk: then a crash repeats more
            self._account.last_error = f"its state cannot be kept: {error_text(error)}"
            self._progress.state = before
            with suppress(OSError):
                self._progress.save()

    def bury(self, items: Sequence[Item], reason: str, error: str | None) -> None:
        """Put items among the dead letters."""
        for item in items:
            bury(self._folder, self._listener, item.record, reason, error)
        self._account.dead += len(items)
        numbers = f"{items[0].seq}" if len(items) == 1 else f"{items[0].seq}-{items[-1].seq}"
        self._account.last_error = error or reason
        why = f"{reason}: {error}" if error else reason
        log.error("%s did not take record %s: %s", self._listener.name, numbers, why)

    def _until_settled(self, items: Sequence[Item], last: int) -> None:
        """Try until the items, which go on to number `last`, are taken or buried; those that fail together go alone."""
        patience = None
        while (error := self._failure(items, last)) is not None:
            self._note_failure(error)
            if len(items) > 1 and blame_of(error) is not Blame.CIRCUMSTANCES:
                for item in items:
                    self._until_settled([item], item.seq)
                    self.note(item.seq)
                return
            patience = patience or self._patience()
            if not patience.outlasts(error):
                reason = "refused" if blame_of(error) is Blame.RECORD else "given up"
                self.bury(items, reason, error_text(error))
                self._account.state = "ok"
                return
            self._account.retried += 1
        self._account.delivered += len(items)
        if self._account.state == "retrying":
            self._account.state = "ok"
            log.info("%s goes on", self._listener.name)

    def _failure(self, items: Sequence[Item], last: int) -> BaseException | None:
        """Call the listener; return what it raised."""
        with self._in_turn(items[0].seq):
            self._progress.begin(items[0].seq, last)
            self._account.called = self._clock()
            try:
                self._receiver.deliver([item.event for item in items])
                self._progress.seq = items[-1].seq
            except (Exception, SystemExit) as error:
                return error
            finally:
                self._account.called = None
        return None

    @contextmanager
    def _in_turn(self, seq: int) -> Iterator[None]:
        """Make no two calls at once of which the last relay may have died: the next death blames the right listener.

        That it outlived the call is noted before the next one begins.
        """
        taken = self._progress.is_suspect(seq) and self._turn.acquire(timeout=self._listener.timeout)
        try:
            yield
        finally:
            if taken:
                self.note(self._progress.seq)
                self._turn.release()

    def _note_failure(self, error: BaseException) -> None:
        """Count it, tell of every power of two, and note that the relay has outlived it."""
        self._account.failed += 1
        self._account.last_error = error_text(error)
        self._account.state = "retrying"
        if self._account.failed & (self._account.failed - 1) == 0:
            log.warning("%s failed (%d): %s", self._listener.name, self._account.failed, self._account.last_error)
        self.note(self._progress.seq)
