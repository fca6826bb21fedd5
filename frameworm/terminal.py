"""What may be written where people look: any text, any encoding, even when nobody reads it any more."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TextIO


def printable(text: str) -> str:
    """`text` with control characters shown instead of obeyed (a terminal executes them); line ends and tabs stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def write_line(text: str, stream: TextIO | None = None) -> None:
    """Write one line to `stream` (by default stdout) at once; a reader that has left is no error."""
    out = sys.stdout if stream is None else stream
    try:
        out.write(printable(text) + "\n")
        out.flush()
    except BrokenPipeError:
        abandon(out)


def abandon(stream: IO[str]) -> None:
    """Point a stream whose reader has left at nowhere, so that neither later lines nor the exit's flush fail."""
    with contextlib.suppress(OSError, ValueError), Path(os.devnull).open("w", encoding="ascii") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


@contextlib.contextmanager
def tolerant(stream: TextIO | None) -> Iterator[None]:
    """Text that the stream's encoding does not have is escaped meanwhile instead of raising."""
    if not isinstance(stream, io.TextIOWrapper):
        yield
        return
    before = stream.errors
    stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        stream.reconfigure(errors=before)


@contextlib.contextmanager
def private_stdout() -> Iterator[TextIO]:
    """A stream to where stdout leads, which nobody else can write to meanwhile.

    Descriptor 1 leads to stderr until the end, for C code and child processes. Where `sys.stdout` is not descriptor 1
    (in a notebook, in a test), it is itself the stream.
    """
    stdout = sys.stdout
    if descriptor(stdout) != 1:
        yield stdout
        return
    stdout.flush()
    target = os.dup(1)
    os.dup2(2, 1)
    out = os.fdopen(target, "w", encoding="utf-8", closefd=False)
    try:
        yield out
    finally:
        with contextlib.suppress(BrokenPipeError):
            out.close()
        os.dup2(target, 1)
        os.close(target)


def descriptor(stream: TextIO) -> int | None:
    """The stream's file descriptor, None when it has none."""
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):
        return None


def counted(number: int, word: str) -> str:
    """A number and what it counts: `1 epoch`, `1,200 steps`."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"
