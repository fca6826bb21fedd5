"""What is worth knowing when a run has ended: its best epoch, where it is, what each listener cost and which failed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import msgspec

from bus import LAST, EventBus, ListenerStatistics, Subscription
from frameworm.delivery.status import ListenerReport, status
from frameworm.events import EpochBegin, EpochEnd, TrainBegin, TrainEnd
from frameworm.terminal import counted
from frameworm.training.store import direction

NOTICEABLE = 0.01  # the share of the time from which on a listener's cost is worth a word ...
_OURS = frozenset({"checkpointing", "console", "journal", "progress", "summary", "throughput"})  # which nobody moves
WORTHWHILE = 0.05  # ... if it is so many seconds at least
ENDED = frozenset({"hung", "failed to start", "failed"})  # states in which the relay leaves a listener at the end


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
    relayed: tuple[ListenerReport, ...] = ()
    """Those in a process of their own, which may go on when the run has ended."""

    def share(self, listener: ListenerStatistics) -> float:
        """The part of the time that went into a listener, from 0 to 1."""
        return listener.seconds / self.seconds if self.seconds else 0.0

    def fields(self) -> dict[str, Any]:
        """The same as plain values, for a structured log."""
        listeners = [
            {
                "name": listener.name,
                "lane": listener.lane,
                "state": listener.state,
                "events": list(listener.events),
                "delivered": listener.delivered,
                "failed": listener.failed,
                "retried": listener.retried,
                "coalesced": listener.coalesced,
                "dropped": listener.dropped,
                "pending": listener.pending + listener.in_flight,
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
        if self.listeners or self.relayed:
            lines += ["listeners:", *self._table()]
        errors = [(x.name, x.failed, x.last_error) for x in self.listeners]
        errors += [(x.name, x.failed, x.last_error) for x in self.relayed]
        lines += [
            f"{name} failed {counted(failed, 'time')}, last with {error.splitlines()[0]}"
            if failed
            else f"{name}: {error.splitlines()[0]}"
            for name, failed, error in errors
            if error
        ]
        lines += [f"{x.name} missed {_missed(x)}" for x in self.listeners if _missed(x)]
        lines += [f"{x.name} did not take {counted(x.dead, 'event')}: its dead letters" for x in self.relayed if x.dead]
        lines += [
            f"{x.name} has {counted(x.pending, 'record')} before it ({x.state}), {self._rest(x)}"
            for x in self.relayed
            if x.pending
        ]
        return [*lines, *self.advice()]

    def _rest(self, listener: ListenerReport) -> str:
        """Say what becomes of the records that a listener has before it."""
        if listener.state in ENDED:
            return f"which the relay has given up: frameworm relay {self.run_dir} tries again"
        return f"which the relay goes on with: frameworm runs show {self.run_dir}"

    def advice(self) -> Iterable[str]:
        """A line for each listener whose cost is noticeable."""
        for listener in self.listeners:
            movable = listener.lane == "sync" and listener.name not in _OURS
            if movable and self.share(listener) > NOTICEABLE and listener.seconds > WORTHWHILE:
                yield (
                    f"{listener.name} took {self.share(listener):.1%} of the time: every=N calls it less often, "
                    'dispatch="async" on a thread of its own, dispatch="process" in a process of its own'
                )

    def _table(self) -> list[str]:
        rows: list[tuple[str, ...]] = [
            (
                x.name,
                "in step" if x.lane == "sync" else x.lane,
                f"{x.delivered:,} events",
                f"{x.failed:,} failed",
                f"{x.seconds:.3f} s",
                f"{self.share(x):.1%}" if x.lane == "sync" else "",
            )
            for x in self.listeners
        ]
        rows += [(x.name, "process", f"{x.delivered:,} events", f"{x.dead:,} failed", "", "") for x in self.relayed]
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
        if self._report is None:
            return None
        relayed = status(Path(self._report.run_dir)) if self._report.run_dir else ()
        return msgspec.structs.replace(self._report, listeners=self._bus.statistics(), relayed=relayed)

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


def _missed(listener: ListenerStatistics) -> str:
    """Return what a listener did not get, and why, in words; nothing where it got everything."""
    counts = {
        **listener.dropped,
        "coalesced": listener.coalesced,
        "still waiting": listener.pending + listener.in_flight,
    }
    if listener.lane == "sync":  # a hook that is paused or muted misses what it was meant to miss
        return ""
    return ", ".join(f"{counted(count, 'event')} ({reason})" for reason, count in counts.items() if count)


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
