"""Who is told what listeners raise, and what is made of it: isolated, counted, logged once, or raised."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from .channel import Slot
from .errors import Propagate, describe, place_of
from .event import Event
from .route import Route
from .signals import PlainReceiver
from .statistics import ListenerFailure
from .subscription import Subscription
from .turn import Turn

R = TypeVar("R")
T = TypeVar("T")

log = logging.getLogger("bus")


class Observed:
    """The part of a bus that deals with the errors of its listeners."""

    def __init__(self, *, strict: bool) -> None:
        self.strict = strict
        self.on_failure: Callable[[ListenerFailure], object] | None = None
        """Told of each failure of a listener: of one in step on the publishing thread, before the next listener runs;
        of an asynchronous one on its worker's thread, when it has been given up."""
        self.on_propagate: Callable[[Propagate], bool] | None = None
        """Asked about each `Propagate` that a listener raises; what it says True to is not raised to the publisher."""
        self.on_recovery: Callable[[str], object] | None = None
        """Told the name of a listener that is served again after it hung or was broken, on its worker's thread."""
        self.on_subscribe: Callable[[Subscription[Any] | PlainReceiver], object] | None = None
        """Told of each listener that comes to this bus, or to a bus below it; plain blinker receivers included."""

    def _failed(self, slot: Slot[Any], event: Event, error: BaseException, turn: Turn) -> None:
        """Account for what a listener raised, and decide whether the publisher gets it."""
        if isinstance(error, Propagate):
            if not tell(self.on_propagate, error):
                turn.raise_later(error)
            return
        if not isinstance(error, Exception):
            turn.raise_later(error)
            return
        listener, tally = slot.listener, slot.tally
        slot.failures += 1
        tally.failed += 1
        place = place_of(error, listener.code)
        tally.last_error = f"{describe(error)} ({place})"
        if self.strict or listener.on_error == "raise":
            turn.raise_later(error)
        elif slot.failures == 1:
            log.error("%s failed on %s at %s", listener.name, event.name, place, exc_info=error)
        tell(self.on_failure, ListenerFailure(listener.name, event.name, error, place, tally.failed))

    def _report(self, route: Route, event: str, error: BaseException | None) -> None:
        """Account for what an asynchronous listener raised, or for its recovery; on its worker's thread."""
        listener, tally = route.listener, route.tally
        if error is None:
            log.info("%s is served again", listener.name)
            tell(self.on_recovery, listener.name)
            return
        route.failures += 1
        place = place_of(error, listener.code)
        tally.last_error = f"{describe(error)} ({place})"
        if route.failures == 1:
            log.error("%s failed on %s at %s", listener.name, event, place, exc_info=error)
        tell(self.on_failure, ListenerFailure(listener.name, event, error, place, tally.failed))


def tell(observer: Callable[[T], R] | None, what: T) -> R | None:
    """Call an observer of the bus, if there is one; should it fail, the listeners are served all the same."""
    try:
        return observer(what) if observer is not None else None
    except Exception:
        log.exception("%r failed", observer)
        return None
