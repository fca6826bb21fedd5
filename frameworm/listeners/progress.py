"""Progress bars on a terminal, drawn by the training thread within a fixed share of its time.

There is no refreshing thread: one that merely runs Python slows a short training step many times over.
"""

from __future__ import annotations

import sys
from time import perf_counter
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from bus import EventBus, Subscription
from frameworm.events import BatchEnd, EpochBegin, EpochEnd, TrainBegin, TrainEnd, ValidationBegin
from frameworm.listeners.console import BEHIND_HOOKS, epoch_text, rate_text, run_text
from frameworm.listeners.throughput import Throughput
from frameworm.terminal import printable

INTERVAL = 1 / 8  # seconds between two drawings, at least
SHARE = 1 / 200  # of the time may go into drawing
NAME = "progress"


class ProgressBars:
    """A bar for the epoch and one for the run, and above them a line for every epoch that is done."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[news]}", markup=False),
            TimeRemainingColumn(),
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stderr=sys.stderr.isatty(),  # what leads to a file goes on doing so
        )
        self._epoch = self._run = TaskID(0)
        self._throughput = Throughput()
        self._batches: Subscription[BatchEnd] | None = None
        self._due = 0.0  # when the bars may be drawn next, by `perf_counter`

    def register(self, bus: EventBus) -> tuple[Subscription[Any], ...]:
        """Listen on `bus`; cancelling the returned subscriptions, and `close`, undo it."""
        self._bus = bus
        return (
            *self._throughput.register(bus),
            bus.subscribe(TrainBegin, self._train_begin, priority=BEHIND_HOOKS, name=NAME),
            bus.subscribe(EpochBegin, self._epoch_begin, priority=BEHIND_HOOKS, name=NAME),
            bus.subscribe(ValidationBegin, self._validation_begin, priority=BEHIND_HOOKS, name=NAME),
            bus.subscribe(EpochEnd, self._epoch_end, priority=BEHIND_HOOKS, name=NAME),
            bus.subscribe(TrainEnd, self._train_end, priority=BEHIND_HOOKS, name=NAME),
        )

    def close(self) -> None:
        """Take the bars away and give the terminal back."""
        if self._batches is not None:
            self._batches.cancel()
        self._bars.stop()

    def _train_begin(self, event: TrainBegin) -> None:
        self._say(run_text(event))
        self._bars.start()
        self._console.show_cursor()  # or it would stay hidden when the process is killed
        self._epoch = self._bars.add_task("", total=None, news="")
        self._run = self._bars.add_task("run", total=event.epochs, news="epochs")
        self._listen(every=1)

    def _epoch_begin(self, event: EpochBegin) -> None:
        trainer = event.source
        title = f"epoch {event.epoch + 1}/{trainer.epochs}"
        self._bars.reset(self._epoch, total=trainer.batches_per_epoch, description=title, news="")
        self._bars.update(self._run, completed=event.epoch)

    def _batch_end(self, event: BatchEnd) -> None:
        if perf_counter() < self._due:
            return
        trainer = event.source
        done = event.batch_idx + 1
        loss = _loss(event)
        news = [] if loss is None else [f"loss {loss:.4g}"]
        self._bars.update(self._epoch, completed=done, news="  ".join([*news, rate_text(self._throughput)]))
        if trainer.batches_per_epoch:
            self._bars.update(self._run, completed=trainer.epoch + done / trainer.batches_per_epoch)
        self._draw()
        self._listen(every=max(1, int(self._throughput.batches_per_second * INTERVAL / 4)))

    def _validation_begin(self, event: ValidationBegin) -> None:
        self._bars.update(self._epoch, completed=event.source.batches_per_epoch, news="validating")
        if perf_counter() >= self._due:
            self._draw()

    def _epoch_end(self, event: EpochEnd) -> None:
        self._bars.update(self._run, completed=event.epoch + 1)
        self._say(epoch_text(event, self._throughput))

    def _train_end(self, _event: TrainEnd) -> None:
        self.close()

    def _draw(self) -> None:
        start = perf_counter()
        self._bars.refresh()
        self._due = start + max(INTERVAL, (perf_counter() - start) / SHARE)

    def _listen(self, *, every: int) -> None:
        """Look at every so-many-th batch, which the bus filters; a change by less than half is not worth it."""
        if self._batches is None or not every / 2 <= self._batches.every <= every * 2:
            if self._batches is not None:
                self._batches.cancel()
            self._batches = self._bus.subscribe(
                BatchEnd, self._batch_end, priority=BEHIND_HOOKS, every=every, name=NAME
            )

    def _say(self, text: str) -> None:
        self._console.print(Text(printable(text)), soft_wrap=True)


def _loss(event: BatchEnd) -> float | None:
    """The loss where it costs nothing to read: on a device, reading would make training wait."""
    device = getattr(event.loss, "device", None)
    if getattr(device, "type", "cpu") == "cpu":
        return float(event.loss)
    return event.source.metrics.get("loss")
