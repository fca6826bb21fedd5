"""Whose turn it is: one thread's dispatching on one bus, with what its listeners publish and raise meanwhile."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 8  # an event caused by an event caused by an event ...: deeper than this is a loop

log = logging.getLogger("bus")

Deliver = Callable[[Any, "Turn"], None]


class Turn:
    """The state of one thread's dispatching. Only that thread touches it, so it needs no lock."""

    __slots__ = ("_depth", "_errors", "_pending", "busy", "recursions", "thread", "unsettled")

    def __init__(self, thread: int | None = None) -> None:
        self.thread = thread
        self.busy = False
        self.unsettled = False
        """Whether `settle` has something to do: queued events, or errors to raise."""
        self.recursions = 0  # events dropped for being caused too deep
        self._depth = 0
        self._pending: deque[tuple[Deliver, Any, int]] = deque()
        self._errors: list[BaseException] = []

    def queue(self, deliver: Deliver, event: Any) -> None:
        """Keep an event that a listener published, until the current one has been delivered."""
        if self._depth >= MAX_DEPTH:
            if not self.recursions:
                log.error("%s was dropped: it was caused by %d events in a row", type(event).__name__, MAX_DEPTH)
            self.recursions += 1
            return
        self._pending.append((deliver, event, self._depth + 1))
        self.unsettled = True

    def raise_later(self, error: BaseException) -> None:
        """Keep an error for the publisher, until all listeners have run."""
        self._errors.append(error)
        self.unsettled = True

    def settle(self) -> None:
        """Deliver what was queued, in the order of queueing, then raise the first error that was kept."""
        self.busy = True
        try:
            while self._pending:
                deliver, event, self._depth = self._pending.popleft()
                deliver(event, self)
        finally:
            self.busy = self.unsettled = False
            self._depth = 0
            errors, self._errors = self._errors, []
        if errors:
            first, *others = errors
            for other in others:
                first.add_note(f"and another listener raised {type(other).__name__}: {other}")
            raise first
