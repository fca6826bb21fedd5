"""How a command that trains speaks: in text for people, or in JSON lines for programs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Protocol

import click
import msgspec

from bus import EventBus
from frameworm import logs
from frameworm.app import DryRun
from frameworm.cli.failure import shortened, text_of
from frameworm.errors import FramewormError, RankError
from frameworm.listeners.console import ConsoleLines, LogLines
from frameworm.listeners.progress import ProgressBars
from frameworm.listeners.summary import Report
from frameworm.terminal import counted, printable, write_line


class Listener(Protocol):
    """Something that can be put on a bus."""

    def register(self, bus: EventBus) -> Any:
        """Listen on `bus`."""


class View(Protocol):
    """What is told of a run, and when."""

    def listener(self) -> Listener | None:
        """Return what tells of the run while it lasts, if anything does."""

    def dry_run(self, result: DryRun) -> None:
        """Tell what would be trained."""

    def summary(self, report: Report) -> None:
        """Tell how the run ended."""

    def failure(self, error: Exception, run_dir: Path | None = None) -> None:
        """Tell what went wrong, and where the run is, if there is one."""


class TextView:
    """Text: bars where stdout is a terminal, else a line an epoch; what went wrong goes to stderr."""

    def __init__(self, *, bars: bool, debug: bool) -> None:
        self._bars = bars and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self._debug = debug

    def listener(self) -> Listener:
        """Return bars or lines."""
        return ProgressBars() if self._bars else ConsoleLines()

    def dry_run(self, result: DryRun) -> None:
        """Print what would be trained, in two lines or three."""
        batches = "" if result.batches_per_epoch is None else f" of {result.batches_per_epoch:,} batches"
        epochs = counted(result.epochs, "epoch")
        write_line(f"{result.model}: {result.parameters:,} parameters, on {result.device}, {epochs}{batches}")
        if result.checkpoint is not None:
            write_line(f"it goes on from {result.checkpoint}")
        write_line(f"the loss of the first batch is {result.loss:.4g}; nothing was written")

    def summary(self, report: Report) -> None:
        """Print the report's lines."""
        write_line("\n".join(report.lines()))

    def failure(self, error: Exception, run_dir: Path | None = None) -> None:
        """Print the message, with a traceback where the error is not ours."""
        kept = f"\nthe run is kept, as failed: {run_dir}" if run_dir else ""
        click.echo(printable(text_of(error, debug=self._debug) + kept), err=True)


class JsonView:
    """JSON lines on stdout, by way of the log."""

    def __init__(self, *, debug: bool) -> None:
        self._debug = debug
        self._log = logs.get_logger("frameworm")

    def listener(self) -> Listener:
        """Return a line an epoch."""
        return LogLines(self._log.info)

    def dry_run(self, result: DryRun) -> None:
        """Log what would be trained as one line."""
        self._log.info("dry_run", **msgspec.structs.asdict(result))

    def summary(self, report: Report) -> None:
        """Log the report as one line."""
        self._log.info("summary", **report.fields())

    def failure(self, error: Exception, run_dir: Path | None = None) -> None:
        """Log the message, with the exception where it is not ours."""
        told = isinstance(error, FramewormError) and not self._debug
        trace = error.__traceback__ if self._debug else shortened(error.__traceback__)
        self._log.error(
            str(error),
            error=type(error).__name__,
            **({"run_dir": run_dir} if run_dir else {}),
            exc_info=None if told else (type(error), error, trace),
        )


class RankView:
    """Of several processes all but the first: the first one speaks for all, these only of what went wrong in them.

    What is wrong before there is a run is as a rule wrong in all of them: one on each machine speaks of it.
    """

    def __init__(self, rank: int, *, local_rank: str, debug: bool) -> None:
        self._rank = rank
        self._local_rank = local_rank
        self._debug = debug

    def listener(self) -> None:
        """Return nothing."""

    def dry_run(self, result: DryRun) -> None:
        """Say nothing."""

    def summary(self, report: Report) -> None:
        """Say nothing."""

    def failure(self, error: Exception, run_dir: Path | None = None) -> None:
        """Print the message, unless it is of another process."""
        if not isinstance(error, RankError) and (run_dir is not None or self._local_rank == "0"):
            click.echo(printable(f"[rank {self._rank}] {text_of(error, debug=self._debug)}"), err=True)


def view_of(log_format: logs.LogFormat, *, debug: bool) -> View:
    """Return how this process speaks."""
    if rank := logs.launched_as():
        return RankView(rank, local_rank=os.environ.get("LOCAL_RANK", "0"), debug=debug)
    return JsonView(debug=debug) if log_format == "json" else TextView(bars=log_format == "rich", debug=debug)
