"""The event types that the tests of the bus publish."""

from __future__ import annotations

from typing import ClassVar

from bus import Event, EventBus, ListenerStatistics, Recorded


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


def account(bus: EventBus, name: str) -> ListenerStatistics:
    """Return the account of the one listener of that name."""
    (found,) = [row for row in bus.statistics() if row.name == name]
    return found
