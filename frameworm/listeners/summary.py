"""What is worth knowing when a run has ended: its best epoch, where it is, what each listener cost and which failed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from time import perf_counter
from typing import Any, Literal

import msgspec

from bus import LAST, EventBus, ListenerStatistics, Subscription
from frameworm.events import EpochBegin, EpochEnd, TrainBegin, TrainEnd
from frameworm.listeners.console import counted
from frameworm.training.checkpoint import direction

NOTICEABLE = 0.01  # the share of the time from which on a listener's cost is worth a word ...
WORTHWHILE = 0.05  # ... if it is so many seconds at least


class Epoch(msgspec.Struct, frozen=True):
    """An epoch (from 0) and its metrics."""

    epoch: int
    metrics: Mapping[str, float]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """How a run ended. Epochs and steps are those of all attempts, `seconds` is the time of this one."""

    status: str
    reason: str | None
    error: str | None
    run_dir: str | None
    epochs: int
    steps: int
    seconds: float
    monitor: str
    best: Epoch | None
    listeners: tuple[ListenerStatistics, ...]

    def share(self, listener: ListenerStatistics) -> float:
        """The part of the time that went into a listener, from 0 to 1."""
        return listener.seconds / self.seconds if self.seconds else 0.0

    def fields(self) -> dict[str, Any]:
        """The same as plain values, for a structured log."""
        listeners = [
            {
                "name": listener.name,
                "events": list(listener.events),
                "delivered": listener.delivered,
                "failed": listener.failed,
                "seconds": round(listener.seconds, 6),
                "share": round(self.share(listener), 6),
                "last_error": listener.last_error,
            }
            for listener in self.listeners
        ]
        return {**msgspec.to_builtins(self), "listeners": listeners, "advice": list(self.advice())}

    def lines(self) -> list[str]:
        """The same for people."""
        reason = f" ({self.reason.splitlines()[0]})" if self.reason else ""
        done = f"{counted(self.epochs, 'epoch')}, {counted(self.steps, 'step')}, {self.seconds:.1f} s"
        lines = [f"{self.status}{reason}: {done}"]
        if self.best is not None:
            metrics = _best_metrics(self.best.metrics, self.monitor)
            lines.append(f"best epoch: {self.best.epoch + 1}  {'  '.join(metrics)}")
        if self.run_dir is not None:
            more = f", --resume {self.run_dir} goes on with it" if self.status == "interrupted" else ""
            lines.append(f"run: {self.run_dir}{more}")
        if self.listeners:
            lines += ["listeners:", *self._table()]
        lines += [
            f"{x.name} failed {counted(x.failed, 'time')}, last with {x.last_error.splitlines()[0]}"
            for x in self.listeners
            if x.last_error
        ]
        return [*lines, *self.advice()]

    def advice(self) -> Iterable[str]:
        """A line for each listener whose cost is noticeable."""
        for listener in self.listeners:
            if self.share(listener) > NOTICEABLE and listener.seconds > WORTHWHILE:
                yield (
                    f"{listener.name} took {self.share(listener):.1%} of the time: every=N calls it less often, and "
                    "what reads the run's events.jsonl costs training nothing"
                )

    def _table(self) -> list[str]:
        rows = [
            (x.name, f"{x.delivered:,} calls", f"{x.failed:,} failed", f"{x.seconds:.3f} s", f"{self.share(x):.1%}")
            for x in self.listeners
        ]
        name, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
        return [
            f"  {row[0]:{name}}  " + "  ".join(f"{text:>{width}}" for text, width in zip(row[1:], widths, strict=True))
            for row in rows
        ]


class Summary:
    """Keeps the metrics of the epochs, of which the best is judged as the run's checkpoints are, and how the run ended.

    `earlier` are the metrics of the epochs that earlier attempts at the run completed, as its journal has them.
    """

    def __init__(self, earlier: Mapping[int, Mapping[str, float]] | None = None) -> None:
        self._history = dict(earlier or {})
        self._begin = 0.0
        self._report: Report | None = None

    def register(self, bus: EventBus) -> tuple[Subscription[Any], ...]:
        """Listen on `bus`; cancelling the returned subscriptions undoes it."""
        self._bus = bus
        return (
            bus.subscribe(TrainBegin, self._train_begin, priority=LAST, name="summary"),
            bus.subscribe(EpochBegin, self._epoch_begin, priority=LAST, name="summary"),
            bus.subscribe(EpochEnd, self._epoch_end, priority=LAST, name="summary"),
            bus.subscribe(TrainEnd, self._train_end, priority=LAST, name="summary"),
        )

    @property
    def report(self) -> Report | None:
        """How the run ended, with the accounts of all listeners up to now; None before its end."""
        return self._report and msgspec.structs.replace(self._report, listeners=self._bus.statistics())

    def _train_begin(self, _event: TrainBegin) -> None:
        self._begin = perf_counter()

    def _epoch_begin(self, event: EpochBegin) -> None:
        self._history = {epoch: metrics for epoch, metrics in self._history.items() if epoch < event.epoch}

    def _epoch_end(self, event: EpochEnd) -> None:
        self._history[event.epoch] = dict(event.metrics)

    def _train_end(self, event: TrainEnd) -> None:
        trainer = event.source
        checkpoint = trainer.config.get("checkpoint", {})
        monitor = checkpoint.get("monitor", "val_loss")
        self._report = Report(
            status=event.status,
            reason=event.reason,
            error=event.error,
            run_dir=str(trainer.run_dir) if trainer.run_dir else None,
            epochs=max(self._history, default=-1) + 1,
            steps=trainer.step,
            seconds=perf_counter() - self._begin,
            monitor=monitor,
            best=_best(self._history, monitor, checkpoint.get("mode", "auto")),
            listeners=(),
        )


def _best(
    history: Mapping[int, Mapping[str, float]], monitor: str, mode: Literal["auto", "min", "max"]
) -> Epoch | None:
    """The first of the epochs with the best `monitor`; None where no epoch has it."""
    values = {epoch: metrics.get(monitor, math.nan) for epoch, metrics in history.items()}
    known = {epoch: value for epoch, value in values.items() if not math.isnan(value)}
    if not known:
        return None
    best = (max if direction(monitor, mode) == "max" else min)(known, key=known.__getitem__)
    return Epoch(best, history[best])


def _best_metrics(metrics: Mapping[str, float], monitor: str) -> list[str]:
    """The monitored metric first, then what else was validated."""
    names = [monitor, *(name for name in metrics if name.startswith("val_") and name != monitor)]
    return [f"{name} {metrics[name]:.4g}" for name in names]
