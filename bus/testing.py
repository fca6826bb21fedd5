"""What tests of publishers and listeners need: a record of what was published."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from .bus import EventBus
from .event import Event
from .names import event_types
from .subscription import FIRST


@contextmanager
def record(bus: EventBus, *types: type[Event] | str) -> Iterator[list[Any]]:
    """Record the events of these types (all types, where none is given) that reach `bus`'s listeners, in order.

    with record(bus, "epoch_end") as events:
        trainer.fit()
    assert [event.epoch for event in events] == [0, 1]
    """
    events: list[Any] = []
    with ExitStack() as stack:
        for event in types or event_types().values():
            event_type: type[Event] = bus.event_type(event)
            stack.enter_context(bus.subscribe(event_type, events.append, priority=FIRST, name="record"))
        yield events
