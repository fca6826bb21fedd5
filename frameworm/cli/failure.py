"""What the command line says when something goes wrong, and the exit code."""

from __future__ import annotations

import re
import traceback
from types import TracebackType

import click

from frameworm.errors import FramewormError
from frameworm.terminal import printable

_MACHINERY = re.compile(r"(bus|click|torch|frameworm\.(app|cli|core|training))(\.|$)")
"""The modules whose frames say nothing as long as no other code has been entered."""


def tell(error: Exception) -> int:
    """Write to stderr what went wrong; return the exit code."""
    click.echo(printable(text_of(error)), err=True)
    return exit_code(error)


def text_of(error: Exception, *, debug: bool = False) -> str:
    """Our own errors are a message; others, and all with `debug`, come with their traceback."""
    if isinstance(error, FramewormError) and not debug:
        return f"error: {error}"
    trace = error.__traceback__ if debug else shortened(error.__traceback__)
    return "".join(traceback.format_exception(type(error), error, trace)).rstrip("\n")


def shortened(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from the first frame on that is not machinery; all of it, where there is none."""
    frame = trace
    while frame is not None:
        if not _MACHINERY.match(frame.tb_frame.f_globals.get("__name__", "")):
            return frame
        frame = frame.tb_next
    return trace


def exit_code(error: Exception) -> int:
    """2 for wrong input, 1 for everything else."""
    return error.exit_code if isinstance(error, FramewormError) else 1
