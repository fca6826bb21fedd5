"""What a listener costs a training step when it is served elsewhere: by the relay, or on a thread of its own.

The relay is the real one, a process beside the trainer's. The trainer is pinned to one core, so the relay is moved to
the others, and it stands still while the run without it is measured: what it takes from the machine (caches, memory,
the disk), it takes from the run that it serves. What it has not done when a block ends, it does in the next one.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, Self

from benchmarks.paired import Block, Estimate, Pair, Ratio, estimate, measure, summarize
from benchmarks.step import fit_trainer
from benchmarks.stepping import Batch, Stepping, one_core, other_cores
from bus import EventBus
from frameworm.delivery.journal import Journal
from frameworm.delivery.listener import ProcessListener
from frameworm.delivery.status import log_file, status
from frameworm.delivery.supervisor import RelayProcess
from frameworm.events import OptimizerStepped
from frameworm.facts import RunFacts
from frameworm.plugins.hooks import CallbackHook
from frameworm.plugins.selection import Selection
from frameworm.runs import RunDirectory

LONG = 40  # of a loop's own blocks, in one that is measured: half a second
LIVES = 5  # see `step.versus`
PAIRS = 15
SECONDS = 6.0  # of training, after which it is looked how far behind the relay is
PATIENCE = 60.0  # seconds for what takes a few, on a machine that is busy

ACCUMULATE = 20  # batches that make a step of about 5 ms: the small model's, which stay in the caches
SLEEP = 0.1  # seconds that the asynchronous listener takes for an event
FILLED = 1100  # events, with which its queue is full


class Blocks(NamedTuple):
    """How much is measured: pairs of blocks, each of them so many (`long`) of a loop's own, in so many lives."""

    long: int
    pairs: int
    lives: int = 5  # see `step.versus`


BUSY = Blocks(long=4, pairs=100)  # the listener does the same at every moment
IN_TURNS = Blocks(long=20, pairs=20)  # a quarter of a second: the relay looks for records five times a second
ASLEEP = Blocks(long=10, pairs=50)  # a sleep each

Fit = Callable[[Iterator[Batch]], object]
ListenerIn = Callable[[Path], ProcessListener]
"""Describes a listener that keeps what it has in a folder."""


class Burner(CallbackHook):
    """Burns Python for ever, having left a file to say so."""

    def __init__(self, sign: str) -> None:
        self.sign = Path(sign)

    def on_train_begin(self, trainer: RunFacts) -> None:  # noqa: ARG002  as the hook is called
        """Never return."""
        self.sign.touch()
        while True:
            pass


def burner(folder: Path) -> ProcessListener:
    """Describe a listener that burns Python for ever."""
    return ProcessListener("burner", f"{__name__}:Burner", {"sign": str(folder / "burning")})


def mlflow(folder: Path) -> ProcessListener:
    """Describe the logger to MLflow, on SQLite."""
    options = {"experiment": "benchmark", "tracking_uri": f"sqlite:///{folder}/mlflow.db"}
    return ProcessListener("mlflow", "frameworm_plugins.mlflow_logger:MLflowLogger", options)


class RelayedRun:
    """A run that records every so many-th batch, and the relay that hands its records to one listener."""

    def __init__(self, listener: ListenerIn, *, record_every: int) -> None:
        self._listener = listener
        self._record_every = record_every
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            runs = Path(stack.enter_context(TemporaryDirectory()))
            self.folder = RunDirectory.create(runs, "benchmark").path
            self._journal = stack.enter_context(Journal(self.folder, run="benchmark", log_every=self._record_every))
            self._relay = RelayProcess(self.folder, [self._listener(self.folder)], plugins=Selection(others=False))
            stack.callback(self._end)
            if cores := other_cores():
                os.sched_setaffinity(self._pid, cores)
            self._opened = stack.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        self._opened.close()

    def fit(self, batches: Iterator[Batch], *, name: str = "benchmark") -> None:
        """Train as the run of this name: what is logged of another one is not taken for having been logged before."""
        self._journal.run = name
        fit_trainer(batches, journal=self._journal)

    def go_on(self) -> None:
        """Let the relay work."""
        os.kill(self._pid, signal.SIGCONT)

    def stand_still(self) -> None:
        """Let the relay do nothing."""
        os.kill(self._pid, signal.SIGSTOP)

    def wait(self) -> float:
        """Wait until the listener has had all records, or burns, and return how many seconds that took."""
        begin = time.perf_counter()
        while self._relay.lag() and not (self.folder / "burning").exists():
            if self._relay.pid is None or time.perf_counter() - begin > PATIENCE:
                raise self._wrong("the listener does not get its records")
            time.sleep(0.005)
        return time.perf_counter() - begin

    def check(self) -> None:
        """Wait, too; raises RuntimeError if the listener has not taken all of it at once."""
        self.wait()
        if any(report.failed or report.dead or report.state not in ("ok", "hung") for report in status(self.folder)):
            raise self._wrong("the listener fails")

    @property
    def _pid(self) -> int:
        pid = self._relay.pid
        if pid is None:
            raise self._wrong("the relay is gone")
        return pid

    def _wrong(self, what: str) -> RuntimeError:
        return RuntimeError(f"{what}: {status(self.folder)} {log_file(self.folder).read_text('utf-8', 'replace')}")

    def _end(self) -> None:
        self._relay.leave()
        pid = self._relay.pid
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._relay.drain(PATIENCE)


class Sleeper:
    """An asynchronous listener that sleeps for each step, while it is allowed to go on; its queue is full."""

    def __init__(self, bus: EventBus) -> None:
        self.allowed = threading.Event()
        self._subscription = bus.subscribe(OptimizerStepped, self._take, dispatch="async", timeout=None)
        channel, trainer = bus.channel(OptimizerStepped), object()
        for _ in range(FILLED):
            channel.emit(OptimizerStepped(trainer, None))  # type: ignore[arg-type]  # nobody looks at it

    def end(self) -> None:
        """Listen no more: nobody has to wait for what is in the queue."""
        self._subscription.cancel()
        self.allowed.set()

    def _take(self, _event: OptimizerStepped) -> None:
        self.allowed.wait()
        time.sleep(SLEEP)


def relayed_against(alone: Fit, listener: ListenerIn, *, record_every: int, blocks: Blocks) -> Ratio:
    """Measure a run with a listener in the process lane against a loop without.

    The relay has begun and caught up before. It takes seconds to start, so it is the same one for all lives of the
    loop: it finds several runs in one record.
    """
    with RelayedRun(listener, record_every=record_every) as run:
        return _alternate(
            lambda life: partial(run.fit, name=f"benchmark {life}"),
            alone,
            blocks,
            begin=run.wait,
            on=run.go_on,
            off=run.stand_still,
            end=run.check,
        )


def mlflow_against_none(record_every: int, *, blocks: Blocks = IN_TURNS) -> Ratio:
    """Measure a run that is kept in MLflow against one that is not even recorded."""
    return relayed_against(fit_trainer, mlflow, record_every=record_every, blocks=blocks)


def burner_against_none(*, blocks: Blocks = BUSY) -> Ratio:
    """Measure a run whose listener burns Python for ever against one that is recorded, too, and for nobody."""
    return relayed_against(partial(fit_trainer, record_every=10), burner, record_every=10, blocks=blocks)


def none_against_itself(*, blocks: Blocks = IN_TURNS) -> Ratio:
    """Measure the noise of these comparisons."""
    return _alternate(lambda _: fit_trainer, fit_trainer, blocks)


def mlflow_behind(*, seconds: float = SECONDS) -> Estimate:
    """Measure how many seconds after a run's end all of it is in MLflow, with a record of every step."""
    with RelayedRun(mlflow, record_every=1) as run, one_core():
        with Stepping(run.fit) as loop:
            loop()
            run.wait()
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                loop()
        behind = run.wait()
        run.check()
    return estimate([behind])


def sleeper_against_none(*, blocks: Blocks = ASLEEP) -> Ratio:
    """Measure steps of 5 ms beside an asynchronous listener that takes 100 ms for each against steps without it."""
    with EventBus() as bus:
        sleeper = Sleeper(bus)
        return _alternate(
            lambda _: partial(fit_trainer, parent=bus, accumulate=ACCUMULATE),
            partial(fit_trainer, accumulate=ACCUMULATE),
            blocks,
            on=sleeper.allowed.set,
            off=sleeper.allowed.clear,
            end=sleeper.end,
        )


def long_against_itself(*, blocks: Blocks = ASLEEP) -> Ratio:
    """Measure the noise of that."""
    long = partial(fit_trainer, accumulate=ACCUMULATE)
    return _alternate(lambda _: long, long, blocks)


def _nothing() -> None: ...


def _alternate(
    served: Callable[[int], Fit],
    alone: Fit,
    blocks: Blocks,
    *,
    begin: Callable[[], object] = _nothing,
    on: Callable[[], object] = _nothing,
    off: Callable[[], object] = _nothing,
    end: Callable[[], object] = _nothing,
) -> Ratio:
    """Measure a loop whose listener is switched `on` against one during which it is switched `off`.

    The loops are made anew for each life, as in `step.versus`. `begin` is called when they have run for the first time,
    `end` before they end; the listener is on then.
    """
    measured: list[Pair] = []
    with one_core(), ExitStack() as stack:
        for life in range(blocks.lives):
            first, second = Stepping(served(life)), Stepping(alone)
            for loop in (first, second) if life % 2 else (second, first):
                stack.enter_context(loop)
                loop()
            if not life:
                begin()
            a, b = _long(first, blocks.long, on), _long(second, blocks.long, off)
            measured += measure(a, b, pairs=blocks.pairs // blocks.lives, seed=life)
        on()
        end()
    return summarize(measured)


def _long(loop: Block, long: int, before: Callable[[], object]) -> Block:
    def block() -> None:
        before()
        for _ in range(long):
            loop()

    return block
