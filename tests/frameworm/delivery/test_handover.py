"""A death blames the call that was under way, and no call that the relay has outlived."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from bus.cursor import Cursor, Position, Trying, position_in
from frameworm.delivery.handover import Handover, Item, Patience
from frameworm.delivery.listener import ProcessListener
from frameworm.delivery.progress import Account, Progress
from frameworm.delivery.receiver import Receiver
from frameworm.delivery.retry import RetryPolicy
from frameworm.errors import PermanentError
from tests.bus.events import Knock


class Turn:
    """The lock that suspects share; notes what the cursor says at the moment when the next one may begin."""

    def __init__(self, cursor: Path) -> None:
        self.noted: list[Position] = []
        self._cursor = cursor

    def acquire(self, timeout: float) -> bool:
        """Be free."""
        return timeout > 0

    def release(self) -> None:
        """Look at the cursor."""
        self.noted.append(position_in(self._cursor))


@pytest.mark.parametrize("refused", [False, True])
def test_that_a_call_was_outlived_is_noted_before_the_next_suspect_begins(tmp_path: Path, *, refused: bool) -> None:
    """Whether the listener has taken the record or refused it: nothing is being tried then."""

    def take(_event: Any) -> None:
        if refused:
            raise PermanentError("never")

    file, account = tmp_path / "cursor", Account()
    with Cursor(file) as cursor:
        cursor.save(replace(cursor.position, seq=4, trying=Trying(5, 5, 1)))
    with Cursor(file) as cursor:
        turn: Any = Turn(file)
        stop = threading.Event()
        handover = Handover(
            listener=ProcessListener("a", "a"),
            receiver=Receiver({"knock": take}, None, None),
            progress=Progress(cursor, account),
            account=account,
            folder=tmp_path,
            patience=lambda: Patience(RetryPolicy(), stop, lambda: 0.0),
            stop=stop,
            turn=turn,
            clock=lambda: 0.0,
        )
        handover.deliver([Item(5, {"seq": 5}, Knock(None, 1))])
    assert [(position.seq, position.trying) for position in turn.noted] == [(4 if refused else 5, None)]
    assert (account.delivered, account.dead) == ((0, 1) if refused else (1, 0))
