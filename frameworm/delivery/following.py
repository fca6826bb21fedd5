"""The records of a run as they come, until it has ended: what `tail -f` is for text."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bus.log import LogReader, Record, writer_of
from frameworm.delivery.journal import journal_path
from frameworm.delivery.replay import RunFold, readable


def follow(
    run_dir: Path, *, wait: bool = True, poll: float = 0.2, unwanted: Callable[[], bool] = lambda: False
) -> Iterator[Record]:
    """Yield the records of the run in a directory in order.

    It ends behind the `train_end` of a run that has ended, at the end of one whose process is gone, and soon after
    `unwanted` says so; unless it is to `wait`, when all that is there has been yielded. Raises RunError for a journal
    of a newer format.
    """
    path = journal_path(run_dir)
    fold = RunFold(run_dir)
    with contextlib.closing(LogReader(path)) as reader:
        while not unwanted():
            alive = writer_of(path) is not None  # asked before reading: all that it wrote is read then
            for record in readable(reader, path):
                fold.add(record)
                yield record
            if not wait or not alive or fold.phase == "ended":
                return
            time.sleep(poll)
