"""The command line starts at once, and ends as programs end."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from time import perf_counter

import click
import pytest
from click.testing import CliRunner, Result

import frameworm.cli
from frameworm.cli import COMMANDS, main
from frameworm.errors import FramewormError, UserError

FRAMEWORM = (sys.executable, "-m", "frameworm")


def test_help_imports_nothing_heavy() -> None:
    """`--help` and `--version` need click, nothing more."""
    heavy = {"torch", "numpy", "rich", "structlog", "yaml", "msgspec", "blinker", "bus"}
    program = "import sys; from frameworm.cli import main; main(['--help'], standalone_mode=False); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    *text, modules = done.stdout.splitlines()
    assert heavy.isdisjoint(modules.split())
    assert all(any(line.startswith(f"  {name} ") for line in text) for name in COMMANDS)


def test_help_is_fast() -> None:
    """`--help` takes no more than three times what importing click takes."""

    def seconds(*command: str) -> float:
        begin = perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        return perf_counter() - begin

    pairs = [(seconds(*FRAMEWORM, "--help"), seconds(sys.executable, "-c", "import click")) for _ in range(7)]
    assert min(help_ / click_ for help_, click_ in pairs) <= 3


def test_version() -> None:
    """`--version` says the installed version."""
    done = CliRunner().invoke(main, ["--version"])
    assert (done.exit_code, done.output) == (0, f"frameworm {version('frameworm')}\n")


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_has_help(command: str) -> None:
    """The help line that is known beforehand is the command's own."""
    done = CliRunner().invoke(main, [command, "--help"])
    assert done.exit_code == 0, done.output
    assert COMMANDS[command].rstrip(".") in done.output


def test_an_unknown_command() -> None:
    """An unknown command is wrong usage."""
    done = CliRunner().invoke(main, ["trian"])
    assert done.exit_code == 2
    assert "No such command 'trian'" in done.stderr


def run_raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> Result:
    """Run a command that raises `error`."""

    @click.command()
    def failing() -> None:
        raise error

    monkeypatch.setattr(frameworm.cli.Commands, "get_command", lambda *_: failing)
    return CliRunner().invoke(main, ["failing"])


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (UserError("no such thing", hint="another"), 2, "error: no such thing\n  try: another\n"),
        (FramewormError("it broke\x1b[2J"), 1, "error: it broke\\x1b[2J\n"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 141, ""),
        (click.ClickException("not so"), 1, "Error: not so\n"),
        (SystemExit(143), 143, ""),
    ],
)
def test_how_commands_end(monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, text: str) -> None:
    """Our errors are one message without a traceback; every ending has its usual exit code."""
    done = run_raising(monkeypatch, error)
    assert (done.exit_code, done.stdout, done.stderr) == (code, "", text)


def test_a_bug_shows_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no error of ours is shown with its traceback, which begins where our machinery ends."""
    done = run_raising(monkeypatch, ZeroDivisionError("division by zero"))
    assert done.exit_code == 1
    assert done.stderr.startswith("Traceback (most recent call last):\n")
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")
    assert __file__ in done.stderr
    assert "click" not in done.stderr.split("ZeroDivisionError")[0].replace("test_cli", "")


def test_a_reader_that_leaves() -> None:
    """`frameworm ... | head` ends quietly, with the code that the shell gives for SIGPIPE."""
    with subprocess.Popen(
        [*FRAMEWORM, "events", "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
    assert (process.returncode, errors) == (141, "")
