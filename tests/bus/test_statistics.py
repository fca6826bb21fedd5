"""The account of each listener: what it was sent, what became of it, what it cost."""

from __future__ import annotations

import time

import msgspec
import pytest

from bus import EventBus, ListenerStatistics
from bus.statistics import SAMPLES, Account, State, Tally, summarize
from tests.bus.events import Knock, Ring, Tick, account


def tally(offered: int = 0, failed: int = 0, **dropped: int) -> Tally:
    """Return a tally with these sums."""
    made = Tally()
    made.offered, made.failed = offered, failed
    made.dropped.update(dropped)
    return made


def row(*entries: tuple[Tally, set[State]]) -> ListenerStatistics:
    """Return the account of a listener that has these tallies, one for each event."""
    accounts = [Account("me", frozenset(states), f"event{i}", entry) for i, (entry, states) in enumerate(entries)]
    (made,) = summarize(accounts)
    return made


def test_accounts_of_one_name_are_one() -> None:
    """A callback with several hooks is one row, with its events in the order in which they appeared."""
    bus = EventBus()
    bus.subscribe(Ring, lambda _event: None, name="callback")
    bus.subscribe(Knock, lambda _event: None, name="other")
    bus.subscribe(Knock, lambda _event: None, name="callback")
    for event in (Knock(None), Ring(None), Knock(None)):
        bus.publish(event)
    rows = bus.statistics()
    assert [(row.name, row.events, row.emitted) for row in rows] == [
        ("other", ("knock",), 2),
        ("callback", ("knock", "ring"), 3),
    ]
    assert {row.lane for row in rows} == {"sync"}


def test_sums_are_added_and_balance() -> None:
    """Emitted is delivered, failed and dropped for each reason, over all events of the listener."""
    made = row((tally(10, 2, paused=1), {"active"}), (tally(5, 1, paused=1, recursion=1), {"active"}))
    assert (made.emitted, made.delivered, made.failed) == (15, 9, 3)
    assert made.dropped == {"paused": 2, "recursion": 1}


@pytest.mark.parametrize(
    ("states", "state"),
    [
        ([{"active"}, {"paused"}, set()], "active"),
        ([{"paused"}, set()], "paused"),
        ([{"active", "paused"}], "active"),
        ([set(), set()], "cancelled"),
    ],
)
def test_state_is_the_liveliest(states: list[set[State]], state: State) -> None:
    """A row is active while any of its listeners is, and cancelled when all are gone."""
    assert row(*((tally(), entry) for entry in states)).state == state


def test_past_listeners_keep_their_account() -> None:
    """A listener that was cancelled is still accounted for; one of the same name that comes later adds to it."""
    bus = EventBus()
    with bus.subscribe(Knock, lambda _event: None, name="guest"):
        bus.publish(Knock(None))
    assert (account(bus, "guest").state, account(bus, "guest").emitted) == ("cancelled", 1)
    with bus.subscribe(Knock, lambda _event: None, name="guest"):
        bus.publish(Knock(None))
        assert (account(bus, "guest").state, account(bus, "guest").emitted) == ("active", 2)


def test_statistics_are_a_frozen_value() -> None:
    """What was handed out does not change with the next event, and can be encoded."""
    bus = EventBus()
    bus.subscribe(Knock, lambda _event: None, name="listener")
    bus.publish(Knock(None))
    before = account(bus, "listener")
    bus.publish(Knock(None))
    assert (before.emitted, account(bus, "listener").emitted) == (1, 2)
    assert msgspec.json.decode(msgspec.json.encode(before), type=ListenerStatistics) == before
    with pytest.raises(AttributeError):
        before.emitted = 3  # type: ignore[misc]  # that is what is tested


def test_statistics_may_be_asked_for_by_a_listener() -> None:
    """In the middle of a dispatch the current event is counted already."""
    bus, seen = EventBus(), list[int]()
    bus.subscribe(Knock, lambda _event: seen.append(account(bus, "me").emitted), name="me")
    bus.publish(Knock(None))
    bus.publish(Knock(None))
    assert seen == [1, 2]


def test_listener_that_has_had_nothing_cost_nothing() -> None:
    """Without a timed call there are no percentiles."""
    bus = EventBus()
    bus.subscribe(Knock, lambda _event: None, name="listener")
    bus.channel(Knock)
    made = account(bus, "listener")
    assert (made.emitted, made.seconds, made.p50, made.p95, made.last_error) == (0, 0.0, None, None, None)


def test_every_call_of_a_rare_event_is_timed() -> None:
    """What is recorded always is timed always, also when the listener fails, and nested or gated calls too."""
    bus = EventBus()

    def sleep(_event: object) -> None:
        time.sleep(0.002)
        raise ValueError

    bus.subscribe(Knock, sleep, name="each")
    bus.subscribe(Knock, sleep, name="second", every=2)
    for _ in range(4):
        bus.publish(Knock(None))
    each, second = account(bus, "each"), account(bus, "second")
    assert each.seconds >= 4 * 0.002
    assert 2 * 0.002 <= second.seconds < each.seconds
    assert (each.p50 or 0) >= 0.002
    assert (each.p95 or 0) >= (each.p50 or 0)


def test_frequent_event_is_timed_once_in_64() -> None:
    """The time spent on a frequent event is estimated from one call in 64."""
    bus = EventBus()
    bus.subscribe(Tick, lambda _event: None, name="listener")
    for _ in range(640):
        bus.publish(Tick(None))
    (made,) = bus.channel(Tick).accounts()
    assert (made.tally.offered, made.tally.timed) == (640, 10)
    assert account(bus, "listener").seconds == pytest.approx(made.tally.seconds * 64)


def test_estimate_leaves_out_what_was_not_called() -> None:
    """Dropped events cost nothing."""
    made = tally(100, dropped=20)
    for _ in range(8):
        made.time(0.5)
    assert made.estimated_seconds() == 0.5 * 80


def test_percentiles_are_over_all_events_of_a_listener() -> None:
    """Each of a listener's events weighs by its calls, of which the latest 128 are kept."""
    many, few = tally(), tally()
    for number in range(1000):
        many.time(number)
    few.time(1e6)
    made = row((many, {"active"}), (few, {"active"}))
    assert len(many.durations) == SAMPLES
    assert made.p50 == 1000 - SAMPLES // 2
    assert row((few, {"active"}), (many, {"active"})).p50 == made.p50
    assert row((few, set())).p95 == 1e6


def test_last_error_is_of_any_event() -> None:
    """The latest error of a listener that had one is shown, also when its other events went well."""
    failed = tally(1, 1)
    failed.last_error = "ValueError: broken"
    assert row((failed, set()), (tally(1), set())).last_error == "ValueError: broken"


@pytest.mark.parametrize(("time_all", "timed"), [(True, True), (False, False)])
def test_each_call_is_timed_where_that_is_asked_for(time_all: bool, timed: bool) -> None:  # noqa: FBT001
    """Of a frequent event, the first few calls are not timed else."""
    bus = EventBus(time_all=time_all)
    bus.subscribe(Tick, lambda _event: time.sleep(0.001), name="slow")
    for _ in range(3):
        bus.publish(Tick(None))
    [slow] = bus.statistics()
    assert (slow.seconds >= 0.003) is timed
    assert (slow.p50 is not None) is timed
