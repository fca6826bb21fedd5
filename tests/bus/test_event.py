"""What an event type says of itself."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Annotated, Any, ClassVar

import msgspec
import pytest

from bus import Event, Live, RecordField, Scalar, event_types, record_fields
from bus.event import Recorded
from tests.bus.events import Knock, Tick


class DoorBellRang(Event, frozen=True):
    """An event with all kinds of fields."""

    arguments: ClassVar = ("trainer", "loud")

    loud: bool
    visitor: Live[object]
    volume: Scalar
    echo: Scalar | None
    guest: Live[object] | None
    crowd: Live[Annotated[int, msgspec.Meta(ge=0)]]
    floor: Annotated[int, msgspec.Meta(ge=0)]
    note: str | None = None


class _House(Event, frozen=True):
    """A base of events, and no event type itself."""

    name: ClassVar[str] = ""


class HouseSold(_House, frozen=True):
    """An event with such a base."""

    price: int


class Renamed(Event, frozen=True):
    """An event that chose its name."""

    name: ClassVar[str] = "called_otherwise"


def test_name_is_the_class_name_in_snake_case() -> None:
    """An event is known by its class name in snake case, unless the class says otherwise."""
    assert [t.name for t in (Knock, DoorBellRang, Renamed, HouseSold)] == [
        "knock",
        "door_bell_rang",
        "called_otherwise",
        "house_sold",
    ]


def test_event_types_are_found_by_name() -> None:
    """Every event type can be looked up by its name; a base with an empty name is none."""
    types = event_types()
    assert types["door_bell_rang"] is DoorBellRang
    assert types["house_sold"] is HouseSold
    assert _House not in types.values()
    assert Event not in types.values()


def test_of_two_types_with_one_name_the_later_counts() -> None:
    """A class that is defined once more, as in a notebook, takes the name over."""

    def define() -> type[Event]:
        class Again(Event, frozen=True):
            pass

        return Again

    first, second = define(), define()
    assert first is not second
    assert event_types()["again"] is second


def test_a_type_whose_module_is_gone_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a plugin is unloaded: whatever still holds the class, its annotations mean nothing any more."""
    module = ModuleType("unloaded")
    monkeypatch.setitem(sys.modules, "unloaded", module)
    exec("from bus import Event\nclass Unloaded(Event, frozen=True):\n    number: int", module.__dict__)
    assert event_types()["unloaded"] is module.Unloaded
    monkeypatch.delitem(sys.modules, "unloaded")
    assert "unloaded" not in event_types()


def test_event_is_a_frozen_value_with_an_identity() -> None:
    """An event cannot be changed, and equals only itself, so that fields that cannot be compared do no harm."""
    event = Knock(None, 1)
    with pytest.raises(AttributeError):
        event.number = 2  # type: ignore[misc]  # that is what is tested
    assert event == event  # noqa: PLR0124  identity is the point
    assert event != Knock(None, 1)
    assert len({event, Knock(None, 1)}) == 2


def test_field_cannot_hide_what_every_event_has() -> None:
    """A field named `name` would take the type its name, so it is refused where it is written."""
    with pytest.raises(TypeError, match="Visit cannot have a field 'name'"):

        class Visit(Event, frozen=True):
            name: str  # type: ignore[misc]  # that is what is tested


def test_record_has_all_fields_but_the_live_ones() -> None:
    """Live fields stay out of a record, scalars become floats, everything else is as declared."""
    floor: Any = Annotated[int, msgspec.Meta(ge=0)]
    optional: Any = str | None
    optional_float: Any = float | None
    assert record_fields(DoorBellRang) == (
        RecordField("loud", bool, scalar=False),
        RecordField("volume", float, scalar=True),
        RecordField("echo", optional_float, scalar=True),
        RecordField("floor", floor, scalar=False),
        RecordField("note", optional, scalar=False),
    )


def test_type_says_how_it_is_recorded() -> None:
    """An event is recorded always unless its type says otherwise."""
    assert Knock.recorded is Recorded.ALWAYS
    assert Tick.recorded is Recorded.SAMPLED
