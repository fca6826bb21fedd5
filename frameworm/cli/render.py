"""Values as text: tables that fit a terminal and are whole in a pipe, and standard JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from frameworm.delivery.records import Values
from frameworm.terminal import printable, write_line

_UNLIMITED = 100_000  # columns, where nothing is cut


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under a header, folded to the width of a terminal, in full lines elsewhere."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in header:
        table.add_column(Text(printable(title)), overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console = Console(width=None if sys.stdout.isatty() else _UNLIMITED)
    with console.capture() as captured:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def print_json(value: Any) -> None:
    """Print `value` as standard JSON; NaN and infinities are text, as in a run's journal."""
    write_line(json.dumps(Values().plain(value, []), indent=2))


def metrics_text(metrics: Mapping[str, float]) -> str:
    """Metrics in a line: `loss 0.3412  val_loss 0.3011`."""
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
