"""The errors of the bus.

BusError
├── UnknownEventError      no event type has that name
├── SubscriptionError      a listener or its options cannot be subscribed
└── ClosedError            the bus was closed
Propagate                  raised *by* a listener, to reach the publisher
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from difflib import get_close_matches
from types import CodeType


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


def describe(error: BaseException) -> str:
    """Return `Type: text` of an error, also of one that fails on printing itself."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return f"{type(error).__name__}: (its text cannot be had)"


def place_of(error: BaseException, code: CodeType | None) -> str:
    """Return `file:line` of an error: the innermost line in the listener's own file, or else where it is defined.

    The innermost line of all for a listener that is not written in Python.
    """
    places = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    if code is not None:
        defined = code.co_filename, code.co_firstlineno
        places = [place for place in places if place[0] == code.co_filename] or [defined]
    file, line = places[-1]
    return f"{file}:{line}"
