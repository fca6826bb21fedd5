"""From a record back to the event that it was: the way of `records`, in the other direction."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, get_args, get_origin

import msgspec

from bus import Event, RecordField, event_types, record_fields
from bus.log import Record
from frameworm.delivery.records import record_keys
from frameworm.events import TrainingEvent
from frameworm.facts import RunView

Convert = Callable[[Any], Any]
Make = Callable[[RunView, Record], Event]

NUMBERS = frozenset({"NaN", "Infinity", "-Infinity"})
"""How a record names the numbers that JSON has not."""


class Makers(dict[str, Make | None]):
    """What makes an event of a record, by the event's name; None for one that is not among `names`, or does not exist.

    What was live is None in the event. A value of another type than the event's is described in the record, for want of
    a way to record it: a number is NaN then, and in a mapping of numbers it is left out. An event of a plugin that is
    not loaded does not exist.
    """

    def __init__(self, names: Collection[str] | None = None) -> None:
        super().__init__()
        self._names = names

    def __missing__(self, name: str) -> Make | None:
        found = event_types().get(name) if self._names is None or name in self._names else None
        make = _maker_of(found) if found is not None and issubclass(found, TrainingEvent) else None
        self[name] = make
        return make


def _maker_of(event_type: type[Event]) -> Make:
    """Return `lambda source, record: EventType(source, <convert>(record.get(<key>)), ...)`.

    It is compiled from text, as `namedtuple` is: whoever catches up makes many. The words are the fields' names.
    """
    keys = dict(record_keys(event_type))
    converts = {field.name: _convert_to(field) for field in record_fields(event_type)}
    values = []
    for name in event_type.__struct_fields__[1:]:
        value = f"get({keys[name]!r})" if name in keys else "None"
        values.append(value if converts.get(name) in (None, _as_it_is) else f"{name}({value})")
    words = {**converts, "make": event_type}
    made = f"lambda source, get: make({', '.join(['source', *values])})"
    make: Callable[[RunView, Callable[[str], Any]], Event] = eval(made, words)  # noqa: S307  see above
    return lambda source, record: make(source, record.get)


def _convert_to(field: RecordField) -> Convert:
    """Return what brings a recorded value back to the type that its field has."""
    hint = field.type
    if hint is float:
        return number
    if hint == float | None:
        return lambda value: None if value is None else number(value)
    if _is_mapping_of_numbers(hint):
        return numbers
    if field.plain or hint is Any:
        return _as_it_is
    return lambda value: _converted(value, hint)


def number(value: Any) -> float:
    """Return a recorded number; NaN for what is none."""
    kind = type(value)
    if kind is float:
        return value  # type: ignore[no-any-return]  # the line above has asked
    return float(value) if kind is int or (kind is str and value in NUMBERS) else math.nan


def numbers(values: Any) -> dict[str, float]:
    """Return recorded numbers by their names, without what is none."""
    if not isinstance(values, Mapping):
        return {}
    return {
        name: value if type(value) is float else float(value)
        for name, value in values.items()
        if type(value) in (float, int) or (type(value) is str and value in NUMBERS)
    }


def _is_mapping_of_numbers(hint: Any) -> bool:
    origin = get_origin(hint)
    return isinstance(origin, type) and issubclass(origin, Mapping) and get_args(hint) == (str, float)


def _as_it_is(value: Any) -> Any:
    return value


def _converted(value: Any, hint: Any) -> Any:
    """Return `value` as a tuple, a path or whatever the field is annotated with; as it is where it cannot be."""
    try:
        return msgspec.convert(_with_numbers(value), hint, dec_hook=lambda kind, text: kind(text))
    except Exception:
        return value


def _with_numbers(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_numbers(item) for item in value]
    if isinstance(value, dict):
        return {key: _with_numbers(item) for key, item in value.items()}
    return float(value) if isinstance(value, str) and value in NUMBERS else value
