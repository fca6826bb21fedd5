"""Keeps stdout for the result alone, where a program reads it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from frameworm.terminal import private_stdout


@contextmanager
def others_on_stderr(flag: bool) -> Iterator[None]:  # noqa: FBT001  it is the command's own --json
    """Inside, if `flag`, what plugins and all others write to stdout goes to stderr."""
    if not flag:
        yield
        return
    stdout = sys.stdout
    with private_stdout(), redirect_stdout(sys.stderr):
        try:
            yield
        finally:
            stdout.flush()  # what was written by way of a reference that was taken earlier
