"""What tests of others rely on: the record of what was published."""

from __future__ import annotations

import pytest

from bus import EventBus, UnknownEventError
from bus.testing import record
from tests.bus.events import Knock, Ring


def test_record_has_what_was_published_in_order() -> None:
    """The events of the given types are recorded while the context lasts, before any listener can fail."""
    bus, recorded = EventBus(strict=True), list[int]()

    @bus.on(Knock, priority=-1000)
    def answer(event: Knock) -> None:
        recorded.append(len(events))
        bus.publish(Ring(None, event.number))

    with record(bus, Knock, "ring") as events:
        bus.publish(Knock(None, 1))
        bus.publish(Ring(None, 2))
    bus.publish(Ring(None, 3))
    assert [(event.name, event.number) for event in events] == [("knock", 1), ("ring", 1), ("ring", 2)]
    assert recorded == [1]
    assert not bus.channel(Ring).active


def test_record_of_all_types() -> None:
    """Without a type, all events are recorded."""
    bus = EventBus()
    with record(bus) as events:
        bus.publish(Knock(None))
        bus.publish(Ring(None))
    assert [type(event) for event in events] == [Knock, Ring]


def test_record_of_what_is_no_event() -> None:
    """A wrong name fails at once, and leaves nothing subscribed."""
    bus = EventBus()
    with pytest.raises(UnknownEventError), record(bus, Knock, "kno"):
        pass
    assert not bus.channel(Knock).active
