"""Retries, backoff and the breaker, on a clock of the test's own: nothing here waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from bus import Backoff, Breaker, Propagate
from bus.options import AsyncOptions
from bus.policy import AbandonedError, Attempt, HungError, Policy, Wait, adrive, drive


class Bench:
    """A policy with a fake clock and a listener that fails as it is told."""

    def __init__(self, options: AsyncOptions | None = None, *, jitter: float = 0.0) -> None:
        self.now = 100.0
        self.policy = Policy(options or AsyncOptions(), clock=lambda: self.now, jitter=lambda: jitter)
        self.did: list[str] = []
        self.errors: Iterator[BaseException | None] = iter(())

    def attempt(self, step: Attempt) -> BaseException | None:
        """Call the listener."""
        self.did.append(f"try {step.number}")
        return next(self.errors, None)

    def wait(self, step: Wait) -> BaseException | None:
        """Let the time pass."""
        self.did.append(f"{'probe' if step.probe else 'wait'} {step.seconds:g}")
        self.now += step.seconds
        return None

    def deliver(self, *errors: BaseException | None) -> BaseException | None:
        """Deliver one event to a listener that raises these, one after the other, and then nothing."""
        self.errors = iter(errors)
        self.did.clear()
        return drive(self.policy.flow(), self.attempt, self.wait)


def failing(times: int) -> list[BaseException]:
    """Return so many errors."""
    return [ValueError(str(number)) for number in range(times)]


def test_success_needs_one_attempt() -> None:
    """Nothing is repeated that went well."""
    bench = Bench()
    assert bench.deliver() is None
    assert bench.did == ["try 0"]


def test_failure_is_repeated_after_growing_waits() -> None:
    """Half a second, one, two and so on up to five; then the event is given up, with the last error."""
    bench = Bench(AsyncOptions(retries=5))
    errors = failing(6)
    assert bench.deliver(*errors) is errors[-1]
    waits = ["wait 0.5", "wait 1", "wait 2", "wait 4", "wait 5"]
    assert bench.did == ["try 0", *(step for number in range(5) for step in (waits[number], f"try {number + 1}"))]


def test_retry_that_succeeds_is_a_delivery() -> None:
    """An event is delivered when one of its attempts was."""
    bench = Bench()
    assert bench.deliver(*failing(2)) is None
    assert bench.did == ["try 0", "wait 0.5", "try 1", "wait 1", "try 2"]


def test_jitter_cuts_a_wait_by_half_at_most() -> None:
    """Listeners of one dead server do not retry in step, and not sooner than half of the wait."""
    bench = Bench(AsyncOptions(retries=1, backoff=Backoff(first=2.0)), jitter=1.0)
    bench.deliver(*failing(1))
    assert bench.did == ["try 0", "wait 1", "try 1"]


class Stop(Propagate):
    """What a listener raises to steer."""


@pytest.mark.parametrize("error", [HungError(), Stop(), KeyboardInterrupt(), AbandonedError("closed")])
def test_what_another_attempt_cannot_mend_is_not_repeated(error: BaseException) -> None:
    """A call that ran to its end late, an order to stop, a listener that is gone."""
    bench = Bench()
    assert bench.deliver(error) is error
    assert bench.did == ["try 0"]


def test_breaker_opens_after_five_failed_events_in_a_row() -> None:
    """Then nothing is tried for 30 seconds; the probe is one attempt; each failed one doubles the time, up to 300."""
    bench = Bench(AsyncOptions(retries=0))
    for _ in range(5):
        assert not bench.policy.broken
        bench.deliver(*failing(1))
    assert bench.policy.broken
    probes = []
    for _ in range(6):
        bench.deliver(*failing(1))
        probes.append(bench.did[0])
        assert bench.did[1:] == ["try 0"]
    assert probes == ["probe 30", "probe 60", "probe 120", "probe 240", "probe 300", "probe 300"]


def test_time_that_has_passed_is_not_waited_for() -> None:
    """The probe is due 30 seconds after the failure, not after the next event."""
    bench = Bench(AsyncOptions(retries=0, breaker=Breaker(after=1)))
    bench.deliver(*failing(1))
    bench.now += 25
    bench.deliver(*failing(1))
    assert bench.did[0] == "probe 5"
    bench.now += 1000
    bench.deliver()
    assert bench.did[0] == "probe 0"


def test_probe_that_succeeds_closes_the_breaker() -> None:
    """All is as at the beginning, retries and the first probe's time included."""
    bench = Bench(AsyncOptions(retries=1, breaker=Breaker(after=1)))
    bench.deliver(*failing(2))
    bench.deliver(*failing(1))
    assert bench.did == ["probe 30", "try 0"]
    assert bench.deliver() is None
    assert not bench.policy.broken
    bench.deliver(*failing(2))
    assert bench.did == ["try 0", "wait 0.5", "try 1"]
    bench.deliver()
    assert bench.did[0] == "probe 30"


def test_success_between_failures_keeps_the_breaker_closed() -> None:
    """Only failures in a row count."""
    bench = Bench(AsyncOptions(retries=0))
    for _ in range(4):
        for _ in range(4):
            bench.deliver(*failing(1))
        bench.deliver()
    assert not bench.policy.broken


def test_without_a_breaker_every_event_is_tried() -> None:
    """None switches it off."""
    bench = Bench(AsyncOptions(retries=0, breaker=None))
    for _ in range(50):
        bench.deliver(*failing(1))
    assert not bench.policy.broken


def refuse(_step: Wait) -> BaseException:
    """Be closed while waiting."""
    return AbandonedError("closed")


@pytest.mark.parametrize("broken", [False, True])
def test_waiting_may_be_given_up(broken: bool) -> None:  # noqa: FBT001  a parameter of the test
    """An event that failed before has failed; one that was never tried is abandoned, which is no failure."""
    bench = Bench(AsyncOptions(retries=1, breaker=Breaker(after=1)))
    if broken:
        bench.deliver(*failing(2))
    error = ValueError("first")
    outcome = drive(bench.policy.flow(), lambda _step: error, refuse)
    assert isinstance(outcome, AbandonedError) if broken else outcome is error


async def test_coroutines_follow_the_same_policy() -> None:
    """The asynchronous driver does, step by step, what the other one does."""
    bench, twin = Bench(), Bench()
    errors = failing(2)
    bench.deliver(*errors)
    twin.errors = iter(errors)

    async def attempt(step: Attempt) -> BaseException | None:
        return twin.attempt(step)

    async def wait(step: Wait) -> BaseException | None:
        return twin.wait(step)

    assert await adrive(twin.policy.flow(), attempt, wait) is None
    assert twin.did == bench.did


def test_steps_are_in_the_order_of_a_listener_that_recovers() -> None:
    """The whole story, as data."""
    bench = Bench(AsyncOptions(retries=1, breaker=Breaker(after=2, probe=10, longest=15)))
    story: list[str] = []
    plans: list[Callable[[], list[BaseException]]] = [lambda: failing(2)] * 2 + [lambda: failing(1)] * 2 + [list]
    for plan in plans:
        bench.deliver(*plan())
        story += bench.did
    assert story == [
        *("try 0", "wait 0.5", "try 1"),
        *("try 0", "wait 0.5", "try 1"),
        *("probe 10", "try 0"),
        *("probe 15", "try 0"),
        *("probe 15", "try 0"),
    ]
