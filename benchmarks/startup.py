"""How long `frameworm --help` takes, against `python -c "import click"`: what everybody waits for at every command."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.paired import Block, Ratio, compare

PAIRS = 25  # a block is a process of its own here, and takes a tenth of a second

HELP = "import sys; sys.argv = ['frameworm', '--help']; from frameworm.cli import main; main()"


def process(code: str) -> Block:
    """Return a block that runs Python code in a new interpreter, whose output is thrown away."""

    def block() -> None:
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)

    return block


def help_against_click(*, pairs: int = PAIRS) -> Ratio:
    """Measure the help page against the bare import of click."""
    return compare(process(HELP), process("import click"), pairs=pairs)


def click_against_itself(*, pairs: int = PAIRS) -> Ratio:
    """Measure the noise of `help_against_click`."""
    return compare(process("import click"), process("import click"), pairs=pairs)
