"""Listeners of the process lane for tests: they write down what they get, and fail as they are told."""

from __future__ import annotations

import json
import os
import time
import urllib.request
from pathlib import Path
from typing import Any

from frameworm.errors import PermanentError
from frameworm.facts import RunFacts, RunView
from frameworm.plugins.hooks import CallbackHook


def lines(path: Path) -> list[dict[str, Any]]:
    """Return what a listener has written down; a line that is just being written is none yet."""
    *whole, _ = path.read_text("utf-8").split("\n") if path.exists() else [""]
    return [json.loads(line) for line in whole]


class ToFile(CallbackHook):
    """Appends a line for every event; `seconds` is how long that takes."""

    def __init__(self, path: Path, seconds: float = 0.0) -> None:
        self.path = path
        self.seconds = seconds

    def note(self, event: str, trainer: RunFacts, **more: Any) -> None:
        """Write one line, with one call."""
        time.sleep(self.seconds)
        assert isinstance(trainer, RunView)
        line = {"event": event, "seq": trainer.seq, "status": trainer.status, "pid": os.getpid(), **more}
        with self.path.open("ab", buffering=0) as file:
            file.write(json.dumps(line).encode() + b"\n")

    def on_batch_end(self, trainer: RunFacts, batch_idx: int, loss: float) -> None:
        """Note it."""
        self.note("batch_end", trainer, batch_idx=batch_idx, loss=loss)

    def on_train_end(self, trainer: RunFacts) -> None:
        """Note it."""
        self.note("train_end", trainer)


class Troubled(ToFile):
    """Does something bad at the batch `at`: one of the methods below, by its name."""

    def __init__(self, path: Path, at: int, how: str) -> None:
        super().__init__(path)
        self.at = at
        self.how = how

    def on_batch_end(self, trainer: RunFacts, batch_idx: int, loss: float) -> None:
        """Note it, unless it is the one."""
        if batch_idx == self.at:
            getattr(self, self.how)()
        super().on_batch_end(trainer, batch_idx, loss)

    def die(self) -> None:
        """Take the whole process along."""
        os._exit(1)

    def refuse(self) -> None:
        """Say that it will never be taken."""
        raise PermanentError("no such metric")

    def stumble(self) -> None:
        """Fail for no reason that anybody knows."""
        raise KeyError("mystery")

    def hang(self) -> None:
        """Do not come back."""
        time.sleep(3600)

    def chatter(self) -> None:
        """Print megabytes."""
        for _ in range(3000):
            print("x" * 1000)

    def leak(self) -> None:
        """Use more memory than one should."""
        LEAKED.append(bytearray(os.urandom(1) * (256 * 1024 * 1024)))


LEAKED: list[bytearray] = []


class Broken(CallbackHook):
    """Cannot be made."""

    def __init__(self) -> None:
        raise ImportError("No module named 'tracker'")

    def on_train_end(self, trainer: RunFacts) -> None:
        """Never called."""


class Batches:
    """Takes batches, keeps the highest number as its state, and does not take the numbers of `bad` batches."""

    events = ("batch_end", "train_end")

    def __init__(self, path: Path, bad: tuple[int, ...] = ()) -> None:
        self.path = path
        self.bad = bad
        self.highest = 0

    def deliver(self, events: list[Any]) -> None:
        """Write a line for the whole batch."""
        indices = [getattr(event, "batch_idx", None) for event in events]
        if set(self.bad) & set(indices):
            raise ValueError("one of these is bad")
        seqs = [event.source.seq for event in events]
        with self.path.open("ab", buffering=0) as file:
            file.write(json.dumps({"seqs": seqs, "before": self.highest}).encode() + b"\n")
        self.highest = max(self.highest, *seqs)

    def state_dict(self) -> dict[str, Any]:
        """Return the highest number."""
        return {"highest": self.highest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.highest = state["highest"]


class Shy(Batches):
    """Does not take the first batch, and then all of it."""

    asked = False

    def deliver(self, events: list[Any]) -> None:
        """Refuse once."""
        if not self.asked:
            self.asked = True
            raise ValueError("not yet")
        super().deliver(events)


class ToServer:
    """Posts every event to a URL."""

    events = ("batch_end", "train_end")

    def __init__(self, url: str) -> None:
        self.url = url

    def deliver(self, events: list[Any]) -> None:
        """Post all numbers at once; raises what urllib raises."""
        body = json.dumps([event.source.seq for event in events]).encode()
        with urllib.request.urlopen(urllib.request.Request(self.url, body), timeout=5):
            pass


class Nothing(CallbackHook):
    """Does nothing with many events."""

    def on_batch_end(self, trainer: RunFacts, batch_idx: int, loss: float) -> None:
        """Nothing."""


CALLS: list[int] = []


def count_epochs(trainer: RunFacts, epoch: int) -> None:
    """Remember the epoch: a hook that is a plain function."""
    CALLS.append(epoch)
