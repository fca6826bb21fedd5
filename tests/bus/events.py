"""The event types that the tests of the bus publish."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ClassVar

from bus import Event, EventBus, ListenerStatistics, Recorded

PATIENCE = 20  # seconds that a thread may take on a busy machine


class Knock(Event, frozen=True):
    """An event that is always recorded, and timed."""

    number: int = 0


class Ring(Event, frozen=True):
    """Another one."""

    number: int = 0


class Tick(Event, frozen=True):
    """A frequent event, of which one in 64 is timed."""

    recorded: ClassVar[Recorded] = Recorded.SAMPLED

    number: int = 0


def balanced(row: ListenerStatistics) -> bool:
    """Whether an account is complete: what was emitted is somewhere."""
    gone = row.delivered + row.failed + sum(row.dropped.values()) + row.coalesced
    return row.emitted == gone + row.pending + row.in_flight


def eventually(condition: Callable[[], object]) -> bool:
    """Wait until a condition holds, as long as a busy machine may take for it."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def account(bus: EventBus, name: str) -> ListenerStatistics:
    """Return the account of the one listener of that name."""
    (found,) = [row for row in bus.statistics() if row.name == name]
    return found
