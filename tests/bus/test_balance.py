"""Whatever happens to asynchronous listeners, every event of each is accounted for, at every quiet moment."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from bus import Backoff, Breaker, Event, EventBus, Subscription, SubscriptionError
from tests.bus.events import PATIENCE, Knock, Ring, Tick, balanced, eventually

EVENTS: tuple[type[Knock | Ring | Tick], ...] = (Knock, Ring, Tick)
numbers = st.integers(0, 1 << 16)  # taken modulo whatever there is to choose from
REASONS = {"overflow", "closed", "breaker", "cancelled", "paused", "muted"}


@pytest.fixture(autouse=True, scope="module")
def _silent() -> Iterator[None]:
    """Keep thousands of failures that are meant out of the log."""
    logging.getLogger("bus").disabled = True
    yield
    logging.getLogger("bus").disabled = False


class Balance(RuleBasedStateMachine):
    """A parent and a child with asynchronous listeners, some of which fail, wait at a gate, or end themselves."""

    @initialize()
    def found(self) -> None:
        """Make the buses."""
        self.parent = EventBus()
        self.child = EventBus(self.parent)
        self.gate = threading.Event()
        self.gate.set()
        self.subscriptions: list[Subscription[Any]] = []
        self.called: dict[str, int] = {}
        self.delivered: dict[str, int] = {}
        self.failing = False

    def teardown(self) -> None:
        """End all workers."""
        if hasattr(self, "gate"):
            self.gate.set()
            self.parent.close()
            self.child.close()

    @rule(
        number=numbers,
        event_type=st.sampled_from(EVENTS),
        coroutine=st.booleans(),
        overflow=st.sampled_from(["drop_oldest", "drop_newest", "latest"]),
        queue_size=st.integers(1, 4),
        batch=st.integers(1, 3),
        every=st.sampled_from([1, 1, 2]),
        fails=st.booleans(),
        owned=st.booleans(),
    )
    def subscribe(
        self,
        number: int,
        event_type: type[Event],
        *,
        coroutine: bool,
        overflow: Any,
        queue_size: int,
        batch: int,
        every: int,
        fails: bool,
        owned: bool,
    ) -> None:
        """Subscribe a listener, perhaps as another one of the same owner."""
        bus = (self.parent, self.child)[number % 2]
        if bus.closed or len(self.subscriptions) > 12:
            return
        name = f"listener {len(self.subscriptions)}"
        options: Any = {"overflow": overflow, "queue_size": queue_size, "batch": batch}
        if owned:
            options = {"queue_size": 2}
        try:
            self.subscriptions.append(
                bus.subscribe(
                    event_type,
                    self.listener(name, coroutine=coroutine, fails=fails),
                    dispatch="async",
                    name=name,
                    owner=(self, self.gate)[number // 2 % 2] if owned else None,
                    every=every,
                    linger=0.001,
                    retries=number % 2 if not owned else 0,
                    backoff=Backoff(0, 0),
                    breaker=Breaker(after=3, probe=0.005, longest=0.01) if not owned else None,
                    **options,
                )
            )
        except SubscriptionError:
            assert owned  # it has a worker of the other kind

    def listener(self, name: str, *, coroutine: bool, fails: bool) -> Callable[[Any], object]:
        """Return a listener that counts what it completes."""

        def plain(events: Any) -> None:
            self.gate.wait(PATIENCE)
            if fails and self.failing:
                raise ValueError
            self.delivered[name] = self.delivered.get(name, 0) + (len(events) if isinstance(events, list) else 1)

        async def later(events: Any) -> None:
            plain(events)

        return later if coroutine else plain

    @rule(number=numbers, times=st.integers(1, 40))
    def emit(self, number: int, times: int) -> None:
        """Publish some events."""
        for index in range(times):
            (self.parent, self.child)[number % 2].publish(EVENTS[(number + index) % 3](None, index))

    @rule()
    def fail(self) -> None:
        """Let some listeners fail from now on, or no more."""
        self.failing = not self.failing

    @rule()
    def hold(self) -> None:
        """Keep workers from what they do, so that queues overflow; or let them go on."""
        if self.gate.is_set():
            self.gate.clear()
        else:
            self.gate.set()

    @rule(number=numbers, verb=st.sampled_from(["cancel", "pause", "resume"]))
    def change(self, number: int, verb: str) -> None:
        """Unsubscribe a listener, or let it pause, or go on."""
        if self.subscriptions:
            getattr(self.subscriptions[number % len(self.subscriptions)], verb)()

    @rule(times=st.integers(1, 20))
    def mute(self, times: int) -> None:
        """Publish while nobody is to hear it."""
        with self.parent.muted():
            self.emit(1, times)

    @rule()
    def drain(self) -> None:
        """Wait until all is done: then nothing is pending, unless a listener is broken."""
        self.gate.set()
        drained = self.child.drain(PATIENCE) and self.parent.drain(PATIENCE)
        rows = [row for bus in (self.parent, self.child) for row in bus.statistics()]
        assert drained or any(row.failed for row in rows)
        if drained:
            assert all(row.pending == row.in_flight == 0 for row in rows)
            for name, delivered in self.delivered.items():
                assert delivered == sum(row.delivered for row in rows if row.name == name)

    @rule(number=numbers)
    def close(self, number: int) -> None:
        """Close one of the buses, now and then."""
        if number % 5 == 0:
            (self.parent, self.child)[number % 2].close()

    @invariant()
    def balance(self) -> None:
        """Every account is complete, as soon as nobody is in the midst of something."""
        for bus in (self.parent, self.child):
            assert eventually(lambda bus=bus: all(map(balanced, bus.statistics()))), bus.statistics()  # type: ignore[misc]  # the default is for this loop
            for row in bus.statistics():
                assert row.dropped.keys() <= REASONS
                assert min(row.delivered, row.failed, row.pending, row.in_flight, row.coalesced) >= 0


TestBalance = Balance.TestCase
"""Every account balances at every step."""

TestBalance.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
