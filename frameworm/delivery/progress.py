"""What is remembered of a listener from one relay to the next: how far it is, its state, its account."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec

from bus.cursor import Cursor, Position, Trying
from frameworm.delivery.status import State

FATAL = 2
"""So many relays may die of a record."""


class Account(msgspec.Struct):
    """The counts of a listener, as in its report, and what it is doing; one thread writes them, others look."""

    delivered: int = 0
    failed: int = 0
    retried: int = 0
    dead: int = 0
    state: State = "ok"
    last_error: str | None = None
    called: float | None = None
    """When the call that is under way began, by the relay's clock."""


_COUNTS = ("delivered", "failed", "retried", "dead")


class Progress:
    """A listener's cursor, with its account and state; `spare` says that no record is to blame for the last death."""

    def __init__(self, cursor: Cursor, account: Account, *, spare: bool = False) -> None:
        position = cursor.position
        self.seq = position.seq
        """All up to and including this record are delivered, or buried, or not wanted."""
        self.closed: int = position.state.get("closed", 0)
        """The attempt that was last closed as crashed."""
        self.state: dict[str, Any] | None = position.state.get("listener")
        """The listener's own."""
        self._cursor = cursor
        self._account = account
        self._suspect = None if spare else position.trying
        self._begun = False  # whether it is noted what is being delivered
        for name in _COUNTS:
            setattr(account, name, position.state.get(name, 0))

    @property
    def has_suspects(self) -> bool:
        """Whether there are any records of which the next two may be true."""
        return self._suspect is not None

    def is_suspect(self, seq: int) -> bool:
        """Whether a relay died while this record, among others maybe, was being delivered: then it goes alone."""
        return self._suspect is not None and self._suspect.first <= seq <= self._suspect.last

    def is_fatal(self, seq: int) -> bool:
        """Whether it is known that relays die of this record."""
        suspect = self._suspect
        return suspect is not None and suspect.first == suspect.last == seq and suspect.begun >= FATAL

    def begin(self, first: int, last: int) -> None:
        """Note, where nothing is noted, that records from `first` to `last` are being delivered."""
        if not self._begun:
            self._begun = True
            begun = self._suspect.begun + 1 if self._suspect is not None and self.is_suspect(first) else 1
            with suppress(OSError):  # a full disk: then a record that kills is found out later
                self._cursor.save(msgspec.structs.replace(self._cursor.position, trying=Trying(first, last, begun)))

    def save(self) -> None:
        """Note how far it is, and that nothing is being delivered.

        Raises TypeError, ValueError or OverflowError for a state that is not JSON or too long, and OSError; what was
        noted before is still there then.
        """
        self._begun = False
        counts = {name: getattr(self._account, name) for name in _COUNTS}
        self._cursor.save(Position(self.seq, {**counts, "closed": self.closed, "listener": self.state}))
