"""`frameworm relay`: delivers what a run has recorded to the listeners that have a process of their own."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager, nullcontext
from pathlib import Path

import click

from frameworm import logs
from frameworm.cli.project import runs_folder
from frameworm.cli.render import print_table
from frameworm.delivery.relay import Outcome, Relay
from frameworm.delivery.status import ListenerReport, status
from frameworm.runs import find
from frameworm.terminal import write_line


@click.command()
@click.argument("run")
@runs_folder
@click.option("--wait", is_flag=True, hidden=True, help="Wait for the end of another relay.")
@click.option("--spare", is_flag=True, hidden=True, help="The relay before was killed from outside.")
@click.pass_context
def relay(ctx: click.Context, run: str, root: Path, *, wait: bool, spare: bool) -> None:
    """Deliver the rest of a run to its process-lane listeners.

    It is started by itself where a run has such listeners; by hand it delivers what was left when all had died. RUN is
    `latest`, the run's id, its folder's name, the beginning of either, or a path.
    """
    path = find(root, run).path.absolute()
    with logs.configure("plain"), Relay(path, wait=wait, spare=spare) as made:
        if not made.plan.listeners:
            write_line("the run has no listeners in the process lane: there is nothing to deliver")
            return
        with _stopped_by_signals(made):
            outcome = _run(made)
        print_reports(status(path))
        if outcome is Outcome.CROWDED and made.advanced:
            _begin_anew(made, path)
        if made.hanging:
            _leave_behind(outcome)  # the interpreter might wait for a thread that hangs
    ctx.exit(outcome)


def print_reports(reports: tuple[ListenerReport, ...]) -> None:
    """Print a line a listener."""
    header = ("listener", "state", "delivered", "dead letters", "pending", "last error")
    rows = [
        (x.name, x.state, str(x.delivered), str(x.dead), str(x.pending), (x.last_error or "").partition("\n")[0])
        for x in reports
    ]
    print_table(header, rows)


def _run(made: Relay) -> Outcome:
    """Work where the run was started: relative paths and plugins are found from there."""
    folder = made.plan.folder
    with chdir(folder) if folder and Path(folder).is_dir() else nullcontext():
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.append(here)
        return made.run()


@contextmanager
def _stopped_by_signals(made: Relay) -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM wait for the calls that are under way; the second one does not wait."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, _frame: object) -> None:
        made.stop(Outcome(128 + number))
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _begin_anew(made: Relay, path: Path) -> None:
    """Become a new relay in this process's place: its memory is free, and whoever waits for it need not know."""
    sys.stdout.flush()
    sys.stderr.flush()
    made.close()
    os.execv(sys.executable, [sys.executable, "-m", "frameworm", "relay", str(path), "--wait"])  # noqa: S606  ourselves


def _leave_behind(outcome: Outcome) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(outcome)
