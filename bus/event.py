"""What an event is: a frozen, typed value whose class says its name, its hook's arguments and how it is recorded."""

from __future__ import annotations

import enum
import re
import types
from functools import cache
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    SupportsFloat,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec

T = TypeVar("T")
_UNIONS = (Union, types.UnionType)
_PLAIN = (str, int, float, bool, type(None))


class _Marker(enum.Enum):
    LIVE = "live"
    SCALAR = "scalar"


Live = Annotated[T, _Marker.LIVE]
"""A field that exists only on the publishing thread, while the event is published (a model, a batch, a graph)."""

Scalar = Annotated[SupportsFloat, _Marker.SCALAR]
"""A number that may still lie on a device: a 0-dim tensor for listeners in step, a float in a record."""


class Recorded(enum.Enum):
    """When an event of this type goes into a record, as its type states it."""

    ALWAYS = "always"
    SAMPLED = "sampled"  # one in so many, as the reader of the record asked
    ON_DEMAND = "on_demand"  # only when somebody asked for it


class Event(msgspec.Struct, frozen=True, eq=False):
    """Base of every event. A subclass is an event type; its name is its class name in snake case.

    Class variables that a type may set:

    - `arguments`: the names under which a hook takes the event's fields, in the order of its parameters;
      a name that differs from its field's is looked up in `aliases`.
    - `recorded`: when it goes into a record.
    - `final`: nothing follows it, so that streams end after it.
    - `additive`: the mapping fields that listeners in step may add keys to, before the event is recorded.
    """

    name: ClassVar[str] = ""
    arguments: ClassVar[tuple[str, ...]] = ()
    aliases: ClassVar[dict[str, str]] = {"trainer": "source"}
    recorded: ClassVar[Recorded] = Recorded.ALWAYS
    additive: ClassVar[tuple[str, ...]] = ()
    final: ClassVar[bool] = False

    source: Live[Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()
        taken = Event.__annotations__.keys() & set(cls.__dict__.get("__slots__", ()))
        if taken:
            raise TypeError(f"{cls.__name__} cannot have a field {min(taken)!r}: every event has that")


class RecordField(NamedTuple):
    """A field of an event type as it is recorded: its name, its type there, and whether it was a device scalar.

    `plain` says that its values can never change: numbers, texts and the like.
    """

    name: str
    type: Any
    scalar: bool

    @property
    def plain(self) -> bool:
        """Whether a value may be shared as it is."""
        parts = get_args(self.type) if get_origin(self.type) in _UNIONS else (self.type,)
        return all(part in _PLAIN or get_origin(part) is Literal for part in parts)


@cache
def record_fields(event_type: type[Event]) -> tuple[RecordField, ...]:
    """The fields of `event_type` that travel in a record, in order: all but the live ones, scalars as floats."""
    fields = []
    for field, hint in get_type_hints(event_type, include_extras=True).items():
        parts = get_args(hint) if get_origin(hint) in _UNIONS else (hint,)
        markers = [marker for part in parts for marker in getattr(part, "__metadata__", ())]
        if field in event_type.__struct_fields__ and _Marker.LIVE not in markers:
            scalar = _Marker.SCALAR in markers
            optional = type(None) in parts
            recorded: Any = (float | None if optional else float) if scalar else hint
            fields.append(RecordField(field, recorded, scalar))
    return tuple(fields)
