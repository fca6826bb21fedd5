"""What of an event leaves the thread that publishes it: a frozen copy, without what exists only on that thread.

Live fields become None. A source that has a method `detached(event)` is replaced by what it returns, a frozen view of
itself at that event; any other source by None. A scalar that lies on the host becomes a float; one on a device stays
there, so that nobody waits for it here, and becomes a float in `landed`, which the thread that delivers the event
calls.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from .event import Event, record_fields

E = TypeVar("E", bound=Event)


@cache
def detacher(event_type: type[E]) -> Callable[[E], E]:
    """Return what makes the frozen copy of an event of this type."""
    text, words = detaching(event_type)
    detach: Callable[[E], E] = eval(f"lambda event: {text}", words)  # noqa: S307  see there
    return detach


@cache
def detaching(event_type: type[Event]) -> tuple[str, dict[str, Any]]:
    """Return the expression that makes the frozen copy of `event`, and the words in it.

    It is text to be compiled, as `namedtuple` is, since the publisher waits for it: usual values cost no call. It is
    made of the fields' names, which are identifiers.
    """
    recorded = {field.name: field for field in record_fields(event_type)}
    values = []
    for name in event_type.__struct_fields__:
        field = recorded.get(name)
        if name == "source":
            values.append("None if (view := views[type(it := event.source)]) is None else view(it, event)")
        elif field is None:
            values.append("None")
        elif field.scalar:
            values.append(f"it if type(it := event.{name}) is real else number(it)")
        elif field.plain:
            values.append(f"event.{name}")
        else:
            values.append(f"frozen(event.{name})")
    words = {"make": event_type, "views": _views, "type": type, "real": float, "number": _number, "frozen": _frozen}
    return f"make({', '.join(values)})", words


def landed(event: E) -> E:
    """Return a detached event with its scalars as floats; waits for a device, so not on the publishing thread."""
    changes = {
        field.name: float(value)
        for field in record_fields(type(event))
        if field.scalar and type(value := getattr(event, field.name)) not in (float, type(None))
    }
    return _replace(event, changes) if changes else event


def _replace(event: E, changes: dict[str, Any]) -> E:
    return type(event)(*(changes.get(name, getattr(event, name)) for name in event.__struct_fields__))


class _Views(dict[type, Callable[[Any, Event], Any] | None]):
    """What each type of source makes a view of itself with; looked up once, as a lookup in vain is slow."""

    def __missing__(self, source: type) -> Callable[[Any, Event], Any] | None:
        self[source] = found = getattr(source, "detached", None)
        return found


_views = _Views()


def _number(value: Any) -> Any:
    """Return a scalar as a float, where that waits for nobody."""
    if value is None:
        return value
    return float(value) if getattr(value, "is_cpu", True) else value


def _frozen(value: Any) -> Any:
    """Return a copy that later changes of the original do not reach."""
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_frozen(item) for item in value]
    return value
