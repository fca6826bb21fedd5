"""The options of asynchronous listeners are checked when they subscribe, not at the first event."""

from __future__ import annotations

from typing import Any

import pytest

from bus import Backoff, Breaker, EventBus, SubscriptionError
from bus.options import AsyncOptions
from tests.bus.events import Knock


def listen(_event: Knock) -> None:
    """Listen."""


async def listen_later(_event: Knock) -> None:
    """Listen, as a coroutine function."""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queue_size": 0}, "queue_size must be a whole number of at least 1, got 0"),
        ({"queue_size": -5}, "queue_size must be a whole number of at least 1, got -5"),
        ({"queue_size": 1.5}, "queue_size must be a whole number of at least 1, got 1.5"),
        ({"batch": True}, "batch must be a whole number of at least 1, got True"),
        ({"retries": -1}, "retries must be a whole number of at least 0, got -1"),
        ({"timeout": "10"}, "timeout must be a number of seconds of at least 0, got '10'"),
        ({"linger": float("nan")}, "linger must be a number of seconds of at least 0, got nan"),
        ({"backoff": 1}, "backoff must be a Backoff, got 1"),
        ({"breaker": 5}, "breaker must be a Breaker, got 5"),
        (
            {"overflow": "drop_old"},
            (
                "overflow must be one of 'drop_oldest', 'drop_newest', 'latest', got 'drop_old'; "
                "did you mean 'drop_oldest'?"
            ),
        ),
    ],
)
def test_wrong_option_is_refused(options: dict[str, Any], message: str) -> None:
    """It fails when subscribing, says what was expected and what came, and nothing is subscribed."""
    bus = EventBus()
    with pytest.raises(SubscriptionError) as caught:
        bus.subscribe(Knock, listen, dispatch="async", **options)
    assert str(caught.value) == message
    assert not bus.subscriptions()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Backoff(first=-1), "backoff.first must be a number of seconds of at least 0, got -1"),
        (lambda: Breaker(after=0), "breaker.after must be a whole number of at least 1, got 0"),
        (lambda: Breaker(longest=None), "breaker.longest must be a number of seconds of at least 0, got None"),  # type: ignore[arg-type]  # that is what is tested
    ],
)
def test_wrong_part_is_refused(make: Any, message: str) -> None:
    """A wrong backoff or breaker cannot even be made."""
    with pytest.raises(SubscriptionError) as caught:
        make()
    assert str(caught.value) == message


def test_dispatch_is_checked() -> None:
    """A lane that does not exist is refused with the nearest that does."""
    with pytest.raises(SubscriptionError, match="dispatch must be 'sync', 'async' or None, got 'asinc'; did you mean"):
        EventBus().subscribe(Knock, listen, dispatch="asinc")  # type: ignore[call-overload]  # that is what is tested


def test_listener_in_step_has_no_queue() -> None:
    """Options of the async lane are an error for a listener in step, which has no use for them."""
    with pytest.raises(SubscriptionError, match=r"called in step.*expected dispatch='async'.*got queue_size=5"):
        EventBus().subscribe(Knock, listen, queue_size=5)


def test_error_cannot_be_raised_to_a_publisher_that_has_gone_on() -> None:
    """`on_error="raise"` is for listeners in step."""
    with pytest.raises(SubscriptionError, match="expected on_error='isolate', got 'raise'"):
        EventBus().subscribe(Knock, listen_later, on_error="raise")


def test_unknown_option_is_refused_as_any_unknown_argument() -> None:
    """A misspelled keyword is a TypeError, in both lanes."""
    anything: Any = EventBus()
    for dispatch in ("sync", "async"):
        with pytest.raises(TypeError, match="queue_length"):
            anything.subscribe(Knock, listen, dispatch=dispatch, queue_length=3)


def test_defaults_are_those_of_the_docs() -> None:
    """What nobody asked for is what the docs say."""
    options = AsyncOptions()
    assert (options.queue_size, options.overflow, options.timeout, options.retries) == (1024, "drop_oldest", 10, 2)
    assert (options.backoff, options.breaker) == (Backoff(0.5, 5.0), Breaker(5, 30.0, 300.0))
    assert (options.batch, options.linger) == (1, 1.0)
