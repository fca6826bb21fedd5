"""`frameworm runs`: what has been trained, and what became of it."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import msgspec

from frameworm.cli.project import runs_folder
from frameworm.cli.render import metrics_text, print_json, print_table
from frameworm.delivery.status import relay_of, status
from frameworm.runs import RunDirectory, RunSummary, find, list_runs
from frameworm.runs import compare as compare_runs
from frameworm.runs import prune as prune_runs
from frameworm.terminal import write_line
from frameworm.training.manifest import list_checkpoints

_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_them = click.argument("them", metavar="RUN...", nargs=-1, required=True)


@click.group()
def runs() -> None:
    """List, show, compare, plot and prune runs."""


@runs.command("list")
@runs_folder
@_as_json
def list_them(root: Path, *, as_json: bool) -> None:
    """List the runs, the oldest first."""
    summaries = list_runs(root)
    if as_json:
        print_json([_plain(summary) for summary in summaries])
    elif not summaries:
        write_line(f"no runs in {root}; `frameworm train` makes them")
    else:
        header = ("run", "status", "epochs", "steps", "latest metrics")
        rows = [(x.path.name, x.status, str(x.epochs), str(x.step), metrics_text(x.metrics)) for x in summaries]
        print_table(header, rows)


@runs.command()
@click.argument("run")
@runs_folder
@_as_json
def show(run: str, root: Path, *, as_json: bool) -> None:
    """Show a run: `latest`, its id, its folder's name, the beginning of either, or a path."""
    directory = find(root, run)
    facts, history = _facts(directory), directory.history()
    if as_json:
        print_json(facts | {"history": [{"epoch": epoch, "metrics": metrics} for epoch, metrics in history.items()]})
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        write_line(f"{name:{width}}  {_text(value, indent=width + 2)}")
    names = list(dict.fromkeys(name for metrics in history.values() for name in metrics))
    rows = [
        (str(epoch + 1), *(f"{metrics[name]:.4g}" if name in metrics else "" for name in names))
        for epoch, metrics in history.items()
    ]
    write_line("")
    print_table(("epoch", *names), rows)


@runs.command()
@_them
@runs_folder
@_as_json
def compare(them: tuple[str, ...], root: Path, *, as_json: bool) -> None:
    """Show runs side by side: what differs in their configs, and their latest metrics."""
    if len(them) == 1:
        raise click.UsageError("a run is compared with another one: name two or more")
    found = compare_runs([find(root, run) for run in them])
    if as_json:
        print_json(msgspec.structs.asdict(found) | {"runs": [_plain(summary) for summary in found.runs]})
        return
    facts = {name: [str(getattr(run, name)) for run in found.runs] for name in ("status", "epochs", "step")}
    config = {key: ["-" if value is None else json.dumps(value) for value in found.config[key]] for key in found.config}
    metrics = {key: ["-" if x is None else f"{x:.4g}" for x in values] for key, values in found.metrics.items()}
    for title, rows in (("run", facts), ("config", config), ("metric", metrics)):
        if rows:
            print_table((title, *(run.path.name for run in found.runs)), [(key, *rows[key]) for key in rows])
        else:
            write_line("the configs are equal" if title == "config" else "no metrics yet")
        if title != "metric":
            write_line("")


@runs.command()
@_them
@runs_folder
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default="curves.png",
    show_default=True,
    metavar="FILE",
    help="Where the picture goes; its suffix is its format.",
)
@click.option("--metric", "metrics", multiple=True, metavar="NAME", help="Only this one: val_loss, or loss for all.")
def plot(them: tuple[str, ...], root: Path, *, output: Path, metrics: tuple[str, ...]) -> None:
    """Draw the learning curves of runs, over each other, into a picture."""
    from frameworm import curves  # noqa: PLC0415  it takes numpy, which no other command here needs

    curves.plot([find(root, run) for run in them], output, metrics=metrics)
    write_line(str(output))


@runs.command()
@runs_folder
@click.option("--keep", type=click.IntRange(min=0), required=True, help="How many of the newest stay.")
@click.option(
    "--older-than", "days", type=click.FloatRange(min=0), metavar="DAYS", help="Of the others, only these go."
)
@click.option("--dry-run", is_flag=True, help="Say what would go; remove nothing.")
def prune(root: Path, *, keep: int, days: float | None, dry_run: bool) -> None:
    """Remove old runs with all they hold; those that are being trained stay."""
    older_than = None if days is None else timedelta(days=days)
    gone = prune_runs(root, keep=keep, older_than=older_than, dry_run=dry_run)
    for run in gone:
        write_line(f"{'would remove' if dry_run else 'removed'} {run.path}")
    if not gone:
        write_line("nothing to remove")


def _plain(summary: RunSummary) -> dict[str, Any]:
    created = f"{summary.created:%Y-%m-%dT%H:%M:%SZ}"
    return msgspec.structs.asdict(summary) | {"path": str(summary.path), "created": created}


def _facts(directory: RunDirectory) -> dict[str, Any]:
    """What is known of a run, with the paths of its files."""
    return {
        **_plain(directory.summary()),
        "parent": directory.parent,
        "config": str(directory.config),
        "environment": str(directory.environment()),
        "events": str(directory.journal),
        "listeners": [msgspec.structs.asdict(report) for report in status(directory.path)],
        "relay": None if (relay := relay_of(directory.path)) is None else str(relay),
        "checkpoints": [str(checkpoint.path) for checkpoint in list_checkpoints(directory.checkpoints)],
    }


def _text(value: Any, *, indent: int) -> str:
    """A fact for people; several are below each other."""
    if isinstance(value, dict):
        return metrics_text(value)
    if isinstance(value, list):
        return f"\n{' ' * indent}".join(map(_line, value)) or "-"
    return "-" if value is None else str(value)


def _line(value: Any) -> str:
    """A path, or what became of a listener."""
    if isinstance(value, str):
        return value
    parts = [
        f"{value['name']}: {value['state']}",
        f"{value['delivered']} delivered",
        f"{value['pending']} pending",
        f"{value['dead']} dead letter{'' if value['dead'] == 1 else 's'}",
    ]
    error = value["last_error"]
    return ", ".join(parts) + (f"; last error: {error.partition(chr(10))[0]}" if error else "")
