"""What the bus tells of its listeners while a run lasts: failures become events, a wish to stop becomes a request."""

from __future__ import annotations

from _thread import get_ident
from collections.abc import Iterator
from contextlib import contextmanager

from bus import EventBus, ListenerFailure, Propagate
from frameworm.errors import StopTraining
from frameworm.events import ListenerFailed, ListenerRecovered, TrainerHandle, TrainingEvent
from frameworm.training.asking import raised_by
from frameworm.training.progress import Requests


@contextmanager
def hearing_of_listeners(source: TrainerHandle, bus: EventBus, requests: Requests) -> Iterator[None]:
    """Have the bus tell what happens to listeners, as events of `source`, published on the thread that is here.

    What happened on another thread is filed as a request, which the loop serves between two steps. At the end what was
    asked for too late is forgotten.
    """
    here = get_ident()

    def tell(event: TrainingEvent) -> None:
        if get_ident() == here:
            bus.publish(event)
        else:
            requests.file("publish", event.name, event=event)

    def failed(failure: ListenerFailure) -> None:
        """Tell the 1st, 2nd, 4th, 8th ... failure; a listener that fails on being told of it is not told again."""
        is_power_of_two = failure.count & (failure.count - 1) == 0
        if is_power_of_two and failure.event != ListenerFailed.name:
            error = f"{type(failure.error).__name__}: {failure.error} ({failure.where})"
            tell(ListenerFailed(source, failure.listener, failure.event, error, failure.count))

    def stop(raised: Propagate) -> bool:
        """File a `StopTraining` as what it asks for, so that the run ends between two steps."""
        if isinstance(raised, StopTraining):
            requests.file("stop", raised.reason, by=raised_by(raised))
            return True
        return False

    before = bus.on_failure, bus.on_recovery, bus.on_propagate
    bus.on_failure, bus.on_propagate = failed, stop
    bus.on_recovery = lambda listener: tell(ListenerRecovered(source, listener))
    try:
        yield
    finally:
        bus.on_failure, bus.on_recovery, bus.on_propagate = before
        requests.forget()
