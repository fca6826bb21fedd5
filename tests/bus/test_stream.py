"""Streams: events for a consumer on its own event loop, in order, with every gap marked."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, ClassVar

import anyio
import pytest

from bus import ClosedError, Event, EventBus, Lagged, Recorded, SubscriptionError, UnknownEventError
from tests.bus.events import Knock, Ring, Tick, account, balanced


class Farewell(Event, frozen=True):
    """Nothing follows it."""

    final: ClassVar[bool] = True

    number: int = -1


class Source:
    """A source whose view is itself, with the number of the event's record."""

    def __init__(self, seq: int) -> None:
        self.seq = seq

    def detached(self, _event: Event) -> Source:
        """Be a view."""
        return self


def numbered(seq: int) -> Knock:
    """Return an event that has been recorded."""
    return Knock(Source(seq), seq)


def said(event: Any) -> Any:
    """Return what matters of what a stream yields."""
    return event if isinstance(event, Lagged) else (event.name, event.number)


async def read(stream: Any) -> list[Any]:
    """Read a stream to its end."""
    return [said(event) async for event in stream]


def on_each_loop(test: Callable[[], Any]) -> Callable[..., None]:
    """Run a test on each kind of event loop that is installed."""
    backends = ["asyncio", *(["trio"] if importlib.util.find_spec("trio") else [])]

    @pytest.mark.parametrize("backend", backends)
    def wrapper(backend: str) -> None:
        anyio.run(test, backend=backend)

    wrapper.__doc__ = test.__doc__
    return wrapper


@on_each_loop
async def test_consumer_is_woken_by_another_thread() -> None:
    """Events that are published while it waits reach it, and the last one ends the stream."""
    with EventBus() as bus:
        stream = bus.stream("knock", Farewell)

        def publish() -> None:
            for number in range(100):
                bus.publish(Knock(None, number))
                bus.publish(Ring(None, number))
            bus.publish(Farewell(None))
            bus.publish(Knock(None, 100))

        publisher = threading.Timer(0.05, publish)
        publisher.start()
        assert await read(stream) == [*(("knock", number) for number in range(100)), ("farewell", -1)]
        publisher.join()
        row = account(bus, "stream")
        assert (row.lane, row.delivered, row.state) == ("async", 101, "cancelled")
        assert balanced(row)


async def test_without_types_all_events_come() -> None:
    """In one order."""
    with EventBus() as bus:
        stream = bus.stream()
        for event in (Ring(None, 1), Knock(None, 2), Tick(None, 3), Farewell(None)):
            bus.publish(event)
        assert await read(stream) == [("ring", 1), ("knock", 2), ("tick", 3), ("farewell", -1)]


async def test_gap_is_marked_where_it_is() -> None:
    """A full buffer loses its oldest event that may be dropped; what must not be dropped stays."""
    with EventBus() as bus:
        stream = bus.stream(Knock, Tick, Farewell, max_buffer=3)
        bus.publish(Knock(None, 0))
        for number in range(1, 6):
            bus.publish(Tick(None, number))
        bus.publish(Farewell(None))
        assert await read(stream) == [("knock", 0), Lagged(2), ("tick", 3), ("tick", 4), ("tick", 5), ("farewell", -1)]
        row = account(bus, "stream")
        assert (row.dropped, row.delivered) == ({"overflow": 2}, 5)
        assert balanced(row)


async def test_gap_at_the_end_is_marked_too() -> None:
    """Also when nothing comes after what was lost."""
    bus = EventBus()
    stream = bus.stream(Knock, max_buffer=1)
    for number in range(20):
        bus.publish(Knock(None, number))
    bus.close()
    assert await read(stream) == [*(("knock", number) for number in range(16)), Lagged(4)]


async def test_closed_bus_ends_the_stream_after_what_is_buffered() -> None:
    """The consumer gets what was published before; a closed bus has no stream."""
    bus = EventBus()
    stream, waiting = bus.stream(Knock), asyncio.create_task(read(bus.stream(Knock)))
    bus.publish(Knock(None, 1))
    await asyncio.sleep(0.01)
    bus.close()
    assert await read(stream) == await waiting == [("knock", 1)]
    assert balanced(account(bus, "stream"))
    with pytest.raises(ClosedError, match="nothing to stream"):
        bus.stream()


async def test_leaving_unsubscribes() -> None:
    """By the context manager or `aclose`, again is no error; what is in the buffer is dropped, and counted."""
    with EventBus() as bus:
        async with bus.stream(Knock) as stream:
            bus.publish(Knock(None, 1))
            assert len(bus.subscriptions()) == 1
        assert bus.subscriptions() == []
        await stream.aclose()
        assert await read(stream) == []
        row = account(bus, "stream")
        assert (row.dropped, row.delivered) == ({"cancelled": 1}, 0)
        assert balanced(row)


async def test_abandoned_stream_keeps_no_subscription() -> None:
    """Whoever breaks out of the loop and forgets the stream has unsubscribed it."""
    with EventBus() as bus:
        bus.publish(Knock(None))

        async def first() -> Any:
            async for event in bus.stream(Knock):
                return said(event)
            raise AssertionError

        task = asyncio.create_task(first())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        bus.publish(Knock(None, 1))
        bus.publish(Knock(None, 2))
        assert await task == ("knock", 1)
        del task
        gc.collect()
        assert bus.subscriptions() == []
        assert not bus.channel(Knock).active
        assert balanced(account(bus, "stream"))


async def test_cancelled_reader_loses_nothing() -> None:
    """A timeout around reading takes no event out of the stream."""
    with EventBus() as bus:
        stream = bus.stream(Knock)
        for number in range(3):
            with suppress(TimeoutError):
                await asyncio.wait_for(anext(stream), 0.005)
            bus.publish(Knock(None, number))
            assert said(await anext(stream)) == ("knock", number)


async def test_second_reader_is_refused() -> None:
    """A stream is for one consumer at a time."""
    with EventBus() as bus:
        stream = bus.stream(Knock)
        reading = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0.001)
        with pytest.raises(anyio.BusyResourceError):
            await anext(stream)
        bus.publish(Knock(None, 1))
        assert said(await reading) == ("knock", 1)


def test_stream_may_move_to_another_loop() -> None:
    """It belongs to whichever loop reads it."""
    with EventBus() as bus:
        stream = bus.stream(Knock)
        for number in range(2):

            async def one(number: int = number) -> Any:
                asyncio.get_running_loop().call_later(0.005, bus.publish, Knock(None, number))
                return said(await anext(stream))

            assert asyncio.run(one()) == ("knock", number)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda bus: bus.stream("knok"), UnknownEventError, "did you mean 'knock'"),
        (lambda bus: bus.stream(int), SubscriptionError, "an event type or its name was expected"),
        (lambda bus: bus.stream(max_buffer=0), SubscriptionError, "whole number of at least 1, got 0"),
        (
            lambda bus: bus.stream(from_seq=3),
            SubscriptionError,
            "from_seq=3 was asked for, and .* no history",
        ),
    ],
)
def test_wrong_stream_is_refused(make: Any, error: type[Exception], message: str) -> None:
    """At once, and nothing is subscribed."""
    bus = EventBus()
    with pytest.raises(error, match=message):
        make(bus)
    assert bus.subscriptions() == []


# From the past


async def test_past_and_present_are_one_stream() -> None:
    """What was recorded before, then what comes: without a gap, and nothing twice."""
    with EventBus() as bus:
        bus.history = lambda seq: map(numbered, range(seq + 1, 6))
        stream = bus.stream(Knock, Farewell, from_seq=2)
        for seq in (4, 5, 6):  # 4 and 5 were published while the history was read
            bus.publish(numbered(seq))
        bus.publish(Knock(None, 99))  # what has no number cannot have been given
        bus.publish(Farewell(Source(7)))
        assert await read(stream) == [*(("knock", seq) for seq in (3, 4, 5, 6, 99)), ("farewell", -1)]
        assert balanced(account(bus, "stream"))


async def test_only_wanted_types_come_from_the_past() -> None:
    """A history may return whatever it has, also what is too old."""
    bus = EventBus()
    bus.history = lambda _seq: [numbered(1), Ring(Source(2), 2), numbered(3), Ring(Source(4), 4)]
    stream = bus.stream(Ring, from_seq=2)
    bus.close()
    assert await read(stream) == [("ring", 4)]


async def test_what_overflows_while_the_past_is_read_is_read_again() -> None:
    """A buffer that is too small for a long history costs no event that was recorded."""
    record = [numbered(seq) for seq in range(1, 51)]
    bus, calls = EventBus(), list[int]()

    def history(seq: int) -> Iterator[Event]:
        calls.append(seq)
        return iter([event for event in record if event.source.seq > seq])

    bus.history = history
    stream = bus.stream(Knock, max_buffer=1, from_seq=0)
    for seq in range(51, 91):  # 16 of them have room
        record.append(numbered(seq))
        bus.publish(record[-1])
    bus.close()
    assert await read(stream) == [("knock", seq) for seq in range(1, 91)]
    assert calls == [0, 50]


async def test_what_overflowed_and_was_not_recorded_is_a_gap() -> None:
    """Then the history has nothing in its place."""

    class Blink(Event, frozen=True):
        recorded: ClassVar[Recorded] = Recorded.ON_DEMAND
        number: int = 0

    bus = EventBus()
    bus.history = lambda _seq: []
    stream = bus.stream(Blink, max_buffer=2, from_seq=0)
    for number in range(5):
        bus.publish(Blink(None, number))
    bus.close()
    assert await read(stream) == [Lagged(3), ("blink", 3), ("blink", 4)]


@pytest.mark.parametrize("goes_on", [False, True])
async def test_end_in_the_past_is_the_end_unless_the_run_was_resumed(goes_on: bool) -> None:  # noqa: FBT001  a parameter of the test
    """A run that ended, and was continued, has an event after its end."""
    with EventBus() as bus:
        past = [numbered(1), Farewell(Source(2)), *([numbered(3), Farewell(Source(4))] if goes_on else [])]
        bus.history = lambda _seq: past
        expected = [("knock", 1), ("farewell", -1), *([("knock", 3), ("farewell", -1)] if goes_on else [])]
        assert await read(bus.stream(Knock, Farewell, from_seq=0)) == expected
