"""Runs the code blocks of a documentation page in order, as a reader would: `python -P run_page.py PAGE`.

The current folder is the reader's. `python` blocks share one namespace, which is also the module that they can be
imported from; `bash` blocks run in a shell that stops at the first error; a `yaml` or `python` block that opens with
`# file: NAME` is written to that file instead. In a `console` block the lines after `$ ` are run, and what is shown
below must come out: numbers, names of runs and white space may differ, and `...` stands for any lines. A block behind
`<!-- not run: reason -->` is left out. The first block that fails ends the page.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

FENCE = re.compile(
    r"^(?P<skip><!-- not run: [^\n]+ -->\n\n?)?^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
FILE = re.compile(r"# file: (\S+)\n")
RUNNABLE = ("python", "bash", "console", "yaml")


class Block(NamedTuple):
    """A code block: its language, its text, the line of the page it starts at, and whether it is to be run."""

    language: str
    code: str
    line: int
    runs: bool


class PageError(Exception):
    """A block did not do what the page says."""


def blocks_of(text: str) -> Iterator[Block]:
    """Return the code blocks of a page."""
    for found in FENCE.finditer(text):
        line = text.count("\n", 0, found.start("code")) + 1
        yield Block(found["language"], found["code"], line, runs=not found["skip"])


def run_page(page: Path) -> int:
    """Run the page's blocks; return how many there were to run."""
    namespace = ModuleType("page")
    sys.modules["page"] = namespace
    ran = 0
    for block in blocks_of(page.read_text(encoding="utf-8")):
        if block.runs and block.language in RUNNABLE:
            ran += 1
            try:
                run_block(block, page, namespace)
            except PageError as error:
                raise PageError(f"{page.name}:{block.line}: {error}") from None
    return ran


def run_block(block: Block, page: Path, namespace: ModuleType) -> None:
    """Run one block; raises PageError, or what its Python raises, with lines counted as in the page."""
    if named := FILE.match(block.code):
        file = Path(named[1])
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(block.code, encoding="utf-8")
    elif block.language == "python":
        exec(compile("\n" * (block.line - 1) + block.code, str(page), "exec"), namespace.__dict__)
    elif block.language == "bash":
        shell(block.code)
    elif block.language == "console":
        check_session(block.code)
    else:
        raise PageError("a yaml block does nothing: open it with `# file: NAME`")


def shell(code: str) -> str:
    """Run a script and return what it wrote to both streams."""
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if result.returncode:
        raise PageError(f"exit status {result.returncode} of\n{code}\n{result.stdout}")
    return result.stdout


def check_session(session: str) -> None:
    """Run a shown session's commands; what it shows of their output must come out."""
    _, *parts = re.split(r"^\$ ", session, flags=re.MULTILINE)
    for part in parts:
        command, _, shown = part.partition("\n")
        output = shell(command)
        if not matches(shown, output):
            raise PageError(f"`{command}` shows\n{shown}\nbut gave\n{output}")


def matches(shown: str, output: str) -> bool:
    """Whether the output is what is shown, but for numbers, ids, white space and lines of `...`."""
    pattern = "".join(
        r"(?:.*\n)*?" if line.strip() in ("...", "…") else _loose(line) + r"\s*\n"
        for line in shown.splitlines()
        if line.strip()
    )
    plain = re.sub(r"\x1b\[[0-9;]*m", "", output)
    lines = "".join(" ".join(line.split()) + "\n" for line in plain.splitlines() if line.strip())
    return re.fullmatch(pattern, lines) is not None


def _loose(line: str) -> str:
    """Return a pattern of a line that takes any number for a number, and any run for a run."""
    words = []
    for word in line.split():
        parts = re.split(r"(\w*\d[\w.,:%+-]*|[━╸╺─-]{3,})", word)
        words.append(
            "".join(re.escape(part) if not index % 2 else r"(?=\S*[\d━╸─-])\S+" for index, part in enumerate(parts))
        )
    return " ".join(words)


if __name__ == "__main__":
    sys.path.insert(0, "")
    print(run_page(Path(sys.argv[1])))
