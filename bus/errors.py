"""The errors of the bus.

BusError
├── UnknownEventError      no event type has that name
├── SubscriptionError      a listener or its options cannot be subscribed
└── ClosedError            the bus was closed
Propagate                  raised *by* a listener, to reach the publisher
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class BusError(Exception):
    """Base of what the bus raises on its own account."""


class UnknownEventError(BusError, LookupError):
    """No event type has that name; `nearest` is the closest known one, if any is close."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name = name
        self.known = tuple(sorted(known))
        close = get_close_matches(name, self.known, n=1)
        self.nearest = close[0] if close else None
        hint = f"; did you mean {self.nearest!r}?" if self.nearest else ""
        listing = ", ".join(self.known) or "none is defined"
        super().__init__(f"unknown event {name!r}{hint} (known events: {listing})")


class SubscriptionError(BusError, ValueError):
    """A listener or one of its options cannot be subscribed; the text says what was expected and what came."""


class ClosedError(BusError, RuntimeError):
    """Something was subscribed to a bus that was closed."""


class Propagate(Exception):  # noqa: N818  raised on purpose, it tells of no error
    """Raise a subclass from a listener to reach the publisher.

    It acts after the event's other listeners ran, whatever the listener's `on_error`, and does not count as a failure.
    """
