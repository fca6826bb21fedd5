"""`frameworm events`: what can be listened to, what a record of it looks like, and the records themselves."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from typing import NamedTuple

import click

from bus import Event, event_types
from frameworm.cli.render import print_table
from frameworm.cli.replay import replay
from frameworm.cli.tail import tail
from frameworm.delivery import journal
from frameworm.events import TrainingEvent


class Row(NamedTuple):
    """An event as it is listed."""

    event: str
    hook: str
    recorded: str
    about: str


@click.group()
def events() -> None:
    """Show what a run publishes and records."""


events.add_command(tail)
events.add_command(replay)


@events.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_events(*, as_json: bool) -> None:
    """List the events, the hooks that they call, and when they are recorded."""
    rows = [_row(event) for event in _events()]
    if as_json:
        click.echo(json.dumps([row._asdict() for row in rows], indent=2))
    else:
        print_table(Row._fields, rows)


@events.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON; a schema always is.")
def schema(*, as_json: bool) -> None:  # noqa: ARG001  taken, so that scripts may always say it
    """Print the JSON Schema of a record, which is a line of a run's events.jsonl."""
    click.echo(json.dumps(journal.schema(), indent=2))


def _events() -> Iterator[type[Event]]:
    return (event for event in event_types().values() if issubclass(event, TrainingEvent))


def _row(event: type[Event]) -> Row:
    return Row(
        event=event.name,
        hook=f"on_{event.name}({', '.join(event.arguments)})",
        recorded=event.recorded.value.replace("_", " "),
        about=(inspect.getdoc(event) or "").split("\n\n")[0].replace("\n", " "),
    )
