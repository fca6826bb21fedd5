"""Serves one listener of the process lane, on a thread of its own, so that a hung one holds up nobody else."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

from bus.cursor import Cursor
from bus.log import LogReader, Record, writer_of
from frameworm.delivery.decoding import Makers
from frameworm.delivery.handover import Clock, Handover, Item, Patience, Stopped, log
from frameworm.delivery.journal import journal_path
from frameworm.delivery.listener import ProcessListener, RelayOptions
from frameworm.delivery.progress import Account, Progress
from frameworm.delivery.receiver import Receiver, make_receiver
from frameworm.delivery.replay import RunFold, readable
from frameworm.delivery.retry import Blame, blame_of
from frameworm.delivery.status import ListenerReport, cursor_file, error_text


class Worker:
    """Delivers the records of a run to one listener, from its cursor in `folder` on, until the run has ended.

    A run whose process is gone without a `train_end` gets one with the status `crashed`, which is recorded nowhere.
    - `follow`: wait for what a living run still writes; else it ends with what is there.
    - `spare`: the relay before this one was killed from outside: no record is to blame.
    """

    def __init__(
        self,
        run_dir: Path,
        listener: ProcessListener,
        folder: Path,
        options: RelayOptions,
        *,
        follow: bool = True,
        spare: bool = False,
        finished: Callable[[], None] = lambda: None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.listener = listener
        self._run_dir = run_dir
        self._journal = journal_path(run_dir)
        self._folder = folder
        self._options = options
        self._follow = follow
        self._spare = spare
        self._finished = finished
        self._clock = clock
        self._stop = threading.Event()
        self._account = Account()
        self._reader = LogReader(self._journal)
        self._makers = Makers(())  # of the events that are wanted
        self._progress: Progress | None = None
        self._seen = 0  # the number of the record that was read last
        self._gathered: list[Item] = []
        self._since = 0.0  # when the first of these was gathered
        self._thread = threading.Thread(target=self.run, name=f"relay {listener.name}", daemon=True)

    def start(self) -> None:
        """Serve the listener on its thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end after the call that is under way; what has been delivered is noted."""
        self._stop.set()

    def join(self, timeout: float) -> None:
        """Wait for its thread."""
        self._thread.join(timeout)

    @property
    def alive(self) -> bool:
        """Whether its thread is still at work, or hangs."""
        return self._thread.is_alive()

    @property
    def hung(self) -> bool:
        """Whether a call takes longer than the listener's timeout."""
        called = self._account.called
        return called is not None and self._clock() - called > self.listener.timeout

    def report(self) -> ListenerReport:
        """Return the account as it is now."""
        account, progress = self._account, self._progress
        seq = progress.seq if progress else 0
        return ListenerReport(
            self.listener.name,
            "hung" if self.hung else account.state,
            account.delivered,
            account.failed,
            account.retried,
            account.dead,
            max(0, self._seen - seq),
            seq,
            self._reader.corrupt,
            f"no answer for {self.listener.timeout:g} s" if self.hung else account.last_error,
        )

    def run(self) -> None:
        """Serve the listener on this thread; trouble of the relay's own ends in the report."""
        try:
            with (
                Cursor(cursor_file(self._folder, self.listener)) as cursor,
                contextlib.closing(self._reader),
                contextlib.suppress(Stopped),
            ):
                self._progress = Progress(cursor, self._account, spare=self._spare)
                self._serve(self._progress)
        except Exception as error:
            self._account.state = "failed"
            self._account.last_error = error_text(error)
            log.exception("%s cannot be served any more", self.listener.name)
        finally:
            self._finished()

    # Inside

    def _serve(self, progress: Progress) -> None:
        receiver = self._made(progress)
        if receiver is None:
            return
        handover = Handover(
            listener=self.listener,
            receiver=receiver,
            progress=progress,
            account=self._account,
            folder=self._folder,
            patience=self._patience,
            stop=self._stop,
            clock=self._clock,
        )
        fold = RunFold(self._run_dir)
        self._makers = Makers(receiver.names)
        self._seen = after = progress.seq
        while not self._stop.is_set():
            alive = writer_of(self._journal) is not None  # asked before reading: all that it wrote is read then
            for record in readable(self._reader, self._journal):
                fold.add(record)
                if record["seq"] > after:
                    self._take(record, fold, receiver, handover)
            if self._over(fold, alive=alive, receiver=receiver, handover=handover):
                return
            if not receiver.batched or self._clock() - self._since >= self._options.gather:
                self._flush(handover)
            self._stop.wait(self._options.poll)

    def _made(self, progress: Progress) -> Receiver | None:
        """Make the listener, patiently where only circumstances are against it; None when it cannot be made."""
        patience = self._patience()
        while True:
            self._account.called = self._clock()
            try:
                receiver = make_receiver(self.listener)
                if progress.state is not None:
                    receiver.restore(progress.state)
            except (Exception, SystemExit) as error:
                self._account.last_error = error_text(error)
                if blame_of(error) is Blame.CIRCUMSTANCES:
                    self._account.state, self._account.called = "retrying", None
                    if patience.outlasts(error):
                        continue
                self._account.state = "failed to start"
                log.warning("%s cannot be made: %s", self.listener.name, self._account.last_error)
                return None
            finally:
                self._account.called = None
            self._account.state = "ok"
            return receiver

    def _take(self, record: Record, fold: RunFold, receiver: Receiver, handover: Handover) -> None:
        """Gather an event that is wanted; deliver the gathered when they are enough."""
        seq = record["seq"]
        make = self._makers[record["event"]]
        if make is not None:
            self._gather(Item(seq, record, make(fold.view(), record)), receiver, handover)
        self._seen = seq

    def _gather(self, item: Item, receiver: Receiver, handover: Handover) -> None:
        progress = self._progress
        assert progress is not None
        if progress.is_fatal(item.seq):
            handover.bury([item], "the relay died of it twice", None)
            handover.note(item.seq)
            return
        if not self._gathered:
            self._since = self._clock()
        self._gathered.append(item)
        enough = self._options.batch if receiver.batched else self._options.noted
        if len(self._gathered) >= enough or progress.is_suspect(item.seq):
            self._seen = item.seq
            self._flush(handover)

    def _flush(self, handover: Handover) -> None:
        """Deliver what is gathered, and note that what was read is done with."""
        gathered, self._gathered = self._gathered, []
        if gathered:
            handover.deliver(gathered)
        if self._progress is not None and self._progress.seq != self._seen:
            handover.note(self._seen)

    def _over(self, fold: RunFold, *, alive: bool, receiver: Receiver, handover: Handover) -> bool:
        """Whether the run has ended, and all of it is delivered; one that has crashed is closed first."""
        if not (fold.phase == "ended" or not alive or not self._follow):
            return False
        self._flush(handover)
        if fold.phase == "training" and not alive:
            self._close(fold, receiver, handover)
            return not self._follow  # else look again: it may have been resumed meanwhile
        return True

    def _close(self, fold: RunFold, receiver: Receiver, handover: Handover) -> None:
        """Deliver the `train_end` that the run's process did not live to record, once."""
        record = fold.crash()
        fold.add(record)
        progress = self._progress
        assert progress is not None
        if progress.closed < record["attempt"]:
            self._take(record, fold, receiver, handover)
            self._flush(handover)
            progress.closed = record["attempt"]
            handover.note(self._seen)

    def _patience(self) -> Patience:
        return Patience(self._options.retry, self._stop, self._clock)
