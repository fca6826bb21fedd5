"""The guard: fails when an event, a training step, a listener or the start-up costs more than its bar.

Run it as `python -m benchmarks.guard` or `make guard`. Each row is a paired ratio (see `paired`) with a bar. What the
measurement itself cannot tell apart is allowed on top, and no more: the noise of the row's baseline against itself,
measured in the same process, as a share of the bar and 2 % at most. Two rows are no ratios but a quantity, seconds or
MiB, which has to keep its bar as it is.

A row that misses is measured twice more, and fails when it misses all three times: a ratio that is truly over its bar
does so every time, a disturbance of the machine seldom thrice. What is printed is the last measurement. With `--report`
nothing is measured twice and the exit status is 0: it is for reading.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from importlib.util import find_spec
from itertools import chain

import msgspec

from benchmarks import checkpoints, curves, delivery, emit, memory, plugins, ranks, relay, startup, step
from benchmarks.paired import Estimate, Ratio

TRIES = 3
MOST_NOISE = 0.02

Measure = Callable[[], Estimate]
Noise = Callable[[], Ratio]


class Row(msgspec.Struct, frozen=True):
    """One promise: what is measured against what, the bar, and how to measure the noise of that comparison.

    Without a bar nothing is promised, and it is measured for a report only; without `noise` nothing is allowed on top.
    A `goal` below the bar is where it should get to: the bar then holds what has been reached. What `needs` a module is
    left out where that is not installed.
    """

    what: str
    against: str
    bar: float | None
    measure: Measure
    noise: Noise | None
    goal: float | None = None
    needs: str | None = None


class Verdict(msgspec.Struct, frozen=True):
    """What came of a row: the last measurement, the noise that was allowed for, and how often it was measured."""

    row: Row
    ratio: Estimate
    noise: float
    tries: int

    @property
    def allowed(self) -> float:
        """The most that passes: the bar and the noise on top."""
        return math.inf if self.row.bar is None else self.row.bar * (1 + self.noise)

    @property
    def passed(self) -> bool:
        """Whether the promise is kept."""
        return self.ratio.median <= self.allowed


def rows() -> Iterator[Row]:
    """Return every promise, each baseline's noise being measured once."""
    for listeners, bar, goal in ((0, 0.15, None), (1, 0.22, 0.20), (10, 0.12, None)):
        yield Row(
            f"emit, {listeners or 'no'} typed {'listener' if listeners == 1 else 'listeners'}",
            f"blinker send, {listeners or 'no'} {'receiver' if listeners == 1 else 'receivers'}",
            bar,
            partial(emit.against_blinker, listeners),
            cache(partial(emit.blinker_against_itself, listeners)),
            goal,
        )
    blinker = cache(partial(emit.blinker_against_itself, 1))
    yield Row("emit, 1 asynchronous listener", "blinker send, 1 receiver", 0.50, emit.against_blinker_async, blinker)
    yield Row("1 000 000 events, queue full", "MiB of growth", 16.0, memory.growth, None)
    yield Row("100 000 steps, three listeners", "MB of growth", 5.0, memory.training, None)
    bare = cache(step.bare_against_itself)
    off, sampled, each = "journal off", partial(step.journal_against_none, 10), partial(step.journal_against_none, 1)
    yield Row("step, no listeners, journal off", "bare PyTorch loop", 1.07, step.plain_against_bare, bare, 1.04)
    by_hand = cache(step.bare_with_options_against_itself)
    options = "step, options on"
    yield Row(options, "bare loop that does the same", 1.03, step.options_against_bare, by_hand)
    yield Row("step, five document hooks", "bare PyTorch loop", 1.13, step.hooks_against_bare, bare, 1.07)
    yield Row("step, five hooks of a plugin", "bare PyTorch loop", 1.13, step.plugins_hooks_against_bare, bare, 1.07)
    yield Row("step, five hooks of a plugin", "five hooks by hand", 1.03, step.plugins_hooks_against_hooks, bare)
    yield Row("step, journal, log_every=10", off, 1.08, sampled, bare, 1.03)
    yield Row("step, journal, a record per step", off, 1.22, each, bare, 1.10)
    for strategy, bar, against, noise in (
        ("DDP", 1.03, ranks.ddp_against_by_hand, ranks.ddp_by_hand_against_itself),
        ("FSDP2", 1.05, ranks.fsdp_against_by_hand, ranks.fsdp_by_hand_against_itself),
    ):
        yield Row(f"step, two processes, {strategy}", f"{strategy} loop by hand", bar, against, cache(noise))
    alone = cache(delivery.none_against_itself)
    for name, every, bar, goal in (("a record per step", 1, 1.27, 1.15), ("log_every=10", 10, 1.15, 1.04)):
        kept = partial(delivery.mlflow_against_none, every)
        yield Row(f"step, MLflow, {name}", off, bar, kept, alone, goal, needs="mlflow")
    yield Row(
        "MLflow, a record per step", "seconds behind at the end", 2.0, delivery.mlflow_behind, None, needs="mlflow"
    )
    yield Row("step, a relay that burns Python", "no listener", 1.12, delivery.burner_against_none, alone, 1.06)
    long = cache(delivery.long_against_itself)
    yield Row("5 ms step, async listener of 100 ms", "no listener", 1.03, delivery.sleeper_against_none, long, 1.01)
    yield Row("100 MB in the background, the stall", "copying the weights", 1.50, checkpoints.stall, None)
    yield Row("... and a step meanwhile", "a step", 1.10, checkpoints.step_meanwhile, None)
    click = cache(startup.click_against_itself)
    yield Row("frameworm --help", "import click", 3.0, startup.help_against_click, click)
    none = cache(plugins.list_against_itself)
    yield Row("frameworm plugins list, 200 of them", "the same with none", 2.0, plugins.list_against_none, none)
    importing = cache(plugins.import_against_itself)
    yield Row("load 100 small plugins", "import them by hand", 3.0, plugins.load_against_import, importing)
    reading = cache(relay.reading_against_itself)
    yield Row("relay, 100 000 records behind", "read and decode them", 5.0, relay.catching_up_against_reading, reading)
    file = cache(curves.reading_against_itself)
    drawn = "runs plot, 100 000 records"
    yield Row(drawn, "read them", 3.0, curves.plot_against_reading, file, needs="matplotlib")


def orientation() -> Iterator[Row]:
    """Return what is worth knowing besides."""
    yield Row(
        "step, fused AdamW (not guarded)", "bare loop, fused", None, step.fused_against_bare, step.bare_against_itself
    )


def judge(row: Row, *, tries: int = TRIES) -> Verdict:
    """Measure a row until it passes, `tries` times at most."""
    noise = min(row.noise().noise, MOST_NOISE) if row.noise is not None else 0.0
    tried = 0
    while True:
        tried += 1
        verdict = Verdict(row, row.measure(), noise, tried)
        if verdict.passed or tried == tries:
            return verdict


def possible(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield the rows that can be measured here, and say which are left out."""
    for row in rows:
        if row.needs is None or find_spec(row.needs) is not None:
            yield row
        else:
            print(f"{row.what:36}{row.against:26}{'left out: ' + row.needs + ' is not installed':>10}", flush=True)


def report(verdicts: Iterable[Verdict]) -> bool:
    """Print each verdict as it comes; return whether all passed."""
    print(
        f"{'what':36}{'against':26}{'measured':>10}{'± 95 %':>9}{'goal':>7}{'bar':>7}{'noise':>8}{'margin':>9}  tries"
    )
    passed = True
    for verdict in verdicts:
        ratio, row = verdict.ratio, verdict.row
        spread = (ratio.high - ratio.low) / 2
        goal, bar, margin, outcome = "-", "-", "-", ""
        if row.bar is not None:
            goal, bar, margin = f"{row.goal or row.bar:.2f}", f"{row.bar:.2f}", f"{1 - ratio.median / row.bar:.1%}"
            outcome = "PASS" if verdict.passed else "FAIL"
        print(
            f"{row.what:36}{row.against:26}{ratio.median:10.3f}{spread:9.3f}{goal:>7}{bar:>7}{verdict.noise:8.1%}"
            f"{margin:>9}{verdict.tries:7}  {outcome}",
            flush=True,
        )
        passed = passed and verdict.passed
    return passed


def main() -> int:
    """Judge every row and print the table; return 1 when a promise is broken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guard", description=__doc__.partition("\n")[0])
    parser.add_argument("--report", action="store_true", help="measure each row once; always exit 0")
    only_report = parser.parse_args().report
    everything = chain(rows(), orientation()) if only_report else rows()
    passed = report(judge(row, tries=1 if only_report else TRIES) for row in possible(everything))
    return 0 if passed or only_report else 1


if __name__ == "__main__":
    sys.exit(main())
