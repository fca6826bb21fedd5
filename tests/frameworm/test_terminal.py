"""What is written where people look arrives, whatever the text, the encoding and the reader."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import TextIO

import pytest

from frameworm.terminal import abandon, counted, descriptor, printable, tolerant, write_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ✓ text", "plain ✓ text"),
        ("two\n\tlines", "two\n\tlines"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("back\rspace\x00", "back\\rspace\\x00"),
        ("\u202eright to left", "\\u202eright to left"),
    ],
)
def test_control_characters_are_shown(text: str, shown: str) -> None:
    """A terminal obeys none of what a text holds, except for line ends and tabs."""
    assert printable(text) == shown


def test_a_line_is_written_at_once() -> None:
    """A line is flushed, with its control characters shown."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="utf-8")
    write_line("a\rb", stream)
    assert raw.getvalue() == b"a\\rb\n"


@pytest.fixture
def unread() -> Iterator[TextIO]:
    """A pipe whose reader has left."""
    reader, writer = os.pipe()
    os.close(reader)
    with closing(os.fdopen(writer, "w")) as stream:
        yield stream


def test_a_reader_that_left_is_no_error(unread: TextIO) -> None:
    """Neither the first line nor later ones fail, nor the closing of the stream."""
    write_line("one", unread)
    write_line("two", unread)


def test_abandoning_what_has_no_descriptor() -> None:
    """A stream without a descriptor can be abandoned as well."""
    abandon(io.StringIO())


def test_tolerance_ends() -> None:
    """Text that an encoding lacks is escaped, and only while the context lasts."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    with tolerant(stream):
        stream.write("✓")
        stream.flush()
    assert raw.getvalue() == b"\\u2713"
    with pytest.raises(UnicodeEncodeError):
        stream.write("✓")


def test_descriptors() -> None:
    """Only streams of the operating system have one."""
    assert descriptor(io.StringIO()) is None
    with open(os.devnull) as stream:  # noqa: PTH123  a stream, whatever it is
        assert descriptor(stream) == stream.fileno()


def test_a_private_stdout() -> None:
    """Meanwhile the stream alone leads to stdout; C code and child processes reach stderr, afterwards stdout again."""
    program = """
import os, subprocess
from frameworm.terminal import private_stdout
with private_stdout() as out:
    os.write(1, b"raw\\n")
    subprocess.run(["echo", "child"], check=True)
    out.write("ours\\n")
print("after")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "ours\nafter\n"
    assert done.stderr == "raw\nchild\n"


def test_what_is_counted_is_one_or_several() -> None:
    """A word for one, another for none or more."""
    assert [counted(number, "epoch") for number in (0, 1, 1200)] == ["0 epochs", "1 epoch", "1,200 epochs"]
