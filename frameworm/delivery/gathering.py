"""From a run's records to deliveries: which of them a listener wants, how many at once, and how it all ends."""

from __future__ import annotations

from pathlib import Path

from bus.log import Record
from frameworm.delivery.decoding import Makers
from frameworm.delivery.handover import Clock, Handover, Item
from frameworm.delivery.listener import RelayOptions
from frameworm.delivery.progress import Progress
from frameworm.delivery.receiver import Receiver
from frameworm.delivery.replay import RunFold


class Gathering:
    """Takes all records of a run in order, those behind `progress` to be delivered.

    Every method delivers what is enough for a delivery, and returns when it is settled; raises `Stopped`.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        receiver: Receiver,
        handover: Handover,
        progress: Progress,
        options: RelayOptions,
        clock: Clock,
    ) -> None:
        self._batched = receiver.batched
        self._makers = Makers(receiver.names)
        self._fold = RunFold(run_dir)
        self._handover = handover
        self._progress = progress
        self._enough = options.batch if receiver.batched else options.noted
        self._gather = options.gather
        self._clock = clock
        self._careful = progress.has_suspects
        self._after = self._seen = progress.seq
        self._gathered: list[Item] = []
        self._since = clock()  # when the first of these was gathered
        self._served = 0  # the attempt of the last event that was for the listener

    def take(self, record: Record) -> None:
        """Take the next record."""
        self._fold.add(record)
        if record["seq"] > self._after:
            self._offer(record)

    def flush(self) -> None:
        """Deliver what is gathered, and note that what was taken is done with."""
        gathered, self._gathered = self._gathered, []
        if gathered:
            self._handover.deliver(gathered)
        if self._progress.seq != self._seen:
            self._handover.note(self._seen)

    def flush_if_due(self) -> None:
        """Do so unless more should be gathered."""
        if not (self._batched and self._gathered and self._clock() - self._since < self._gather):
            self.flush()

    def is_over(self, *, alive: bool, follow: bool) -> bool:
        """Whether the run has ended with what was taken, all of which is then delivered.

        `alive` says whether anybody may add to it. One that has crashed is closed, and over when that has been seen
        again, for it may have been resumed meanwhile. Unless one is to `follow`, every run is over.
        """
        if alive and follow and self._fold.phase != "ended":
            return False
        self.flush()
        if alive or self._fold.phase != "training":
            return True
        self._close()
        return not follow

    def _close(self) -> None:
        """Deliver the `train_end` that the run's process did not live to record, once."""
        record = self._fold.crash()
        self._fold.add(record)
        if self._progress.closed < record["attempt"]:
            self._offer(record)
            self.flush()
            self._progress.closed = record["attempt"]
            self._handover.note(self._seen)

    def _offer(self, record: Record) -> None:
        """Gather the record's event if it is wanted; deliver the gathered when they are enough."""
        seq = record["seq"]
        make = self._makers[record["event"]]
        self._seen = seq
        if make is None or self._is_kept_back(record):
            return
        self._served = record["attempt"]
        if not self._gathered:
            self._since = self._clock()
        self._gathered.append(Item(seq, record, make(self._fold.view(), record)))
        if self._careful and self._progress.is_fatal(seq):
            self._handover.bury([self._gathered.pop()], "the relay died of it twice", None)
            self._handover.note(seq)
        elif len(self._gathered) >= self._enough or (self._careful and self._progress.is_suspect(seq)):
            self.flush()

    def _is_kept_back(self, record: Record) -> bool:
        """Whether hooks are switched off; whoever has heard of an attempt hears of its end all the same."""
        ends = record["event"] == "train_end" and self._served == record["attempt"]
        return self._fold.silenced and not ends
