"""Whose turn it is: one thread's dispatching on one bus, with what its listeners publish and raise meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from .errors import Propagate, describe

MAX_DEPTH = 8  # an event caused by an event caused by an event ...: deeper than this is a loop

Deliver = Callable[[Any, "Turn"], None]


class Turn:
    """The state of one thread's dispatching. Only that thread touches it, so it needs no lock."""

    __slots__ = ("_depth", "_errors", "_pending", "busy", "thread", "unsettled")

    def __init__(self) -> None:
        self.thread: int | None = None
        self.busy = False
        self.unsettled = False
        """Whether `settle` has something to do: queued events, or errors to raise."""
        self._depth = 0
        self._pending: deque[tuple[Deliver, Any, int]] = deque()
        self._errors: list[BaseException] = []

    def queue(self, deliver: Deliver, event: Any) -> bool:
        """Keep an event that a listener published, until the current one has been delivered; False: it is too deep."""
        if self._depth == MAX_DEPTH:
            return False
        self._pending.append((deliver, event, self._depth + 1))
        self.unsettled = True
        return True

    def raise_later(self, error: BaseException) -> None:
        """Keep an error for the publisher, until all listeners have run."""
        self._errors.append(error)
        self.unsettled = True

    def settle(self) -> None:
        """Deliver what was queued, in the order of queueing, then raise the gravest error that was kept."""
        self.busy = True
        try:
            while self._pending:
                deliver, event, self._depth = self._pending.popleft()
                deliver(event, self)
        finally:
            self.busy = False
            self.unsettled = bool(self._pending)  # an interrupt that came between two listeners left them
            self._depth = 0
        if self._errors:
            raise self._gravest()

    def _gravest(self) -> BaseException:
        """Take the errors that were kept, and return the one that must not be missed, the others as its notes."""
        errors, self._errors = self._errors, []
        gravest = min(errors, key=_gravity)
        for other in errors:
            if other is not gravest:
                gravest.add_note(f"and another listener raised {describe(other)}")
        return gravest


def _gravity(error: BaseException) -> tuple[bool, bool]:
    """Sort what ends the process before errors, and errors before what a listener raises to steer."""
    return isinstance(error, Exception), isinstance(error, Propagate)
