"""Which listeners share a worker, and how they end: with their bus, in a fork, in a pickle, at exit."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from bus import ClosedError, EventBus, SubscriptionError
from tests.bus.events import PATIENCE, Knock, Ring, Tick, account, balanced, eventually

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


class Owner:
    """A listener with several methods."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, int]] = []

    def knock(self, event: Knock) -> None:
        """Listen."""
        self.seen.append(("knock", event.number, threading.get_ident()))

    def ring(self, event: Ring) -> None:
        """Listen."""
        self.seen.append(("ring", event.number, threading.get_ident()))

    async def later(self, _event: Ring) -> None:
        """Listen, as a coroutine function."""


# Who shares


def test_one_owner_is_one_worker() -> None:
    """All that it has subscribed on a bus comes in one order, on one thread."""
    owner = Owner()
    with EventBus() as bus:
        bus.subscribe(Knock, owner.knock, dispatch="async", owner=owner)
        bus.subscribe(Ring, owner.ring, dispatch="async", owner=owner)
        for number in range(50):
            bus.publish(Knock(None, number))
            bus.publish(Ring(None, number))
        assert bus.drain(PATIENCE)
    assert [entry[:2] for entry in owner.seen] == [(name, n) for n in range(50) for name in ("knock", "ring")]
    assert len({entry[2] for entry in owner.seen}) == 1


def test_without_an_owner_each_subscription_has_a_worker() -> None:
    """One that waits does not keep the other from its events."""
    owner, free = Owner(), threading.Event()
    with EventBus() as bus:
        bus.subscribe(Knock, lambda _event: free.wait(PATIENCE), dispatch="async")
        bus.subscribe(Knock, owner.knock, dispatch="async")
        bus.publish(Knock(None))
        assert eventually(lambda: owner.seen)
        free.set()


def test_owner_is_of_one_kind() -> None:
    """A worker is a thread or a coroutine, and has one queue."""
    owner = Owner()
    with EventBus() as bus:
        bus.subscribe(Knock, owner.knock, dispatch="async", owner=owner)
        with pytest.raises(SubscriptionError, match="write all of its asynchronous functions as `async def` or none"):
            bus.subscribe(Ring, owner.later, owner=owner)
        with pytest.raises(SubscriptionError, match=r"one listener, which has one queue: expected .*1024.*got .*5"):
            bus.subscribe(Ring, owner.ring, dispatch="async", owner=owner, queue_size=5)
        bus.subscribe(Ring, owner.ring, owner=owner)  # in step is another matter
        assert len(bus.subscriptions()) == 2


def test_events_come_before_the_hooks_and_additive_ones_after() -> None:
    """A hook that fails or blocks has not kept the event; what hooks add is in the copy."""

    class Added(Knock, frozen=True):
        additive = ("metrics",)
        metrics: dict[str, float] = {}  # noqa: RUF012  msgspec copies it

    bus, seen = EventBus(), list[dict[str, float]]()
    early = bus.subscribe(Knock, print, dispatch="async", priority=99)
    hook = bus.subscribe(Added, lambda event: event.metrics.update(added=1.0))
    late = bus.subscribe(Added, lambda event: seen.append(event.metrics), dispatch="async")
    recorder = bus.subscribe(Knock, lambda _event: None, priority=float("-inf"))
    assert [entry for entry in bus.subscriptions() if entry in (early, recorder)] == [recorder, early]
    assert bus.subscriptions().index(hook) < bus.subscriptions().index(late)
    metrics = {"loss": 2.0}
    bus.publish(Added(None, 1, metrics))
    metrics["later"] = 3.0
    assert bus.drain(PATIENCE)
    assert seen == [{"loss": 2.0, "added": 1.0}]
    bus.close()


# States


def test_paused_and_muted_as_in_step() -> None:
    """What is published meanwhile is neither kept nor counted; pausing also drops what is pending, muting does not."""
    seen, gate = list[int](), threading.Event()

    def listen(event: Tick) -> None:
        gate.wait(PATIENCE)
        seen.append(event.number)

    with EventBus() as bus:
        subscription = bus.subscribe(Tick, listen, dispatch="async", name="listener")
        bus.publish(Tick(None, 1))
        assert eventually(lambda: account(bus, "listener").in_flight)
        bus.publish(Tick(None, 2))
        subscription.pause()
        bus.publish(Tick(None, 3))
        assert account(bus, "listener").state == "paused"
        subscription.resume()
        bus.publish(Tick(None, 4))
        with bus.muted():
            bus.publish(Tick(None, 5))
        gate.set()
        assert bus.drain(PATIENCE)
        row = account(bus, "listener")
    assert seen == [1, 4]
    assert (row.emitted, row.delivered, row.dropped) == (3, 2, {"paused": 1})


def test_every_thins_at_the_source() -> None:
    """Only each third event is posted, and accounted for."""
    seen = list[int]()
    with EventBus() as bus:
        bus.subscribe(Tick, lambda event: seen.append(event.number), dispatch="async", every=3, name="third")
        for number in range(1, 11):
            bus.publish(Tick(None, number))
        assert bus.drain(PATIENCE)
        row = account(bus, "third")
    assert seen == [3, 6, 9]
    assert (row.emitted, row.delivered) == (3, 3)


def test_one_name_in_two_lanes_is_two_rows() -> None:
    """Their accounts are kept in different ways."""
    with EventBus() as bus:
        bus.subscribe(Knock, lambda _event: None, name="both")
        bus.subscribe(Knock, lambda _event: None, name="both", dispatch="async")
        bus.publish(Knock(None))
        assert bus.drain(PATIENCE)
        assert {(row.name, row.lane, row.delivered) for row in bus.statistics()} == {
            ("both", "sync", 1),
            ("both", "async", 1),
        }


def test_parents_listener_serves_all_children() -> None:
    """One worker; each bus has its own account, and waits for it."""
    parent, seen = EventBus(), list[int]()
    parent.subscribe(Knock, lambda event: seen.append(event.number), dispatch="async", name="common")
    children = EventBus(parent), EventBus(parent)
    for number, child in enumerate(children):
        child.publish(Knock(None, number))
        assert child.drain(PATIENCE)
        assert account(child, "common").delivered == 1
    assert seen == [0, 1]
    assert account(parent, "common").emitted == 0 if parent.channel(Knock).count else True
    parent.close()


# Waiting, and ending


def test_draining_has_a_deadline() -> None:
    """It returns False when that has passed, True when all is delivered, also when there is nothing."""
    free = threading.Event()
    with EventBus() as bus:
        assert bus.drain(None)
        bus.subscribe(Knock, lambda _event: free.wait(PATIENCE), dispatch="async")
        bus.publish(Knock(None))
        assert not bus.drain(0.01)
        assert not bus.drain(0)
        free.set()
        assert bus.drain(None)


def test_closing_does_not_wait_for_a_hung_listener() -> None:
    """What is pending is dropped; its last call is accounted for when it returns."""
    free = threading.Event()
    bus = EventBus()
    bus.subscribe(Knock, lambda _event: free.wait(PATIENCE), dispatch="async", name="hung", timeout=0.01)
    for number in range(3):
        bus.publish(Knock(None, number))
    assert eventually(lambda: account(bus, "hung").state == "hung")
    bus.close()
    row = account(bus, "hung")
    assert (row.in_flight, row.dropped, row.state) == (1, {"closed": 2}, "cancelled")
    assert balanced(row)
    free.set()
    assert eventually(lambda: account(bus, "hung").failed == 1)
    assert balanced(account(bus, "hung"))
    with pytest.raises(ClosedError):
        bus.subscribe(Knock, print, dispatch="async")


def test_worker_ends_with_its_last_subscription() -> None:
    """A listener that is gone leaves no thread."""
    bus = EventBus()
    first = bus.subscribe(Knock, lambda _event: None, dispatch="async", owner=bus, name="threaded")
    second = bus.subscribe(Ring, lambda _event: None, dispatch="async", owner=bus)

    def alive() -> bool:
        return "bus: threaded" in [thread.name for thread in threading.enumerate()]

    first.cancel()
    assert alive()
    second.cancel()
    assert eventually(lambda: not alive())


@pytest.mark.parametrize("coroutine", [False, True])
def test_forgotten_bus_is_freed_when_its_listeners_are_done(coroutine: bool) -> None:  # noqa: FBT001  a parameter of the test
    """Nobody has to close it: what was published is delivered, then it goes, with its worker."""
    seen = list[int]()

    def plain(event: Knock) -> None:
        seen.append(event.number)

    async def later(event: Knock) -> None:
        seen.append(event.number)

    bus = EventBus()
    bus.subscribe(Knock, later if coroutine else plain, dispatch="async", name="left alone")
    alive = weakref.ref(bus)
    bus.publish(Knock(None, 1))
    del bus

    def gone() -> bool:
        gc.collect()
        return alive() is None and "bus: left alone" not in [thread.name for thread in threading.enumerate()]

    assert eventually(gone)
    assert seen == [1]


# Forks, pickles and exits


def in_a_child(check: Callable[[], bool]) -> int:
    """Fork, and return the exit code of the child: 0 where the check holds there."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(PATIENCE)
            code = 0 if check() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@needs_fork
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_child_has_no_asynchronous_lane() -> None:
    """It publishes, collects, looks, waits and closes without touching what it inherited; the parent goes on."""
    seen = list[int]()

    def plain(event: Knock) -> None:
        seen.append(event.number)

    async def later(event: Knock) -> None:
        seen.append(-event.number)

    bus = EventBus()
    bus.subscribe(Knock, plain, dispatch="async", name="plain")
    bus.subscribe(Knock, later, name="later")
    stream = bus.stream(Knock)
    bus.publish(Knock(None, 1))
    assert bus.drain(PATIENCE)

    def check() -> bool:
        gc.collect()
        bus.publish(Knock(None, 2))
        started = threading.active_count()
        bus.subscribe(Knock, later)
        bus.subscribe(Knock, plain, dispatch="async", name="inert")
        bus.publish(Knock(None, 3))
        drained = bus.drain(1.0)
        rows = bus.statistics()
        bus.close()
        gc.collect()
        return drained and seen == [1, -1] and all(map(balanced, rows)) and threading.active_count() == started == 1

    seen.sort(reverse=True)
    assert in_a_child(check) == 0
    bus.publish(Knock(None, 4))
    assert bus.drain(PATIENCE)
    assert sorted(seen) == [-4, -1, 1, 4]
    del stream
    bus.close()


@needs_fork
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_fork_while_locks_are_held_leaves_the_child_free() -> None:
    """Whatever another thread was doing at that moment, the child can publish, look and end."""
    with EventBus() as bus:
        subscription = bus.subscribe(Tick, lambda _event: None, dispatch="async", name="locked")
        assert subscription.mailbox is not None
        held, free = threading.Event(), threading.Event()
        box = subscription.mailbox

        def hold() -> None:
            with box.holding():
                held.set()
                free.wait(PATIENCE)

        thread = threading.Thread(target=hold)
        thread.start()
        assert held.wait(PATIENCE)

        def check() -> bool:
            bus.publish(Tick(None))
            bus.statistics()
            subscription.cancel()
            bus.close()
            return True

        assert in_a_child(check) == 0
        free.set()
        thread.join(PATIENCE)


@needs_fork
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_child_may_have_buses_of_its_own() -> None:
    """What is made there is served there: with a thread, a loop and a watchdog of the child's."""
    with EventBus() as before:
        before.subscribe(Knock, lambda _event: None, dispatch="async")

        def check() -> bool:
            bus, seen = EventBus(), list[int]()

            @bus.on(Knock)
            async def later(event: Knock) -> None:
                seen.append(event.number)

            bus.subscribe(Knock, lambda event: seen.append(event.number), dispatch="async")
            bus.publish(Knock(None, 5))
            return bus.drain(PATIENCE) and seen == [5, 5]

        assert in_a_child(check) == 0


def test_pickled_bus_is_an_inert_handle() -> None:
    """In another process nothing is delivered on it, whoever subscribes, and no thread is started for it."""
    with EventBus() as bus:
        bus.subscribe(Knock, lambda _event: None, dispatch="async")
        handle: EventBus = pickle.loads(pickle.dumps(bus))
        before = threading.active_count()
        seen = list[Knock]()
        handle.subscribe(Knock, seen.append)
        handle.subscribe(Knock, seen.append, dispatch="async")
        handle.publish(Knock(None))
        assert handle.drain(1.0)
        assert (seen, handle.channel(Knock).active) == ([], False)
        assert threading.active_count() == before
        handle.close()


PRELUDE = """
import asyncio, atexit, signal, sys, threading, time
from bus import EventBus
from tests.bus.events import Knock, Tick, account, balanced
bus = EventBus()
"""


def run(script: str, *, sent: signal.Signals | None = None, patience: float = 10.0) -> tuple[int, str, str]:
    """Run a script in a new interpreter, signal it once it has printed a line, and return how it ended."""
    process = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    assert process.stderr is not None
    ready = process.stdout.readline()
    begin = time.monotonic()
    if sent is not None:
        process.send_signal(sent)
    with process:
        out, err = process.stdout.read(), process.stderr.read()
    assert time.monotonic() - begin < patience
    return process.returncode, ready + out, err


def test_process_ends_although_a_listener_hangs() -> None:
    """The others have got everything by then; the interpreter waits for two seconds, and not for ever."""
    code, out, err = run(
        """
        bus.subscribe(Knock, lambda event: threading.Event().wait(), dispatch="async", timeout=0.1)
        bus.subscribe(Knock, lambda event: print(event.number, flush=True), dispatch="async")
        for number in range(3):
            bus.publish(Knock(None, number))
        """
    )
    assert (code, out.split()) == (0, ["0", "1", "2"])
    assert "Traceback" not in err


def test_what_is_pending_is_delivered_at_the_end_of_the_process() -> None:
    """Without anybody's `close`, by coroutines and plain functions, in batches too, and without a word."""
    code, out, err = run(
        """
        async def later(event):
            await asyncio.sleep(0.01)
            print("later", event.number, flush=True)

        bus.subscribe(Knock, later)
        bus.subscribe(Knock, lambda batch: print("batch", len(batch), flush=True), dispatch="async", batch=9, linger=60)
        print("ready", flush=True)
        for number in range(3):
            bus.publish(Knock(None, number))
        """
    )
    assert (code, err) == (0, "")
    assert sorted(out.splitlines()) == ["batch 3", "later 0", "later 1", "later 2", "ready"]


def test_signal_with_a_full_queue() -> None:
    """A handler drains for as long as it likes, publishes and closes; every event is accounted for."""
    code, out, err = run(
        """
        def leave(*_):
            bus.publish(Tick(None, -1))
            assert not bus.drain(0.2)
            bus.close()
            row = account(bus, "slow")
            print(row.emitted, sum(row.dropped.values()) > 900, balanced(row), flush=True)
            sys.exit(3)

        signal.signal(signal.SIGTERM, leave)
        bus.subscribe(Tick, lambda event: time.sleep(0.05), dispatch="async", name="slow", queue_size=100)
        for number in range(1000):
            bus.publish(Tick(None, number))
        print("full", flush=True)
        while True:
            time.sleep(0.01)
        """,
        sent=signal.SIGTERM,
    )
    assert (code, out.splitlines(), err) == (3, ["full", "1001 True True"], "")


def test_second_signal_cuts_the_drain_short() -> None:
    """Draining can be interrupted: it waits in short steps, and an exit goes right through it."""
    code, out, err = run(
        """
        def leave(*_):
            sys.exit(5)

        signal.signal(signal.SIGTERM, leave)
        bus.subscribe(Tick, lambda event: time.sleep(1000), dispatch="async", timeout=None)
        bus.publish(Tick(None))
        print("draining", flush=True)
        bus.drain(None)
        """,
        sent=signal.SIGTERM,
    )
    assert (code, out.split(), err) == (5, ["draining"], "")
