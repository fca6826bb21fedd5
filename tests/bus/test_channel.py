"""How one event gets to its listeners: in order, isolated, nested, and not at all when nobody listens."""

from __future__ import annotations

import gc
import inspect
import logging
import types
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from bus import FIRST, LAST, Event, EventBus, ListenerFailure, Propagate
from bus.channel import Channel, Slot
from bus.statistics import Lane, State, Tally
from bus.subscription import OnError
from bus.turn import MAX_DEPTH, Turn
from tests.bus.events import Knock, Ring, account


class Stop(Propagate):
    """What a listener raises to steer."""


def fail(_event: Knock) -> None:
    """Be the listener that fails."""
    raise ValueError("broken")


WHERE = f"{fail.__code__.co_filename}:{fail.__code__.co_firstlineno + 2}"


# Order


def test_lower_priorities_run_first_and_equal_ones_as_they_came() -> None:
    """Listeners run in the order of (priority, registration), recorders at both ends."""
    bus, seen = EventBus(), []
    for name, priority in [("c", 50), ("last", LAST), ("d", 50), ("a", -1), ("first", FIRST), ("e", 50.5), ("b", 0)]:
        bus.subscribe(Knock, lambda _event, name=name: seen.append(name), priority=priority)  # type: ignore[misc]  # the default is for this loop
    bus.publish(Knock(None))
    assert seen == ["first", "a", "b", "c", "d", "e", "last"]


def test_every_lets_each_so_many_th_event_through() -> None:
    """A listener of every third event gets the third, the sixth and so on, and is accounted only for these."""
    bus, seen = EventBus(), []
    bus.subscribe(Knock, lambda event: seen.append(event.number), every=3, name="third")
    for number in range(1, 11):
        bus.publish(Knock(None, number))
    assert seen == [3, 6, 9]
    assert account(bus, "third").emitted == account(bus, "third").delivered == 3


def test_every_counts_on_through_a_pause() -> None:
    """Pausing does not set the count of events back."""
    bus, seen = EventBus(), []
    subscription = bus.subscribe(Knock, lambda event: seen.append(event.number), every=2)
    bus.publish(Knock(None, 1))
    subscription.pause()
    bus.publish(Knock(None, 2))
    subscription.resume()
    bus.publish(Knock(None, 3))
    assert seen == [3]


# Nobody listens


def test_nobody_listening_costs_no_event() -> None:
    """Where nobody listens, the channel says so, and the publisher builds nothing."""
    built = []

    class Costly(Event, frozen=True):
        def __post_init__(self) -> None:
            built.append(self)

    bus = EventBus()
    channel = bus.channel(Costly)

    def publish() -> None:
        if channel.active:
            channel.emit(Costly(None))

    publish()
    assert not built
    with bus.subscribe(Costly, lambda _event: None) as subscription:
        publish()
        subscription.pause()
        publish()
        subscription.resume()
        with bus.muted():
            publish()
    publish()
    assert len(built) == 1


def test_channel_hears_of_listeners_of_the_parent() -> None:
    """A channel is active as soon as somebody listens on a parent of its bus."""
    grandparent = EventBus()
    channel = EventBus(EventBus(grandparent)).channel(Knock)
    assert not channel.active
    with grandparent.subscribe(Knock, lambda _event: None):
        assert channel.active
    assert not channel.active


# Isolation


def test_listener_that_raises_hides_the_event_from_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """The others run, the publisher goes on, and the failure is logged once, with its place and its traceback."""
    bus, seen = EventBus(), []
    bus.subscribe(Knock, fail, name="failing")
    bus.subscribe(Knock, lambda event: seen.append(event.number))
    for number in range(3):
        bus.publish(Knock(None, number))
    assert seen == [0, 1, 2]
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("bus", logging.ERROR)
    assert record.getMessage() == f"failing failed on knock at {WHERE}"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)
    row = account(bus, "failing")
    assert (row.emitted, row.delivered, row.failed) == (3, 0, 3)
    assert row.last_error == f"ValueError: broken ({WHERE})"


def test_each_listener_is_logged_also_under_a_shared_name(caplog: pytest.LogCaptureFixture) -> None:
    """Two listeners of one name are two failures to hear of."""
    bus = EventBus()
    for _ in range(2):
        bus.subscribe(Knock, fail, name="shared")
    bus.publish(Knock(None))
    bus.publish(Knock(None))
    assert len(caplog.records) == 2
    assert account(bus, "shared").failed == 4


def test_failure_is_told_before_the_next_listener_runs() -> None:
    """Whoever watches a bus hears of each failure at once: who, on what, where, and how often by now."""
    bus, told, seen = EventBus(), list[ListenerFailure](), list[int]()
    bus.on_failure = told.append
    bus.subscribe(Knock, fail, name="failing")
    bus.subscribe(Knock, lambda _event: seen.append(len(told)))
    bus.publish(Knock(None))
    bus.publish(Knock(None))
    assert seen == [1, 2]
    assert [(failure.listener, failure.event, failure.where, failure.count) for failure in told] == [
        ("failing", "knock", WHERE, 1),
        ("failing", "knock", WHERE, 2),
    ]
    assert all(isinstance(failure.error, ValueError) for failure in told)


def test_observer_that_fails_hides_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Listeners are served, and steering reaches the publisher, also when who is told of it fails."""
    bus, seen = EventBus(), list[Event]()

    def broken(_told: object) -> bool:
        raise OSError("observer")

    bus.on_failure = bus.on_propagate = broken
    bus.subscribe(Knock, fail)

    @bus.on(Knock)
    def steer(_event: Knock) -> None:
        raise Stop

    bus.subscribe(Knock, seen.append)
    with pytest.raises(Stop):
        bus.publish(Knock(None))
    assert len(seen) == 1
    assert [record.exc_info and record.exc_info[0] for record in caplog.records] == [ValueError, OSError, OSError]


def test_error_that_cannot_be_printed_is_isolated_too(caplog: pytest.LogCaptureFixture) -> None:
    """An error whose `str` raises harms nobody."""

    class Unprintable(Exception):  # noqa: N818  named for what it does
        def __str__(self) -> str:
            raise RuntimeError

    bus, seen = EventBus(), list[Event]()

    @bus.on(Knock, name="failing")
    def raise_it(_event: Knock) -> None:
        raise Unprintable

    bus.subscribe(Knock, seen.append)
    bus.publish(Knock(None))
    assert len(seen) == 1
    assert len(caplog.records) == 1
    assert (account(bus, "failing").last_error or "").startswith("Unprintable: (its text cannot be had) (")


def failing_deeper(_event: Knock) -> None:
    """Fail in code of another file."""
    inspect.getsource(0)  # type: ignore[arg-type]  # that fails, inside of `inspect`


class FailingObject:
    """A listener that is an object."""

    def __call__(self, event: Knock) -> None:
        """Fail."""
        fail(event)


def without_parameters() -> None:
    """Have the wrong signature."""


def line_of(fn: Any, offset: int) -> str:
    """Return the place so many lines below where a function begins."""
    return f"{__file__}:{inspect.unwrap(fn).__code__.co_firstlineno + offset}"


@pytest.mark.parametrize(
    ("listener", "place"),
    [
        (failing_deeper, line_of(failing_deeper, 2)),
        (FailingObject(), WHERE),
        (FailingObject().__call__, WHERE),
        (without_parameters, line_of(without_parameters, 0)),
    ],
)
def test_failure_is_attributed_to_the_listeners_own_line(listener: Callable[..., Any], place: str) -> None:
    """The place is the innermost line of the listener's file, and where it is defined when it was never entered."""
    bus, told = EventBus(), list[ListenerFailure]()
    bus.on_failure = told.append
    bus.subscribe(Knock, listener)
    bus.publish(Knock(None))
    assert [failure.where for failure in told] == [place]


def test_failure_of_a_listener_not_written_in_python_has_a_place() -> None:
    """A builtin that fails is attributed to where it was called."""
    bus, told = EventBus(), list[ListenerFailure]()
    bus.on_failure = told.append
    bus.subscribe(Knock, dict[Knock, None]().pop)
    bus.publish(Knock(None))
    assert "channel.py:" in told[0].where


# What reaches the publisher


def test_listener_may_raise_to_the_publisher(caplog: pytest.LogCaptureFixture) -> None:
    """With `on_error="raise"` the original error is raised after the others ran; it counts as failed, unlogged."""
    bus, seen = EventBus(), list[Event]()
    bus.subscribe(Knock, fail, on_error="raise", name="critical")
    bus.subscribe(Knock, seen.append)
    with pytest.raises(ValueError, match="broken") as caught:
        bus.publish(Knock(None))
    assert caught.traceback[-1].name == "fail"
    assert len(seen) == 1
    assert not caplog.records
    assert account(bus, "critical").failed == 1


def test_strict_bus_raises_every_error() -> None:
    """On a strict bus every listener is critical: the first error is raised, the others are its notes."""
    bus, seen = EventBus(strict=True), list[Event]()
    bus.subscribe(Knock, fail)

    @bus.on(Knock)
    def fail_too(_event: Knock) -> None:
        raise KeyError("two")

    bus.subscribe(Knock, seen.append)
    with pytest.raises(ValueError, match="broken") as caught:
        bus.publish(Knock(None))
    assert caught.value.__notes__ == ["and another listener raised KeyError: 'two'"]
    assert len(seen) == 1


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt, SystemExit])
def test_steering_acts_after_the_others_ran(error: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    """A `Propagate` and what ends the process reach the publisher, after the others, and are no failures."""
    bus, seen = EventBus(), list[Event]()

    @bus.on(Knock, name="steering")
    def steer(_event: Knock) -> None:
        raise error

    bus.subscribe(Knock, seen.append)
    with pytest.raises(error):
        bus.publish(Knock(None))
    assert len(seen) == 1
    assert not caplog.records
    assert account(bus, "steering").delivered == 1
    assert account(bus, "steering").failed == 0


def test_steering_may_be_taken_up() -> None:
    """A `Propagate` that the bus's owner takes up is not raised; another one is."""
    bus = EventBus()
    bus.on_propagate = lambda raised: raised.args == ("mine",)

    @bus.on(Knock)
    def steer(event: Knock) -> None:
        raise Stop(*(["mine"] if event.number else []))

    bus.publish(Knock(None, 1))
    with pytest.raises(Stop):
        bus.publish(Knock(None, 0))


def test_interrupt_is_not_lost_in_an_error() -> None:
    """When one listener fails and another is interrupted, the publisher is interrupted."""
    bus = EventBus(strict=True)
    bus.subscribe(Knock, fail)

    @bus.on(Knock)
    def interrupted(_event: Knock) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        bus.publish(Knock(None))
    assert caught.value.__notes__ == ["and another listener raised ValueError: broken"]


def test_publishing_works_on_after_an_error() -> None:
    """An error that reached the publisher leaves nothing behind: the next event is delivered as ever."""
    bus, seen = EventBus(), []
    critical = bus.subscribe(Knock, fail, on_error="raise")
    bus.subscribe(Knock, lambda event: seen.append(event.number))
    with pytest.raises(ValueError, match="broken"):
        bus.publish(Knock(None, 1))
    critical.cancel()
    bus.publish(Knock(None, 2))
    assert seen == [1, 2]


def test_raised_error_is_freed_with_its_traceback() -> None:
    """An error that was dealt with keeps nothing alive: what its traceback held is freed without the collector."""

    class Batch:
        pass

    bus, batch = EventBus(strict=True), Batch()
    alive = weakref.ref(batch)
    bus.subscribe(Knock, fail)
    gc.disable()
    try:
        with pytest.raises(ValueError, match="broken") as caught:
            bus.publish(Knock(batch))
        del batch, caught
        assert alive() is None
    finally:
        gc.enable()


# Nested emissions


def test_nested_emissions_are_delivered_breadth_first() -> None:
    """What a listener publishes comes after the current event, and before the outermost emit returns."""
    bus, seen = EventBus(), list[str]()

    @bus.on(Knock)
    def first(event: Knock) -> None:
        seen.append(f"first knock {event.number}")
        if event.number == 0:
            bus.publish(Ring(None, 1))
            bus.publish(Knock(None, 1))
        seen.append("first is done")

    @bus.on(Knock)
    def second(event: Knock) -> None:
        seen.append(f"second knock {event.number}")
        if event.number == 0:
            bus.channel(Ring).emit(Ring(None, 2))

    @bus.on(Ring)
    def ring(event: Ring) -> None:
        seen.append(f"ring {event.number}")

    bus.publish(Knock(None))
    assert seen == [
        "first knock 0",
        "first is done",
        "second knock 0",
        "ring 1",
        "first knock 1",
        "first is done",
        "second knock 1",
        "ring 2",
    ]


def test_error_of_a_nested_event_reaches_the_outermost_publisher() -> None:
    """An error is raised once all nested events were delivered, not inside of the listener that published."""
    bus, seen = EventBus(), []

    @bus.on(Knock)
    def answer(_event: Knock) -> None:
        bus.publish(Ring(None))
        seen.append("published")

    @bus.on(Ring, on_error="raise")
    def fail_on_ring(_event: Ring) -> None:
        raise ValueError("nested")

    with pytest.raises(ValueError, match="nested"):
        bus.publish(Knock(None))
    assert seen == ["published"]


def test_endless_loop_of_events_ends(caplog: pytest.LogCaptureFixture) -> None:
    """An event that causes itself is dropped at depth 8, for all its listeners, with one error in all."""
    bus, seen = EventBus(), list[int]()

    @bus.on(Knock, name="loop")
    def loop(event: Knock) -> None:
        seen.append(event.number)
        bus.publish(Knock(None, event.number + 1))

    bus.subscribe(Knock, lambda _event: None, name="other")
    bus.publish(Knock(None))
    assert seen == list(range(MAX_DEPTH + 1))
    bus.publish(Knock(None))
    assert [record.getMessage() for record in caplog.records] == [
        "knock was dropped: 9 events in a row caused it, each the next one"
    ]
    for name in ("loop", "other"):
        assert account(bus, name).dropped == {"recursion": 2}
        assert account(bus, name).delivered == 2 * (MAX_DEPTH + 1)


def test_events_of_another_bus_are_delivered_at_once() -> None:
    """Only the same bus keeps events waiting: a listener may use another one like anybody."""
    bus, other, seen = EventBus(), EventBus(), []
    other.subscribe(Ring, lambda _event: seen.append("ring"))

    @bus.on(Knock)
    def answer(_event: Knock) -> None:
        other.publish(Ring(None))
        seen.append("answered")

    bus.publish(Knock(None))
    assert seen == ["ring", "answered"]


# Changes during a dispatch


def test_subscribing_acts_with_the_next_event() -> None:
    """A listener that subscribes another one does not bring it the current event."""
    bus, seen = EventBus(), list[int]()

    @bus.on(Knock)
    def invite(event: Knock) -> None:
        if event.number == 1:
            bus.subscribe(Knock, lambda event: seen.append(event.number), priority=90)

    bus.publish(Knock(None, 1))
    assert seen == []
    bus.publish(Knock(None, 2))
    assert seen == [2]


@pytest.mark.parametrize("end", ["cancel", "pause"])
def test_unsubscribing_acts_at_once(end: str) -> None:
    """A later listener that is cancelled or paused does not get the current event, which counts as dropped."""
    bus, seen = EventBus(), list[Event]()

    @bus.on(Knock, priority=1)
    def end_it(_event: Knock) -> None:
        getattr(later, end)()

    later = bus.subscribe(Knock, seen.append, name="later")
    bus.publish(Knock(None))
    bus.publish(Knock(None))
    assert seen == []
    row = account(bus, "later")
    assert (row.emitted, row.delivered, row.dropped) == (1, 0, {later.state: 1})


def test_muting_acts_at_once() -> None:
    """A bus that is muted in the middle of a dispatch delivers no further, until it is unmuted."""
    bus, seen = EventBus(), list[Event]()
    mute = bus.muted()
    bus.subscribe(Knock, lambda _event: mute.__enter__(), priority=1, name="muting")
    bus.subscribe(Knock, seen.append, name="later")
    bus.publish(Knock(None))
    mute.__exit__(None, None, None)
    assert seen == []
    assert account(bus, "later").dropped == {"muted": 1}
    assert account(bus, "muting").delivered == 1


def test_listener_may_cancel_itself() -> None:
    """A listener that cancels itself has had this event, and gets no other; also when it then fails."""
    bus, seen = EventBus(), []

    def once(event: Knock) -> None:
        seen.append(event.number)
        subscription.cancel()
        raise ValueError("last words")

    subscription = bus.subscribe(Knock, once, name="once")
    after = list[int]()
    bus.subscribe(Knock, lambda event: after.append(event.number))
    bus.publish(Knock(None, 1))
    bus.publish(Knock(None, 2))
    assert (seen, after) == ([1], [1, 2])
    row = account(bus, "once")
    assert (row.state, row.emitted, row.delivered, row.failed, row.dropped) == ("cancelled", 1, 0, 1, {})


def test_listener_that_is_silent_for_a_moment_is_accounted_for_once() -> None:
    """Pausing and resuming a later listener within one dispatch neither drops nor doubles the event."""
    bus, seen = EventBus(), list[Event]()

    @bus.on(Knock, priority=1)
    def blink(_event: Knock) -> None:
        later.pause()
        later.resume()

    later = bus.subscribe(Knock, seen.append, name="later")
    bus.publish(Knock(None))
    assert len(seen) == 1
    assert (account(bus, "later").emitted, account(bus, "later").delivered) == (1, 1)


# Compiling


class Fake:
    """A listener that does something while its channel is being compiled."""

    on_error: OnError = "isolate"
    code: types.CodeType | None = None
    lane: Lane = "sync"
    inert = False
    every = 1

    def __init__(self, name: str, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.name = name
        self.state: State = "active"
        self.seen: list[Any] = []
        self.fn = self.seen.append
        self._meanwhile = meanwhile

    def gate(self) -> None:
        """Let all events pass."""
        self._meanwhile()

    def tally(self) -> Tally:
        """Be accounted for as any other."""
        return Tally()

    def inlet(self, _tally: Tally, _report: object) -> Callable[[Any], object]:
        """Be called in step."""
        return self.fn


def no_report(*_: object) -> None:
    """Hear of asynchronous listeners, of which there are none."""


def test_change_in_the_middle_of_compiling_is_not_lost() -> None:
    """A finalizer or a signal handler that cancels a listener while the channel compiles is heeded."""

    def failed(_slot: Slot[Any], _event: Event, error: BaseException, _turn: Turn) -> None:
        raise error

    def finalize() -> None:
        victim.state = "cancelled"
        listeners.remove(victim)
        channel.compile()

    victim, newcomer = Fake("victim"), Fake("newcomer", finalize)
    listeners = [victim]
    turn = Turn()
    channel = Channel(Knock, lambda: list(listeners), turn, lambda: turn, failed, report=no_report)
    channel.compile()
    listeners.insert(0, newcomer)
    channel.compile()
    channel.emit(Knock(None))
    assert (len(newcomer.seen), len(victim.seen)) == (1, 0)
    assert [(row.name, row.tally.offered, dict(row.tally.dropped)) for row in channel.accounts()] == [
        ("victim", 0, {}),
        ("newcomer", 1, {}),
    ]


def test_failed_compiling_can_be_done_again() -> None:
    """An error in the middle of compiling leaves the channel able to compile."""

    def listeners() -> list[Fake]:
        if broken:
            raise KeyboardInterrupt
        return [listener]

    listener, broken, turn = Fake("listener"), True, Turn()
    channel = Channel(Knock, listeners, turn, lambda: turn, lambda *_: None, report=no_report)
    with pytest.raises(KeyboardInterrupt):
        channel.compile()
    broken = False
    channel.compile()
    assert channel.active
