"""The handle of a listener: its options, its states, and what is left when it is gone."""

from __future__ import annotations

import functools
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any
from unittest.mock import Mock

import pytest

from bus import FIRST, EventBus, SubscriptionError
from bus.subscription import code_of, name_of
from tests.bus.events import Knock, account


def listen(_event: Knock) -> None:
    """Listen."""


async def listen_later(_event: Knock) -> None:
    """Be a coroutine function."""


async def listen_in_parts(_event: Knock) -> AsyncIterator[None]:
    """Be an asynchronous generator function."""
    yield


class Listener:
    """Listeners of several kinds."""

    def __call__(self, _event: Knock) -> None:
        """Listen."""

    def method(self, _event: Knock) -> None:
        """Listen."""

    async def later(self, _event: Knock) -> None:
        """Be a coroutine function."""


class LaterListener:
    """An object that is called asynchronously."""

    async def __call__(self, _event: Knock) -> None:
        """Be a coroutine function."""


def decorated(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a function as one does."""

    @functools.wraps(fn)
    def wrapper(*args: Any) -> Any:
        return fn(*args)

    return wrapper


HERE = f"{__name__}:"


# Ending, and pausing


def test_cancelled_listener_is_called_no_more() -> None:
    """Cancelling ends it for good; again is no error, and nothing brings it back."""
    bus, seen = EventBus(), list[int]()
    subscription = bus.subscribe(Knock, lambda event: seen.append(event.number))
    bus.publish(Knock(None, 1))
    subscription.cancel()
    subscription.cancel()
    subscription.resume()
    subscription.pause()
    bus.publish(Knock(None, 2))
    assert seen == [1]
    assert subscription.state == "cancelled"


def test_subscription_ends_with_its_context() -> None:
    """As a context manager it lasts as long as the context, whatever ends that."""
    bus, seen = EventBus(), list[int]()
    with suppress(KeyError), bus.subscribe(Knock, lambda event: seen.append(event.number)) as subscription:
        bus.publish(Knock(None, 1))
        raise KeyError
    bus.publish(Knock(None, 2))
    assert seen == [1]
    assert subscription.state == "cancelled"


def test_paused_listener_misses_what_is_published() -> None:
    """What is published during a pause is not kept, and not counted; the place in line stays."""
    bus, seen = EventBus(), list[str]()
    subscription = bus.subscribe(Knock, lambda event: seen.append(f"a{event.number}"), name="a")
    bus.subscribe(Knock, lambda event: seen.append(f"b{event.number}"))
    bus.publish(Knock(None, 1))
    subscription.pause()
    subscription.pause()
    bus.publish(Knock(None, 2))
    assert account(bus, "a").state == "paused"
    subscription.resume()
    subscription.resume()
    bus.publish(Knock(None, 3))
    assert seen == ["a1", "b1", "b2", "a3", "b3"]
    assert account(bus, "a").emitted == account(bus, "a").delivered == 2
    assert account(bus, "a").dropped == {}


def test_subscription_says_what_it_is() -> None:
    """The handle tells its event, its listener, its priority and its owner."""
    owner = object()
    subscription = EventBus().subscribe("knock", listen, priority=FIRST, owner=owner)
    assert (subscription.event_type, subscription.fn, subscription.owner) == (Knock, listen, owner)
    assert repr(subscription) == f"<Subscription of {HERE}listen to knock, priority -inf, active>"


# What is refused


@pytest.mark.parametrize(
    "listener",
    [
        listen_later,
        Listener().later,
        LaterListener(),
        functools.partial(listen_later),
        functools.partial(functools.partial(LaterListener())),
    ],
)
def test_coroutine_function_is_refused_in_step(listener: Callable[..., Any]) -> None:
    """A coroutine function, in whichever disguise, is asynchronous: called in step it would run nothing."""
    with EventBus() as bus:
        with pytest.raises(SubscriptionError, match=r":\S+ is a coroutine function.*got dispatch='sync'"):
            bus.subscribe(Knock, listener, dispatch="sync")
        assert bus.subscribe(Knock, listener).lane == "async"


@pytest.mark.parametrize("listener", [listen_in_parts, functools.partial(listen_in_parts)])
def test_asynchronous_generator_is_refused(listener: Callable[..., Any]) -> None:
    """Nobody would iterate over it."""
    with pytest.raises(SubscriptionError, match=r":listen_in_parts is an asynchronous generator: expected"):
        EventBus().subscribe(Knock, listener)


def test_plain_wrapper_of_a_coroutine_function_is_accepted() -> None:
    """A decorator that makes a plain function of a coroutine function knows what it does."""

    @functools.wraps(listen_later)
    def in_step(event: Knock) -> None:
        listen_later(event).close()

    bus = EventBus()
    bus.subscribe(Knock, in_step, name="wrapped")
    bus.publish(Knock(None))
    assert account(bus, "wrapped").delivered == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"priority": "high"}, "priority must be a number (lower runs first), got 'high'"),
        ({"priority": float("nan")}, "priority must be a number (lower runs first), got nan"),
        ({"priority": True}, "priority must be a number (lower runs first), got True"),
        ({"every": 0}, "every must be a whole number of at least 1, got 0"),
        ({"every": 1.5}, "every must be a whole number of at least 1, got 1.5"),
        ({"every": True}, "every must be a whole number of at least 1, got True"),
        ({"on_error": "ignore"}, "on_error must be 'isolate' or 'raise', got 'ignore'"),
        ({"on_error": []}, "on_error must be 'isolate' or 'raise', got []"),
    ],
)
def test_wrong_option_is_refused(options: dict[str, Any], message: str) -> None:
    """A wrong option fails when subscribing, saying what was expected and what came; nothing is subscribed."""
    bus = EventBus()
    on: Any = bus.on
    for subscribe in (lambda: bus.subscribe(Knock, listen, **options), lambda: on(Knock, **options)(listen)):
        with pytest.raises(SubscriptionError) as caught:
            subscribe()
        assert str(caught.value) == message
    assert not bus.channel(Knock).active


def test_listener_must_be_callable() -> None:
    """What cannot be called is refused."""
    with pytest.raises(SubscriptionError, match="a listener must be callable, got 3"):
        EventBus().subscribe(Knock, 3)  # type: ignore[call-overload]  # that is what is tested


def test_unknown_option_is_refused() -> None:
    """A misspelt option is an error, also in the decorator."""
    with pytest.raises(TypeError, match="prioritiy"):
        EventBus().on(Knock, prioritiy=3)(listen)  # type: ignore[call-overload]  # that is what is tested


# Names


@pytest.mark.parametrize(
    ("listener", "name"),
    [
        (listen, HERE + "listen"),
        (Listener().method, HERE + "Listener.method"),
        (Listener(), HERE + "Listener"),
        (Listener, HERE + "Listener"),
        (functools.partial(listen), HERE + "listen"),
        (functools.partial(decorated(functools.partial(Listener()))), HERE + "Listener"),
        (decorated(listen), HERE + "listen"),
        (print, "builtins:print"),
        ([].append, "list.append"),
        (Mock(), "unittest.mock:Mock"),
    ],
)
def test_listener_is_named_after_what_somebody_wrote(listener: Callable[..., Any], name: str) -> None:
    """Without a name of its own, a listener has that of the function or the class inside of all wrappers."""
    assert name_of(listener) == name
    assert EventBus().subscribe(Knock, listener).name == name
    assert EventBus().subscribe(Knock, listener, name="mine").name == "mine"


def test_code_is_what_somebody_wrote() -> None:
    """The code that says where a listener is, is its own; what is not written in Python has none."""
    assert code_of(functools.partial(decorated(listen))) is listen.__code__
    assert code_of(Listener()) is Listener.__call__.__code__
    assert code_of(Listener().method) is Listener.method.__code__
    assert code_of(print) is None


# What is held, and what is left


def test_nested_functions_live() -> None:
    """A bus holds its listeners, so that functions defined inside of others need no other owner."""
    bus, seen = EventBus(), list[int]()

    def register() -> None:
        def nested(event: Knock) -> None:
            seen.append(event.number)

        class Nested:
            def method(self, event: Knock) -> None:
                seen.append(-event.number)

        bus.subscribe(Knock, nested)
        bus.subscribe(Knock, Nested().method)

    register()
    gc.collect()
    bus.publish(Knock(None, 1))
    assert seen == [1, -1]


def test_what_comes_and_goes_leaves_nothing() -> None:
    """Ten thousand subscriptions that were cancelled leave one account of their common name, and nothing else."""
    bus = EventBus()
    channel = bus.channel(Knock)

    def come_and_go(times: int) -> None:
        for number in range(times):
            with bus.subscribe(Knock, lambda event: event.number, every=1 + number % 2, name="guest"):
                if number % 100 == 0:
                    channel.emit(Knock(None))

    come_and_go(10)
    gc.collect()
    before = len(gc.get_objects())
    come_and_go(10_000)
    gc.collect()
    assert len(gc.get_objects()) - before < 20
    signal = bus.signal(Knock)
    assert not signal.receivers
    assert not signal._by_receiver
    assert all(not receivers for receivers in signal._by_sender.values())
    assert len(signal._by_sender) <= 1
    assert not channel._slot_of
    assert not channel.active
    assert bus.subscriptions() == []
    assert [row.name for row in bus.statistics()] == ["guest"]
