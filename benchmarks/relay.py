"""How fast the relay catches up, against reading and decoding the journal in a loop: what cannot be less."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.paired import Ratio, compare
from bus.log import LogReader, LogWriter
from frameworm.delivery.feeding import feed
from frameworm.delivery.journal import journal_path
from frameworm.delivery.listener import ProcessListener
from frameworm.facts import RunFacts
from frameworm.plugins.hooks import CallbackHook

RECORDS = 100_000
PAIRS = 9  # a pair takes two seconds


class Nothing(CallbackHook):
    """Wants every record, and does nothing with it."""

    def on_batch_end(self, trainer: RunFacts, batch_idx: int, loss: float) -> None:
        """Nothing."""


def catching_up_against_reading(*, pairs: int = PAIRS) -> Ratio:
    """Measure the delivery of a whole run to one listener."""
    with _recorded() as run:
        listener = ProcessListener("nothing", f"{__name__}:Nothing")
        return compare(lambda: feed(run, listener), _reading(run), pairs=pairs)


def reading_against_itself(*, pairs: int = PAIRS) -> Ratio:
    """Measure the noise of `catching_up_against_reading`."""
    with _recorded() as run:
        return compare(_reading(run), _reading(run), pairs=pairs)


def _reading(run: Path) -> Callable[[], int]:
    def block() -> int:
        with contextlib.closing(LogReader(journal_path(run))) as reader:
            return sum(1 for _ in reader)

    return block


@contextlib.contextmanager
def _recorded() -> Iterator[Path]:
    """Give the directory of a run with so many records."""
    with TemporaryDirectory() as name:
        run = Path(name)
        with LogWriter(journal_path(run), gap=lambda *_numbers: {}) as log:
            head = {"v": 1, "seq": 0, "attempt": 1, "time": datetime.now(UTC), "run": "r", "rank": 0}
            for step in range(RECORDS):
                log.append({**head, "event": "batch_end", "epoch": 0, "step": step, "batch_idx": step, "loss": 0.5})
            log.append({**head, "event": "train_end", "epoch": 0, "step": RECORDS, "status": "finished"})
        yield run
