"""`frameworm events tail`: what a run has recorded, and goes on to record, in lines."""

from __future__ import annotations

import contextlib
import json
import select
import sys
from collections.abc import Callable
from pathlib import Path

import click
import msgspec

from bus import event_types
from bus.log import LogReader, Record
from frameworm.cli.project import runs_folder
from frameworm.delivery.following import follow
from frameworm.delivery.records import GAP
from frameworm.errors import UnknownNameError
from frameworm.runs import RunDirectory, find
from frameworm.terminal import descriptor, printable

_POSITION = frozenset({"v", "seq", "attempt", "time", "run", "rank", "event", "epoch", "step", "crc"})


@click.command()
@click.argument("run")
@runs_folder
@click.option("-f", "--follow", "wait", is_flag=True, help="Go on until the run has ended.")
@click.option("--event", "names", metavar="NAME", multiple=True, help="Only these events (repeatable).")
@click.option("--json", "as_json", is_flag=True, help="Print each record as a line of JSON.")
def tail(run: str, root: Path, *, wait: bool, names: tuple[str, ...], as_json: bool) -> None:
    """Print the records of a run, a line each."""
    directory = find(root, run)
    _check(directory, names)
    show = _json if as_json else _line
    for record in follow(directory.path, wait=wait, unwanted=_reader_has_left()):
        if not names or record["event"] in names:
            click.echo(show(record))
    if wait and directory.summary().status == "crashed":
        click.echo("the run has crashed: its process is gone", err=True)


def _check(run: RunDirectory, names: tuple[str, ...]) -> None:
    """Refuse a name that is no event's, and of which there is no record either, as there is of an unloaded plugin's."""
    unknown = [name for name in names if name not in event_types() and name != GAP]
    if unknown:
        with contextlib.closing(LogReader(run.journal)) as reader:
            recorded = {record["event"] for record in reader}
        for name in unknown:
            if name not in recorded:
                raise UnknownNameError("event", name, {*event_types(), *recorded})


def _line(record: Record) -> str:
    values = " ".join(f"{key}={_text(value)}" for key, value in record.items() if key not in _POSITION)
    where = f"epoch {record['epoch'] + 1} step {record['step']}"
    return printable(
        f"{record['time'][11:19]}  {record['seq']:>6}  {where:18}  {record['event']:18}  {values}"
    ).rstrip()


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) and " " not in value else json.dumps(value)


def _json(record: Record) -> str:
    return msgspec.json.encode(record).decode()


def _reader_has_left() -> Callable[[], bool]:
    """Return what says whether nobody reads stdout any more, also while nothing is written."""
    fd = descriptor(sys.stdout)
    if fd is None or not hasattr(select, "poll"):
        return lambda: False
    poll = select.poll()
    poll.register(fd, 0)  # an error is told of without being asked for
    return lambda: any(what & (select.POLLERR | select.POLLNVAL) for _, what in poll.poll(0))
