"""What it takes to draw the learning curves of a long run, against reading its record and doing nothing with it."""

from __future__ import annotations

import math
from collections import deque
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.paired import Block, Ratio, compare
from bus.log import LogReader, LogWriter
from frameworm.curves import plot
from frameworm.runs import RunDirectory

RECORDS = 100_000
_EPOCH = 1_000  # records
PAIRS = 10  # a pair takes half a second


def plot_against_reading(*, records: int = RECORDS, pairs: int = PAIRS) -> Ratio:
    """Measure the picture of so many records against reading them."""
    with TemporaryDirectory() as folder:
        run = _written(Path(folder), records)
        return compare(lambda: plot([run], Path(folder, "curves.png")), _reading(run), pairs=pairs)


def reading_against_itself(*, records: int = RECORDS, pairs: int = PAIRS) -> Ratio:
    """Measure the noise of `plot_against_reading`."""
    with TemporaryDirectory() as folder:
        run = _written(Path(folder), records)
        return compare(_reading(run), _reading(run), pairs=pairs)


def _reading(run: RunDirectory) -> Block:
    def block() -> None:
        with closing(LogReader(run.journal)) as log:
            deque(log, maxlen=0)

    return block


def _written(root: Path, records: int) -> RunDirectory:
    """Return a run with the loss of every batch, which falls and is noisy, and the metrics of some epochs."""
    run = RunDirectory.create(root, "long")
    with LogWriter(run.journal, gap=lambda *_numbers: {}) as log:
        for step in range(1, records + 1):
            epoch, of_epoch = divmod(step - 1, _EPOCH)
            place = {"v": 1, "seq": 0, "attempt": 1, "time": "2026-01-01T00:00:00.000000Z", "run": run.id, "rank": 0}
            loss = math.exp(-step / records) + 0.1 * math.sin(step * step)
            if of_epoch == _EPOCH - 1:
                metrics = {"loss": loss, "train_loss": loss, "val_loss": 1.1 * loss, "val_accuracy": 1 - loss / 2}
                log.append(place | {"event": "epoch_end", "epoch": epoch, "step": step, "metrics": metrics})
            else:
                log.append(
                    place | {"event": "batch_end", "epoch": epoch, "step": step, "batch_idx": of_epoch, "loss": loss}
                )
    return run
