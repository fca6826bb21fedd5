"""Everything that is logged, warned of, printed or thrown comes out as lines of one form."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog

from frameworm import logs


class Unprintable:
    """Its text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError


def lines_of(act: Callable[[], object], *, verbose: int = 0) -> list[dict[str, Any]]:
    """The JSON lines that come of `act`."""
    stream = io.StringIO()
    with logs.configure("json", stream, verbose=verbose):
        act()
    return [json.loads(line, parse_constant=pytest.fail) for line in stream.getvalue().splitlines()]


def text_of(act: Callable[[], object]) -> str:
    """The plain text that comes of `act`."""
    stream = io.StringIO()
    with logs.configure("plain", stream):
        act()
    return stream.getvalue()


def test_fields() -> None:
    """A line has time, level, logger and event, then its own fields, whatever they are called."""
    [line] = lines_of(
        lambda: logs.get_logger("frameworm.x").info("disk %s ✓", "full", name="a", msg="b", path=Path("p"))
    )
    assert list(line) == ["time", "level", "logger", "event", "name", "msg", "path"]
    assert line["time"].endswith("Z")
    assert {**line, "time": ""} == {
        "time": "",
        "level": "info",
        "logger": "frameworm.x",
        "event": "disk full ✓",
        "name": "a",
        "msg": "b",
        "path": "p",
    }


def test_values_that_json_does_not_know() -> None:
    """Numbers of numpy are numbers, NaN and infinities are text, and nothing makes a line fail."""
    deep: list[Any] = []
    deep.append(deep)

    def act() -> None:
        logs.get_logger("frameworm").info(
            "x",
            nan=float("nan"),
            inf=np.float64("-inf"),
            number=np.float32(1.5),
            whole=np.int64(3),
            array=np.zeros(2),
            nested={1: {"a": (1, None)}},
            deep=deep,
            broken=Unprintable(),
        )

    [line] = lines_of(act)
    assert (line["nan"], line["inf"], line["number"], line["whole"], line["array"]) == (
        "NaN",
        "-Infinity",
        1.5,
        3,
        "[0. 0.]",
    )
    assert line["nested"] == {"1": {"a": [1, None]}}
    assert "[...]" in json.dumps(line["deep"])
    assert line["broken"] == "<Unprintable: RuntimeError in its str()>"


def test_other_libraries() -> None:
    """Records of the standard library come out alike, with what they carry."""
    [line] = lines_of(lambda: logging.getLogger("lib.part").warning("%d left", 3, extra={"host": "h"}))
    assert (line["logger"], line["level"], line["event"], line["host"]) == ("lib.part", "warning", "3 left", "h")


def test_verbosity() -> None:
    """By default our news and everybody's warnings; -v our details and everybody's news; -vv everything."""

    def act() -> None:
        for name in ("frameworm.x", "lib"):
            log = logging.getLogger(name)
            log.debug("debug")
            log.info("info")
            log.warning("warning")

    def seen(verbose: int) -> list[tuple[str, str]]:
        return [(line["logger"], line["level"]) for line in lines_of(act, verbose=verbose)]

    ours = [("frameworm.x", level) for level in ("debug", "info", "warning")]
    theirs = [("lib", level) for level in ("debug", "info", "warning")]
    assert seen(0) == ours[1:] + theirs[2:]
    assert seen(1) == ours + theirs[1:]
    assert seen(2) == seen(5) == ours + theirs


def test_exceptions_are_structured() -> None:
    """An exception has its type, its message and its traceback."""

    def act() -> None:
        try:
            int("x")
        except ValueError:
            logs.get_logger("frameworm").exception("failed")

    [line] = lines_of(act)
    assert line["exception"]["type"] == "builtins.ValueError"
    assert "invalid literal" in line["exception"]["message"]
    assert line["exception"]["traceback"].startswith("Traceback (most recent call last):\n")


def test_warnings_are_logged() -> None:
    """A warning is a line that says its category and where it came from; afterwards warnings are as they were."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        before = warnings.showwarning
        [line] = lines_of(lambda: warnings.warn("careful", UserWarning, stacklevel=1))
        assert warnings.showwarning is before
    assert (line["logger"], line["event"], line["category"]) == ("py.warnings", "careful", "UserWarning")
    assert line["where"].startswith(f"{__file__}:")


def test_the_run_is_in_every_line() -> None:
    """Run, epoch and step are in our lines and others'; what a line says itself wins; nothing stays behind."""
    place: tuple[int | None, int | None] = (None, None)

    def act() -> None:
        nonlocal place
        log = logging.getLogger("lib")
        with logs.bind_run("digits-1", lambda: place):
            log.warning("early")
            place = (2, 70)
            log.warning("later")
            logs.get_logger("frameworm").warning("own", epoch=9)
        log.warning("after")

    early, later, own, after = lines_of(act)
    assert early["run"] == "digits-1"
    assert "epoch" not in early
    assert (later["run"], later["epoch"], later["step"]) == ("digits-1", 2, 70)
    assert (own["epoch"], own["step"]) == (9, 70)
    assert "run" not in after


def test_configuring_again_replaces() -> None:
    """A second configuration takes over without doubling lines, and gives back what it found."""
    outer, inner = io.StringIO(), io.StringIO()
    log = logging.getLogger("lib")
    before = logging.getLogger().handlers
    with logs.configure("plain", outer):
        with logs.configure("plain", inner):
            log.warning("one")
        log.warning("two")
    assert ("one" in outer.getvalue(), "one" in inner.getvalue()) == (False, True)
    assert (outer.getvalue().count("two"), inner.getvalue().count("two")) == (1, 0)
    assert logging.getLogger().handlers == before


def test_undoing_twice() -> None:
    """The undo may be closed again."""
    undo = logs.configure("json", io.StringIO())
    undo.close()
    undo.close()


def test_plain_text() -> None:
    """A plain line is readable, holds no control character, and shows where an exception came from."""

    def act() -> None:
        try:
            int("\a")
        except ValueError:
            logs.get_logger("frameworm").exception("it \x07 failed", count=np.float32(0.5))

    text = text_of(act)
    assert "error" in text
    assert "it \\x07 failed" in text
    assert "count=0.5" in text
    assert "ValueError: invalid literal" in text
    assert "\x07" not in text


def test_plain_follows_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a stream, text goes to what stderr is at that time, since a progress bar replaces it."""
    with logs.configure("rich"):
        logging.getLogger("lib").warning("here")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "here" in captured.err


def test_prints_become_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Each printed line is a JSON line of its own, also one that never ends; afterwards printing is as before."""
    with logs.configure("json"):
        print("a", "b ✓")
        print("multi\nline\n")
        print("unfinished", end="")
    print("after")
    *lines, after = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["a b ✓", "multi", "line", "", "unfinished"]
    assert {json.loads(line)["event"] for line in lines} == {"stdout"}
    assert after == "after"


def test_prints_of_threads_do_not_mix(capsys: pytest.CaptureFixture[str]) -> None:
    """What a thread prints in pieces stays together."""
    half = threading.Barrier(2)

    def act(word: str) -> None:
        print(word, end="")
        half.wait(10)
        print(word)

    with logs.configure("json"):
        threads = [threading.Thread(target=act, args=(word,)) for word in ("a", "b")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    texts = sorted(json.loads(line)["text"] for line in capsys.readouterr().out.splitlines())
    assert texts == ["aa", "bb"]


def test_a_line_without_end_is_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    """A printed line that does not end is not kept for ever."""
    with logs.configure("json"):
        print("x" * 70_000, end="")
        before_the_end = capsys.readouterr().out
    assert len(json.loads(before_the_end)["text"]) == 70_000


def test_nothing_is_configured_unasked(caplog: pytest.LogCaptureFixture) -> None:
    """Without `configure`, a line is an ordinary record for whoever handles it, and structlog is left alone."""
    logs.get_logger("frameworm.test").warning("text", field=1)
    assert caplog.messages == ["text"]
    assert not structlog.is_configured()


PROGRAM = """
import logging, os, subprocess, sys, threading, warnings
from frameworm import logs
logs.configure("json")
print("printed")
os.write(1, b"from C\\n")
subprocess.run(["echo", "from a child"], check=True)
subprocess.run(["echo", "to our stdout"], check=True, stdout=sys.stdout)
logging.getLogger("lib").error("lib")
warnings.warn("warned")
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
print("no end", end="")
{}()
"""


def test_every_line_of_stdout_is_json() -> None:
    """In a real process all that reaches stdout is JSON, an uncaught exception included."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format("nonsense")], capture_output=True, text=True, check=False
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["event"] for line in lines] == [
        "stdout",
        "lib",
        "warned",
        "uncaught exception",
        "uncaught exception",
        "stdout",
    ]
    assert [line["exception"]["type"] for line in lines if "exception" in line] == [
        "builtins.ZeroDivisionError",
        "builtins.NameError",
    ]
    assert done.stderr == "from C\nfrom a child\nto our stdout\n"
    assert done.returncode == 1


def test_a_reader_that_leaves() -> None:
    """When the reader of stdout leaves, the program goes on and says nothing of it."""
    program = PROGRAM.format("print")
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 0
    assert "BrokenPipe" not in errors


def test_of_several_processes_each_line_says_whose_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """But for the first; the others are quiet, unless they are asked to speak."""
    for rank, verbose in (("0", 0), ("1", 0), ("1", 1), ("one", 0)):
        monkeypatch.setenv("RANK", rank)
        with logs.configure("json", verbose=verbose, quiet=logs.launched_as() > 0):
            logging.getLogger("frameworm").info("news")
            logging.getLogger("frameworm").warning("trouble")
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        expected = ["trouble"] if (rank, verbose) == ("1", 0) else ["news", "trouble"]
        assert [line["event"] for line in lines] == expected
        assert {line.get("rank") for line in lines} == {1 if rank == "1" else None}
