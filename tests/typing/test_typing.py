"""The typed API itself under test: what type checkers accept of those who use the bus, and what they reject."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PROGRAM = '''\
"""Each line that is marked is wrong, all others are right."""

from collections.abc import Callable
from typing import Any, assert_type

from bus import Channel, Event, EventBus, Live, Scalar, Subscription


class Knock(Event, frozen=True):
    number: int


class Ring(Event, frozen=True):
    loud: bool


class Training(Event, frozen=True):
    model: Live[list[int]]
    loss: Scalar
    norm: Scalar | None


def on_knock(event: Knock) -> int:
    return event.number


def on_knocks(events: list[Knock]) -> int:
    return len(events)


async def later(event: Knock) -> None: ...
def on_ring(event: Ring) -> None: ...
def on_either(event: Knock | Ring) -> None: ...
def on_any(event: Event) -> None: ...
def on_unknown(event: Any) -> None: ...
def without_event() -> None: ...
def with_more(event: Knock, more: int) -> None: ...


class Listener:
    def on_knock(self, event: Knock) -> None: ...
    def __call__(self, event: Ring) -> None: ...


bus = EventBus()

# subscribe
assert_type(bus.subscribe(Knock, on_knock), Subscription[Knock])
bus.subscribe(Knock, on_either)
bus.subscribe(Knock, on_any)
bus.subscribe(Knock, on_unknown)
bus.subscribe(Knock, Listener().on_knock, priority=float("inf"), every=2, on_error="raise", name="me", owner=bus)
bus.subscribe(Ring, Listener())
bus.subscribe(Knock, lambda event: event.number)
bus.subscribe("knock", on_knock)
bus.subscribe(Knock, later, timeout=None, breaker=None)
bus.subscribe(Knock, on_knock, dispatch="async", queue_size=8, overflow="latest")
assert_type(bus.subscribe(Knock, on_knocks, dispatch="async", batch=8, linger=0.5), Subscription[Knock])
bus.subscribe(Ring, on_knock)  # WRONG
bus.subscribe(Ring, on_knocks, batch=8)  # WRONG
bus.subscribe(Knock, on_knock, batch=8)  # WRONG
bus.subscribe(Knock, on_knock, dispatch="process")  # WRONG
bus.subscribe(Knock, on_knock, dispatch="async", overflow="drop")  # WRONG
bus.subscribe(Knock, on_ring)  # WRONG
bus.subscribe(Knock, Listener())  # WRONG
bus.subscribe(Knock, without_event)  # WRONG
bus.subscribe(Knock, with_more)  # WRONG
bus.subscribe(Knock, lambda event: event.loud)  # WRONG
bus.subscribe(Knock, on_knock, on_error="ignore")  # WRONG
bus.subscribe(Knock, on_knock, priority="high")  # WRONG
bus.subscribe(int, on_unknown)  # WRONG

with bus.subscribe(Knock, on_knock) as subscription:
    assert_type(subscription, Subscription[Knock])
    assert_type(subscription.event_type, type[Knock])


# on
assert_type(bus.on(Knock)(on_knock)(Knock(None, 1)), int)
bus.on(Knock)(on_any)
bus.on("knock")(on_knock)
bus.on("knock")(on_ring)
assert_type(bus.on(Knock, batch=8)(on_knocks)([]), int)
bus.on(Ring)(on_knock)  # WRONG
bus.on(Ring, batch=8)(on_knocks)  # WRONG
bus.on(Knock, every="two")(on_knock)  # WRONG
bus.on(3)(on_unknown)  # WRONG


@bus.on(Knock, priority=1)
def decorated(event: Knock) -> str:
    return str(event.number)


@bus.on("ring")
def decorated_by_name(event: Ring) -> str:
    return str(event.loud)


assert_type(decorated(Knock(None, 1)), str)
assert_type(decorated_by_name(Ring(None, True)), str)
decorated(Ring(None, True))  # WRONG
decorated_by_name(Knock(None, 1))  # WRONG

# publishing
channel = bus.channel(Knock)
assert_type(channel, Channel[Knock])
channel.emit(Knock(None, 1))
channel.emit(Ring(None, True))  # WRONG
channel.emit(1)  # WRONG
bus.publish(Ring(None, True))
bus.publish("ring")  # WRONG
bus.channel(int)  # WRONG

# events
training = Training(None, [1], 0.5, None)
assert_type(training.model, list[int])
float(training.loss)
training.loss + 1  # WRONG
Knock(None, "one")  # WRONG
Knock(None)  # WRONG
'''

WRONG = [number for number, line in enumerate(PROGRAM.splitlines(), 1) if line.endswith("# WRONG")]


def mypy(program: Path) -> dict[int, str]:
    """Return the lines that mypy rejects, and why."""
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        "--output=json",
        f"--cache-dir={program.parent}",
    ]
    done = subprocess.run([*command, program], capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {entry["line"]: entry["message"] for entry in found if entry["severity"] == "error"}


def pyright(program: Path) -> dict[int, str]:
    """Return the lines that pyright rejects, and why."""
    command = [sys.executable, "-m", "pyright", "--outputjson", f"--pythonpath={sys.executable}"]
    done = subprocess.run([*command, program], capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = json.loads(done.stdout)["generalDiagnostics"]
    return {entry["range"]["start"]["line"] + 1: entry["message"] for entry in found if entry["severity"] == "error"}


without_node = pytest.mark.skipif(shutil.which("node") is None, reason="pyright needs Node.js, and would download it")


@pytest.mark.parametrize("check", [mypy, pytest.param(pyright, marks=without_node)])
def test_type_checkers_reject_what_is_wrong(check: Callable[[Path], dict[int, str]], tmp_path: Path) -> None:
    """A listener of the wrong event, a wrong event and a wrong option are rejected, and nothing else is."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    assert sorted(check(program)) == WRONG
