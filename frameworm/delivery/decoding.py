"""From a record back to the event that it was: the way of `records`, in the other direction."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
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


class Decoder:
    """Makes events from records; what it learns of an event type it learns once."""

    def __init__(self) -> None:
        self._makers: dict[str, Make | None] = {}

    def knows(self, name: str) -> bool:
        """Whether there is such an event; one of a plugin that is not loaded is unknown."""
        return self._maker(name) is not None

    def event(self, record: Record, source: RunView) -> Event | None:
        """Return the event of a record, without what was live; None where its type is unknown.

        A value of another type than the event's is described in the record, for want of a way to record it: a number
        is NaN then, and in a mapping of numbers it is left out.
        """
        make = self._maker(record["event"])
        return None if make is None else make(source, record)

    def _maker(self, name: str) -> Make | None:
        if name not in self._makers:
            event_type = event_types().get(name)
            known = event_type is not None and issubclass(event_type, TrainingEvent)
            self._makers[name] = _maker_of(event_type) if known and event_type else None
        return self._makers[name]


def _maker_of(event_type: type[Event]) -> Make:
    keys = dict(record_keys(event_type))
    converts = {field.name: _convert_to(field) for field in record_fields(event_type)}
    fields = [(keys[name], converts[name]) if name in keys else None for name in event_type.__struct_fields__[1:]]

    def make(source: RunView, record: Record) -> Event:
        values = [None if field is None else field[1](record.get(field[0])) for field in fields]
        return event_type(source, *values)

    return make


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
    return float(value) if kind is int or value in NUMBERS else math.nan


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
