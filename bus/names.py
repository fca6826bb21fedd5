"""Which event types there are, and how they are found by name."""

from __future__ import annotations

import sys
from typing import Any, TypeVar

from .errors import SubscriptionError, UnknownEventError
from .event import Event

E = TypeVar("E", bound=Event)


def event_types() -> dict[str, type[Event]]:
    """Return every event type that exists, by name; of two with one name, the one defined later.

    A base class that is no event type itself says so by an empty `name`. A type whose module was taken out of
    `sys.modules`, as that of an unloaded plugin is, does not exist any more, though it may live on for a while.
    """
    types: dict[str, type[Event]] = {}
    waiting = [Event]
    while waiting:
        for subclass in waiting.pop().__subclasses__():
            if subclass.name and subclass.__module__ in sys.modules:
                types[subclass.name] = subclass
            waiting.append(subclass)
    return types


def event_type_of(event: type[E] | str) -> type[E]:
    """Return the event type of that name, or the type itself; raises `UnknownEventError`, `SubscriptionError`."""
    if isinstance(event, str):
        types: dict[str, Any] = event_types()
        if event not in types:
            raise UnknownEventError(event, types)
        found: type[E] = types[event]
        return found
    given: object = event
    if not (isinstance(given, type) and issubclass(given, Event) and given.name):
        raise SubscriptionError(f"an event type or its name was expected, got {event!r}")
    return event
