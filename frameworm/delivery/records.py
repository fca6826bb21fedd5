"""What a record of an event looks like: its keys, its values, and the JSON Schema that says so to others."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, Protocol

import msgspec

from bus import Event, event_types, record_fields
from frameworm.events import TrainingEvent

VERSION = 1
GAP = "journal_gap"
"""The event of a record that stands for lost ones: `first` and `last` are their numbers."""

_LONGEST = 200  # characters of a description
_AS_IS = frozenset({str, int, bool, type(None)})

_ENVELOPE: tuple[tuple[str, Any], ...] = (
    ("v", Literal[1]),
    ("seq", Annotated[int, msgspec.Meta(ge=1)]),
    ("attempt", Annotated[int, msgspec.Meta(ge=1)]),
    ("time", datetime),
    ("run", str),
    ("rank", Annotated[int, msgspec.Meta(ge=0)]),
    ("event", str),
    ("epoch", Annotated[int, msgspec.Meta(ge=0)]),
    ("step", Annotated[int, msgspec.Meta(ge=0)]),
    ("crc", Annotated[int, msgspec.Meta(ge=0, lt=2**32)]),
)
_POSITION = frozenset({"epoch", "step"})
_TAKEN = frozenset(key for key, _ in _ENVELOPE) - _POSITION


class ScalarCopy(Protocol):
    """A device scalar on its way to the host."""

    def ready(self) -> bool:
        """Whether it has arrived; does not wait."""

    def value(self) -> float:
        """The number; waits for it."""


CopyScalar = Callable[[Any], ScalarCopy]
"""Starts the copy of a 0-dim tensor on a device, without waiting for the device; raises for what is no scalar."""


class Pending(msgspec.Struct, frozen=True):
    """Stands in a record for a number that has not arrived."""

    copy: ScalarCopy


class Values:
    """Turns what events carry into what JSON can say; `described` counts what it could only describe in words."""

    def __init__(self, copy: CopyScalar | None = None) -> None:
        self.described = 0
        self._copy = copy

    def plain(self, value: Any, pending: list[ScalarCopy]) -> Any:
        """Return `value` for JSON: a scalar of any library as a number, NaN and infinities as their names.

        A device scalar becomes a `Pending`, and its copy joins `pending`. Nothing raises, and nothing waits for a
        device except a `Pending` that is passed in.
        """
        kind = type(value)
        if kind is float:
            return value if math.isfinite(value) else _name(value)
        if kind in _AS_IS:
            return value
        try:
            return self._convert(value, pending)
        except Exception:
            return self.describe(value)

    def describe(self, value: Any) -> str:
        """Return `value` in words, and count it."""
        self.described += 1
        try:
            on_host = getattr(value, "is_cpu", True)
            return ascii(value)[:_LONGEST] if on_host else f"<{type(value).__qualname__} on {value.device}>"
        except Exception:
            return f"<{type(value).__qualname__}>"

    def _convert(self, value: Any, pending: list[ScalarCopy]) -> Any:
        if hasattr(value, "item"):  # a tensor or an array of one number, the most frequent by far
            return self.plain(value.item(), pending) if getattr(value, "is_cpu", True) else self._start(value, pending)
        if isinstance(value, Mapping):
            return {str(key): self.plain(item, pending) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.plain(item, pending) for item in value]
        if isinstance(value, Pending):
            return self.plain(value.copy.value(), pending)
        return self.plain(msgspec.to_builtins(value), pending)

    def _start(self, scalar: Any, pending: list[ScalarCopy]) -> Pending | str:
        if self._copy is None:
            return self.describe(scalar)
        pending.append(self._copy(scalar))
        return Pending(pending[-1])


def record_keys(event_type: type[Event]) -> tuple[tuple[str, str], ...]:
    """Return the fields of an event that are recorded, each with its key.

    A field `epoch` or `step` is the record's own; any other that is called like a key of every record gets a `_`.
    """
    names = [field.name for field in record_fields(event_type)]
    return tuple((name, f"{name}_" if name in _TAKEN else name) for name in names)


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a line of a journal, over all event types that exist."""
    types = [_record_type(GAP, "Records that could not be written.", {"first": int, "last": int})]
    for name, event_type in event_types().items():
        if issubclass(event_type, TrainingEvent):
            hints = {field.name: field.type for field in record_fields(event_type)}
            fields = {key: hints[name] for name, key in record_keys(event_type)}
            types.append(_record_type(name, inspect.getdoc(event_type) or "", fields))
    references, definitions = msgspec.json.schema_components(types, schema_hook=_of_any_type)
    for record_type in types:
        definition = definitions[record_type.__name__]
        definition["properties"]["event"] = {"const": record_type.__name__}
    numbers = {"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A record of a run's journal",
        "oneOf": list(references),
        "$defs": _with_named_numbers(definitions) | {"number": numbers},
    }


def _of_any_type(kind: type) -> dict[str, Any]:
    """Return the schema of what only the event's author knows; if it is not JSON, a text describes it."""
    return {"description": kind.__qualname__}


def _record_type(event: str, about: str, fields: Mapping[str, Any]) -> type[msgspec.Struct]:
    position = {key: hint for key, hint in _ENVELOPE if key not in fields}
    return msgspec.defstruct(event, [*position.items(), *fields.items()], namespace={"__doc__": about})


def _with_named_numbers(schema: Any) -> Any:
    """Return `schema` with every plain number replaced by one that may also be NaN or infinite."""
    if schema == {"type": "number"}:
        return {"$ref": "#/$defs/number"}
    if isinstance(schema, dict):
        return {key: _with_named_numbers(value) for key, value in schema.items()}
    if isinstance(schema, list):
        return [_with_named_numbers(value) for value in schema]
    return schema


def _name(number: float) -> str:
    if math.isnan(number):
        return "NaN"
    return "Infinity" if number > 0 else "-Infinity"
