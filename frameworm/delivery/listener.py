"""What the process lane is to do, as a file: its listeners as plain values, and what the relay needs to make them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import msgspec

from bus import Event, event_types
from frameworm.delivery.files import replace_file
from frameworm.delivery.retry import RetryPolicy
from frameworm.errors import RunError
from frameworm.plugins.selection import Selection

Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class ProcessListener(msgspec.Struct, frozen=True):
    """A listener of the process lane.

    - `target`: the name of a registered callback, or an import path "package.module:qualname" of one.
    - `options`: what it is made with, as in the config: the relay resolves references to the environment.
    - `event`: for a plain hook function, which is called and not made: the name of the event it is for.
    - `every`: the events that have to be recorded for it, each every so many times at least.
    - `timeout`: the seconds after which a call counts as hung.
    """

    name: str
    target: str
    options: dict[str, Any] = {}
    event: str | None = None
    every: dict[str, Count] = {}
    timeout: Positive = 30.0

    @property
    def stem(self) -> str:
        """What its files are called, without their endings; different for different names."""
        plain = re.sub(r"[^\w.-]", "_", self.name)
        return plain if plain == self.name else f"{plain}-{hashlib.sha256(self.name.encode()).hexdigest()[:6]}"


class RelayOptions(msgspec.Struct, frozen=True):
    """How the relay works; times in seconds. It looks for new records every `poll`.

    A batch is delivered when it has `batch` events or is `gather` old; events that are delivered singly are noted as
    such together, at most `noted` of them. With `memory` bytes in use it makes room for a successor.
    """

    poll: Positive = 0.2
    gather: float = 1.0
    batch: Count = 512
    noted: Count = 100
    memory: int | None = None
    retry: RetryPolicy = RetryPolicy()


class RelayPlan(msgspec.Struct, frozen=True):
    """What the relay of a run is to do: serve `listeners`, with the `plugins` of the run, where the run was started."""

    listeners: tuple[ProcessListener, ...]
    plugins: Selection = Selection()
    folder: str | None = None
    options: RelayOptions = RelayOptions()


def relay_folder(run_dir: Path) -> Path:
    """Return the folder of the relay in a run's directory."""
    return run_dir / "relay"


def plan_file(run_dir: Path) -> Path:
    """Return the file that holds the plan of a run's relay."""
    return relay_folder(run_dir) / "listeners.json"


def write_plan(run_dir: Path, plan: RelayPlan) -> None:
    """Write the plan, for its owner's eyes only; a relay that works by the one before makes room. Raises OSError."""
    relay_folder(run_dir).mkdir(mode=0o700, exist_ok=True)
    replace_file(plan_file(run_dir), msgspec.json.format(msgspec.json.encode(plan, enc_hook=dict)))


def read_plan(run_dir: Path) -> RelayPlan:
    """Read the plan, an empty one where the run has none; raises RunError for a file that is none."""
    file = plan_file(run_dir)
    try:
        return msgspec.json.decode(file.read_bytes(), type=RelayPlan)
    except FileNotFoundError:
        return RelayPlan(())
    except (OSError, msgspec.DecodeError) as error:
        raise RunError("the relay's listeners cannot be read", where=str(file), got=str(error)) from error


def recorded_every(listeners: Iterable[ProcessListener]) -> dict[type[Event], int]:
    """Return how often at least each event type has to be recorded for these listeners: the journal's `every`."""
    types, every = event_types(), dict[type[Event], int]()
    for listener in listeners:
        for event, count in listener.every.items():
            every[types[event]] = min(count, every.get(types[event], count))
    return every
