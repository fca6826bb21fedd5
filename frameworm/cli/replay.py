"""`frameworm events replay`: a recorded run, fed to a listener that was not there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from frameworm import logs
from frameworm.cli.project import runs_folder
from frameworm.cli.relay import print_reports
from frameworm.cli.render import print_table
from frameworm.config.document import Places
from frameworm.config.overrides import override
from frameworm.core import registries
from frameworm.delivery.feeding import feed, wanted
from frameworm.delivery.listener import ProcessListener
from frameworm.delivery.replay import check_journal
from frameworm.plugins.loader import get_plugin_loader, load_plugins
from frameworm.runs import find
from frameworm.terminal import write_line


@click.command()
@click.argument("run")
@runs_folder
@click.option("--plugin", "name", metavar="NAME", required=True, help="A callback, by its name or import path.")
@click.option("--from-seq", type=click.IntRange(min=1), default=1, metavar="N", help="Begin with this record.")
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="An option of it: --set experiment=digits.")
@click.option("--dry-run", is_flag=True, help="Say what would be delivered; deliver nothing.")
@click.pass_context
def replay(
    ctx: click.Context, run: str, root: Path, *, name: str, from_seq: int, settings: tuple[str, ...], dry_run: bool
) -> None:
    """Feed what a run has recorded to a listener, as its relay would; the run stays as it is."""
    directory = find(root, run)
    check_journal(directory.path)
    with logs.configure("plain"):
        if (here := str(Path.cwd())) not in sys.path:
            sys.path.append(here)  # import paths begin where the command is given
        load_plugins()
        target = _callback(name)
        listener = ProcessListener(name, target, _options(settings))
        counts = wanted(directory.path, listener, from_seq=from_seq)
        if dry_run:
            print_table(("event", "records"), [(event, str(count)) for event, count in counts.items()])
            write_line(f"{sum(counts.values())} events would be delivered to {target}")
            return
        report = feed(directory.path, listener, from_seq=from_seq)
    print_reports((report,))
    ctx.exit(0 if report.state == "ok" and not report.dead else 1)


def _callback(name: str) -> str:
    """Return what is meant: a callback or an import path, else the one callback of the plugin of that name."""
    registry = registries["callback"]
    if ":" in name or name in registry.names():
        return name
    for plugin in get_plugin_loader().loaded():
        callbacks = [what.removeprefix("callback ") for what in plugin.registered if what.startswith("callback ")]
        if name in (plugin.name, plugin.key) and len(callbacks) == 1:
            return callbacks[0]
    registry.get(name)  # raises, with the nearest name
    return name


def _options(settings: tuple[str, ...]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for text in settings:
        override(options, Places("--set"), text)
    return options
