"""Whose turn it is: what is queued, and what is raised in the end."""

from __future__ import annotations

from typing import Any

import pytest

from bus import Propagate
from bus.turn import MAX_DEPTH, Turn


class Stop(Propagate):
    """What a listener raises to steer."""


class Unprintable(Exception):  # noqa: N818  named for what it does
    """An error that fails on printing itself."""

    def __str__(self) -> str:
        raise RuntimeError


def test_events_are_delivered_in_the_order_of_queueing() -> None:
    """What is queued while an event is delivered comes behind what was queued before."""
    turn, seen = Turn(), []

    def deliver(event: Any, turn: Turn) -> None:
        seen.append(event)
        if event < 3:
            turn.queue(deliver, event * 10)

    for event in (1, 2, 3):
        assert turn.queue(deliver, event)
    turn.settle()
    assert seen == [1, 2, 3, 10, 20]
    assert not turn.unsettled


def test_event_that_is_caused_too_deep_is_refused() -> None:
    """A chain of events, each causing the next, ends at the limit."""
    turn, depths, refused = Turn(), [], []

    def deliver(event: Any, turn: Turn) -> None:
        depths.append(event)
        if not turn.queue(deliver, event + 1):
            refused.append(event + 1)

    turn.queue(deliver, 1)
    turn.settle()
    assert depths == list(range(1, MAX_DEPTH + 1))
    assert refused == [MAX_DEPTH + 1]


def test_depth_starts_anew_with_each_outermost_event() -> None:
    """The limit is one of causes, not of how many events there were."""
    turn, seen = Turn(), []
    for number in range(3 * MAX_DEPTH):
        assert turn.queue(lambda event, _turn: seen.append(event), number)
        turn.settle()
    assert seen == list(range(3 * MAX_DEPTH))


def test_errors_are_raised_after_all_was_delivered() -> None:
    """The first error is raised when nothing is left to deliver, and the others are its notes."""
    turn, seen = Turn(), []
    turn.raise_later(ValueError("one"))
    turn.queue(lambda event, _turn: seen.append(event), "delivered")
    turn.raise_later(KeyError("two"))
    with pytest.raises(ValueError, match="one") as caught:
        turn.settle()
    assert seen == ["delivered"]
    assert caught.value.__notes__ == ["and another listener raised KeyError: 'two'"]
    turn.settle()  # nothing is raised twice


@pytest.mark.parametrize(
    ("errors", "raised"),
    [
        ([ValueError("a"), KeyboardInterrupt()], KeyboardInterrupt),
        ([Stop(), ValueError("b")], ValueError),
        ([Stop(), ValueError("b"), SystemExit(3), KeyboardInterrupt()], SystemExit),
        ([Unprintable(), ValueError("b")], Unprintable),
    ],
)
def test_the_gravest_error_is_raised(errors: list[BaseException], raised: type[BaseException]) -> None:
    """What ends the process comes before an error, an error before what steers: neither can be missed in a note."""
    turn = Turn()
    for error in errors:
        turn.raise_later(error)
    with pytest.raises(raised) as caught:
        turn.settle()
    assert len(caught.value.__notes__) == len(errors) - 1


def test_error_that_cannot_be_printed_is_noted_all_the_same() -> None:
    """A note on an error whose text cannot be had says so."""
    turn = Turn()
    turn.raise_later(ValueError("first"))
    turn.raise_later(Unprintable())
    with pytest.raises(ValueError, match="first") as caught:
        turn.settle()
    assert caught.value.__notes__ == ["and another listener raised Unprintable: (its text cannot be had)"]


def test_interrupted_delivery_goes_on_with_the_next_one() -> None:
    """What an interrupt left in the queue is delivered as soon as there is a turn again, and not forgotten."""
    turn, seen = Turn(), []

    def interrupted(_event: Any, _turn: Turn) -> None:
        raise KeyboardInterrupt

    turn.queue(interrupted, 1)
    turn.queue(lambda event, _turn: seen.append(event), 2)
    with pytest.raises(KeyboardInterrupt):
        turn.settle()
    assert turn.unsettled
    assert not turn.busy
    turn.settle()
    assert seen == [2]
