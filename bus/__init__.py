"""A typed event bus: listeners in step cost a function call, others an append; none of them can hurt the publisher.

    from bus import Event, EventBus

    class Ping(Event, frozen=True):
        text: str

    bus = EventBus()

    @bus.on(Ping)
    def show(event: Ping) -> None:
        print(event.text)

    bus.publish(Ping(None, "hello"))

Nothing in this package knows of training; it needs anyio, blinker and msgspec.
"""

from .bus import EventBus
from .channel import Channel
from .default import default_bus
from .errors import BusError, ClosedError, Propagate, SubscriptionError, UnknownEventError
from .event import Event, Live, Recorded, RecordField, Scalar, record_fields
from .names import event_types
from .options import Backoff, Breaker
from .signals import PlainReceiver
from .statistics import ListenerFailure, ListenerStatistics
from .stream import Lagged, Stream
from .subscription import FIRST, LAST, Subscription

__all__ = [
    "FIRST",
    "LAST",
    "Backoff",
    "Breaker",
    "BusError",
    "Channel",
    "ClosedError",
    "Event",
    "EventBus",
    "Lagged",
    "ListenerFailure",
    "ListenerStatistics",
    "Live",
    "PlainReceiver",
    "Propagate",
    "RecordField",
    "Recorded",
    "Scalar",
    "Stream",
    "Subscription",
    "SubscriptionError",
    "UnknownEventError",
    "default_bus",
    "event_types",
    "record_fields",
]
