"""Where a job's time goes, tried on the job itself: some of its steps are trained, and every phase of them is timed."""

from __future__ import annotations

import math
import os
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import msgspec

from bus import EventBus, ListenerStatistics, default_bus
from frameworm import app
from frameworm.config import Config
from frameworm.errors import UserError
from frameworm.events import BatchEnd
from frameworm.plugins.selection import Selection
from frameworm.training.device import clock_of
from frameworm.training.tracing import Tracing
from frameworm.training.trainer import Trainer

WARM_UP = 10  # steps that are not counted: the first ones find kernels, fill caches and start workers
_TRACED = 10  # steps, more make a file that no viewer opens
_OWN = "profile"
_ENDLESS = 1_000_000  # epochs


class Part(msgspec.Struct, frozen=True):
    """Seconds in one phase of training, how often it came, milliseconds per step, and its share of the whole time."""

    name: str
    seconds: float
    count: int
    per_step_ms: float
    share: float


class Profile(msgspec.Struct, frozen=True):
    """Where the time of `steps` optimizer steps went, which took `seconds` in all on `device`.

    The `phases` and the rest, which is the loop, its events and what listens between the phases, make up the whole.
    What `listeners` in step take lies within them; those on threads of their own (`async`) run beside them.
    `trace` is the file with the trace of `traced_steps` steps more.
    """

    device: str
    steps: int
    seconds: float
    phases: tuple[Part, ...]
    listeners: tuple[Part, ...]
    trace: str | None = None
    traced_steps: int = 0

    @property
    def steps_per_second(self) -> float:
        """How many optimizer steps a second has."""
        return self.steps / self.seconds


def profile(
    config: Config, *, steps: int = 100, trace: Path | None = None, plugins: Selection | None = None
) -> Profile:
    """Train so many steps of a config's job, and return where their time went; nothing is kept.

    On a GPU each phase waits for the one before, so that each has its own time and all take longer than they would.
    `trace` is where to write what torch's profiler sees in a few further steps, in Chrome's trace format. Raises
    UserError.
    """
    if steps < 1:
        raise UserError("that is no number of steps", expected="at least 1", got=str(steps), where="--steps")
    if trace is not None:
        _check(trace)
    # The job's own limits would end it early; its epochs are as many as it takes.
    endless = msgspec.structs.replace(config.trainer, epochs=_ENDLESS, max_steps=None, max_time=None)
    tracing = Tracing() if trace is not None else None
    with EventBus(default_bus, time_all=True) as bus:
        trainer = app.build(replace(config, trainer=endless), bus=bus, plugins=plugins)
        with closing(_Watch(trainer, steps, tracing)) as watch:
            trainer.fit()
    if watch.found is None:
        raise UserError(
            "the job ended by itself before so many steps",
            expected=f"{WARM_UP} steps to warm up, and {steps}",
            got=f"{trainer.step} steps",
            where="--steps",
            hint="fewer steps, or without the callback that stops it",
        )
    if trace is None or tracing is None:
        return watch.found
    try:
        tracing.write(trace)
    except OSError as error:
        raise UserError("the trace cannot be written", got=str(error), where="--trace") from error
    return msgspec.structs.replace(watch.found, trace=str(trace), traced_steps=watch.traced)


def _check(trace: Path) -> None:
    """Refuse a place where no trace can be written, before anything is trained."""
    folder = trace.absolute().parent
    if not folder.is_dir():
        raise UserError("there is no such folder", got=str(folder), where="--trace")
    if trace.is_dir():
        raise UserError("a folder is no place for a trace", expected="a file", got=str(trace), where="--trace")
    if not os.access(trace if trace.exists() else folder, os.W_OK):
        raise UserError(
            "the trace cannot be written", expected="a file that you may write", got=str(trace), where="--trace"
        )


class _Watch:
    """Looks at the clocks when the steps that count begin and end, and stops the job.

    That is behind a batch, where no phase is being timed.
    """

    def __init__(self, trainer: Trainer, steps: int, tracing: Tracing | None) -> None:
        self.found: Profile | None = None
        self.traced = 0
        self._trainer = trainer
        self._steps = steps
        self._tracing = tracing
        self._clock = trainer.times.clock = clock_of(trainer.device)
        trainer.times.stride = 1
        self._since = 0.0
        self._before: dict[str, ListenerStatistics] = {}
        self._course = self._watches()
        self._awaited: float = next(self._course)
        trainer.bus.subscribe(BatchEnd, self._ended, priority=100, on_error="raise", name=_OWN)

    def close(self) -> None:
        """Look no more, wherever the job ended."""
        self._course.close()

    def _ended(self, event: BatchEnd) -> None:
        if event.source.step >= self._awaited:
            self._awaited = next(self._course, math.inf)

    def _watches(self) -> Generator[int]:
        """Go on from one moment to the next, each time yielding behind which step that is."""
        trainer = self._trainer
        yield WARM_UP
        first = trainer.step
        trainer.times.reset()
        self._before = self._listeners()
        self._since = self._clock()
        yield first + self._steps
        last = trainer.step
        self.found = self._profile(last - first)  # more than were asked for, if one was in a batch that was left out
        if self._tracing is not None:
            self._tracing.start()
            try:
                yield last + _TRACED
            finally:
                self._tracing.stop()
                self.traced = trainer.step - last
        trainer.stop("all is measured", by="")

    def _listeners(self) -> dict[str, ListenerStatistics]:
        return {one.name: one for one in self._trainer.bus.statistics() if one.name != _OWN}

    def _profile(self, steps: int) -> Profile:
        times, whole = self._trainer.times, self._clock() - self._since
        seconds = {phase: taken for phase, taken in times.seconds.items() if times.counts[phase]}
        if "transfer" in seconds:
            seconds["data"] -= seconds["transfer"]  # which is waited for together
        counts = times.counts | {"the rest": steps}
        seconds["the rest"] = whole - sum(seconds.values())

        def part(name: str, taken: float, count: int) -> Part:
            return Part(name, taken, count, 1e3 * taken / steps, taken / whole)

        listeners = []
        for name, one in self._listeners().items():
            earlier = self._before.get(name)
            delivered = one.delivered - (earlier.delivered if earlier else 0)
            taken = one.seconds - (earlier.seconds if earlier else 0.0)
            if delivered:
                listeners.append(part(f"{name} (async)" if one.lane == "async" else name, taken, delivered))
        return Profile(
            device=str(self._trainer.device),
            steps=steps,
            seconds=whole,
            phases=tuple(part(name, taken, counts[name]) for name, taken in seconds.items()),
            listeners=tuple(sorted(listeners, key=lambda one: -one.seconds)),
        )
