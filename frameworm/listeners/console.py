"""How a run reports itself where there is no terminal: one line an epoch, plain or structured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bus import EventBus, Subscription
from frameworm import terminal
from frameworm.events import EpochEnd, TrainBegin
from frameworm.listeners.throughput import Throughput
from frameworm.terminal import counted

BEHIND_HOOKS = 90  # the priority of those who show an epoch: hooks add metrics to it, and print


class ConsoleLines:
    """Writes what is trained, then at most one plain line an epoch."""

    def __init__(self, write: Callable[[str], None] = terminal.write_line) -> None:
        self._write = write
        self._throughput = Throughput()

    def register(self, bus: EventBus) -> tuple[Subscription[Any], ...]:
        """Listen on `bus`; cancelling the returned subscriptions undoes it."""
        return (
            *self._throughput.register(bus),
            bus.subscribe(TrainBegin, self._train_begin, priority=BEHIND_HOOKS, name="console"),
            bus.subscribe(EpochEnd, self._epoch_end, priority=BEHIND_HOOKS, name="console"),
        )

    def _train_begin(self, event: TrainBegin) -> None:
        self._write(run_text(event))

    def _epoch_end(self, event: EpochEnd) -> None:
        self._write(epoch_text(event, self._throughput))


class LogLines:
    """Tells a structured log the same: `log` takes the event's name and its fields."""

    def __init__(self, log: Callable[..., object]) -> None:
        self._log = log
        self._throughput = Throughput()

    def register(self, bus: EventBus) -> tuple[Subscription[Any], ...]:
        """Listen on `bus`; cancelling the returned subscriptions undoes it."""
        return (
            *self._throughput.register(bus),
            bus.subscribe(TrainBegin, self._train_begin, priority=BEHIND_HOOKS, name="console"),
            bus.subscribe(EpochEnd, self._epoch_end, priority=BEHIND_HOOKS, name="console"),
        )

    def _train_begin(self, event: TrainBegin) -> None:
        trainer = event.source
        self._log("train_begin", model=trainer.model_name, epochs=event.epochs, run_dir=trainer.run_dir)

    def _epoch_end(self, event: EpochEnd) -> None:
        self._log(
            "epoch_end",
            metrics=dict(event.metrics),
            seconds=round(self._throughput.elapsed, 3),
            batches_per_second=round(self._throughput.batches_per_second, 1),
            samples_per_second=round(self._throughput.samples_per_second, 1),
        )


def run_text(event: TrainBegin) -> str:
    """What is about to be trained, in a line: `training cnn for 12 epochs, in runs/digits-1`."""
    trainer = event.source
    attempt = f", attempt {trainer.attempt}" if trainer.attempt > 1 else ""
    where = f", in {trainer.run_dir}" if trainer.run_dir else ""
    return f"training {trainer.model_name} for {counted(event.epochs, 'epoch')}{attempt}{where}"


def epoch_text(event: EpochEnd, throughput: Throughput) -> str:
    """An epoch in a line: `epoch  3/12  loss 0.3412  val_loss 0.3011  23,456 samples/s  0.8 s`."""
    width = len(str(event.source.epochs))
    shown = {name: value for name, value in event.metrics.items() if name != "train_loss"}
    numbers = [f"{name} {value:.4g}" for name, value in shown.items()]
    rate = [rate_text(throughput)] if throughput.batches else []
    epoch = f"epoch {event.epoch + 1:{width}}/{event.source.epochs}"
    return "  ".join([epoch, *numbers, *rate, f"{throughput.elapsed:.1f} s"])


def rate_text(throughput: Throughput) -> str:
    """The rate in a word or two: samples where batches tell their size, else batches."""
    if throughput.samples:
        return f"{throughput.samples_per_second:,.0f} samples/s"
    return f"{throughput.batches_per_second:,.1f} batches/s"
