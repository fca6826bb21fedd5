"""Serves one listener of the process lane, on a thread of its own, so that a hung one holds up nobody else."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

from bus.cursor import Cursor
from bus.log import LogReader, writer_of
from frameworm.delivery.gathering import Gathering
from frameworm.delivery.handover import Clock, Handover, Patience, Stopped, log
from frameworm.delivery.journal import journal_path
from frameworm.delivery.listener import ProcessListener, RelayOptions
from frameworm.delivery.progress import Account, Progress
from frameworm.delivery.receiver import Receiver, make_receiver
from frameworm.delivery.replay import readable
from frameworm.delivery.retry import Blame, blame_of
from frameworm.delivery.status import ListenerReport, cursor_file, error_text


class Worker:
    """Delivers the records of a run to one listener, from its cursor in `folder` on, until the run has ended.

    A run whose process is gone without a `train_end` gets one with the status `crashed`, which is recorded nowhere.
    - `follow`: wait for what a living run still writes; else it ends with what is there.
    - `spare`: the relay before this one was killed from outside: no record is to blame.
    - `turn`: shared by the listeners of a relay, held in calls of which the one before may have died.
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
        turn: threading.Lock | None = None,
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
        self._turn = turn or threading.Lock()
        self._clock = clock
        self._stop = threading.Event()
        self._account = Account()
        self._reader = LogReader(self._journal)
        self._progress: Progress | None = None
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
            max(0, self._reader.after - seq),
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
            turn=self._turn,
            clock=self._clock,
        )
        gathering = Gathering(
            self._run_dir,
            receiver=receiver,
            handover=handover,
            progress=progress,
            options=self._options,
            clock=self._clock,
        )
        while not self._stop.is_set():
            alive = writer_of(self._journal) is not None  # asked before reading: all that it wrote is read then
            for record in readable(self._reader, self._journal):
                gathering.take(record)
            if gathering.is_over(alive=alive, follow=self._follow):
                return
            gathering.flush_if_due()
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

    def _patience(self) -> Patience:
        return Patience(self._options.retry, self._stop, self._clock)
