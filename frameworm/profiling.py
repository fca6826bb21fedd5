"""Where a job's time goes, tried on the job itself: some of its steps are trained, and every phase of them is timed."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import msgspec

from bus import EventBus, ListenerStatistics, default_bus
from frameworm import app
from frameworm.config import Config
from frameworm.errors import UserError
from frameworm.events import OptimizerStepped
from frameworm.plugins.selection import Selection
from frameworm.training.device import clock_of
from frameworm.training.tracing import traced
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
    """

    device: str
    steps: int
    seconds: float
    phases: tuple[Part, ...]
    listeners: tuple[Part, ...]
    trace: str | None = None

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
    if trace is not None and not trace.absolute().parent.is_dir():
        raise UserError("there is no such folder", got=str(trace.absolute().parent), where="--trace")
    # The job's own limits would end it early; its epochs are as many as it takes.
    endless = msgspec.structs.replace(config.trainer, epochs=_ENDLESS, max_steps=None, max_time=None)
    with EventBus(default_bus, time_all=True) as bus:
        trainer = app.build(replace(config, trainer=endless), bus=bus, plugins=plugins)
        watch = _Watch(trainer, steps, trace)
        trainer.fit()
    if watch.found is None:
        raise UserError(
            "the job ended by itself before so many steps",
            expected=f"{WARM_UP} steps to warm up, and {steps}",
            got=f"{trainer.step} steps",
            where="--steps",
            hint="fewer steps, or without the callback that stops it",
        )
    return watch.found


class _Watch:
    """Looks at the clocks when the steps that count begin and end, and stops the job."""

    def __init__(self, trainer: Trainer, steps: int, trace: Path | None) -> None:
        self.found: Profile | None = None
        self._trainer = trainer
        self._steps = steps
        self._trace = trace
        self._tracing = ExitStack()
        self._clock = trainer.times.clock = clock_of(trainer.device)
        trainer.times.stride = 1
        self._step = 0
        self._since = 0.0
        self._before: dict[str, ListenerStatistics] = {}
        trainer.bus.subscribe(OptimizerStepped, self._stepped, priority=100, on_error="raise", name=_OWN)

    def _stepped(self, event: OptimizerStepped) -> None:
        # The optimizer's phase is still being timed: its time of this step counts for the one before, and so on.
        step = event.source.step
        if step == self._step:
            return  # another optimizer's, of the same batch
        self._step = step
        if step == WARM_UP:
            self._trainer.times.reset()
            self._before = self._listeners()
            self._since = self._clock()
        elif step == WARM_UP + self._steps:
            self.found = self._profile()
            if self._trace is None:
                event.source.stop("all is measured", by="")
            else:
                self._tracing.enter_context(traced(self._trace))
        elif step == WARM_UP + self._steps + _TRACED:
            self._tracing.close()
            event.source.stop("all is measured", by="")

    def _listeners(self) -> dict[str, ListenerStatistics]:
        return {one.name: one for one in self._trainer.bus.statistics() if one.name != _OWN}

    def _profile(self) -> Profile:
        times, whole = self._trainer.times, self._clock() - self._since
        seconds = {phase: taken for phase, taken in times.seconds.items() if times.counts[phase]}
        if "transfer" in seconds:
            seconds["data"] -= seconds["transfer"]  # which is waited for together
        counts = times.counts | {"the rest": self._steps}
        seconds["the rest"] = whole - sum(seconds.values())

        def part(name: str, taken: float, count: int) -> Part:
            return Part(name, taken, count, 1e3 * taken / self._steps, taken / whole)

        listeners = []
        for name, one in self._listeners().items():
            earlier = self._before.get(name)
            delivered = one.delivered - (earlier.delivered if earlier else 0)
            taken = one.seconds - (earlier.seconds if earlier else 0.0)
            if delivered:
                listeners.append(part(f"{name} (async)" if one.lane == "async" else name, taken, delivered))
        return Profile(
            device=str(self._trainer.device),
            steps=self._steps,
            seconds=whole,
            phases=tuple(part(name, taken, counts[name]) for name, taken in seconds.items()),
            listeners=tuple(sorted(listeners, key=lambda one: -one.seconds)),
            trace=None if self._trace is None else str(self._trace),
        )
