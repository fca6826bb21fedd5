"""What to do with an event that a listener fails on: try again, wait, give up, leave the listener alone for a while.

The policy is one generator that asks for what it needs done and is told what came of it; `drive` does so in a thread,
`adrive` in a coroutine, a test with a clock of its own. It is the same policy in all three.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Generator
from typing import NamedTuple

from .errors import Propagate
from .options import AsyncOptions


class Attempt(NamedTuple):
    """Asks to call the listener, for the first time if `number` is 0; the answer is what it raised, or None."""

    number: int


class Wait(NamedTuple):
    """Asks to wait so many seconds; the answer is None, or why there is no point in going on.

    Waiting for a `probe` may be cut short by whoever cannot wait that long.
    """

    seconds: float
    probe: bool


Step = Attempt | Wait
Flow = Generator[Step, BaseException | None, BaseException | None]
"""Returns the error with which an event was given up; None if it was delivered."""


class AbandonedError(Exception):
    """The listener was taken away before the event was delivered to it: that is no failure of the listener."""


class HungError(TimeoutError):
    """A call returned that had been given up as hung: it has run, and is not repeated."""


class Policy:
    """The retries and the breaker of one listener; `clock` and `jitter` (a number from 0 to 1) are for tests."""

    def __init__(
        self,
        options: AsyncOptions,
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._options = options
        self._clock = clock
        self._jitter = jitter
        self._failures = 0  # events in a row
        self._probe_at: float | None = None
        self._delay = 0.0

    @property
    def broken(self) -> bool:
        """Whether the breaker is open: nothing is delivered until a probe succeeds."""
        return self._probe_at is not None

    def flow(self) -> Flow:
        """Deliver one event."""
        if self._probe_at is not None:
            refused = yield Wait(max(0.0, self._probe_at - self._clock()), probe=True)
            if refused is not None:
                return refused
        error = yield Attempt(0)
        retries = 0 if self.broken else self._options.retries
        for number in range(1, retries + 1):
            if not _worth_repeating(error):
                break
            if (yield Wait(self._backoff(number), probe=False)) is not None:
                return error
            error = yield Attempt(number)
        if error is None:
            self._failures, self._probe_at = 0, None
        elif not isinstance(error, AbandonedError):
            self._failed()
        return error

    def _failed(self) -> None:
        self._failures += 1
        breaker = self._options.breaker
        if breaker is not None and self._failures >= breaker.after:
            self._delay = min(breaker.longest, 2 * self._delay if self.broken else breaker.probe)
            self._probe_at = self._clock() + self._delay

    def _backoff(self, number: int) -> float:
        backoff = self._options.backoff
        return min(backoff.longest, backoff.first * 2.0 ** (number - 1)) * (1 - self._jitter() / 2)


def drive(
    flow: Flow, attempt: Callable[[Attempt], BaseException | None], wait: Callable[[Wait], BaseException | None]
) -> BaseException | None:
    """Deliver an event in this thread, and return the error with which it was given up."""
    answer: BaseException | None = None
    while True:
        try:
            step = flow.send(answer)
        except StopIteration as stop:
            error: BaseException | None = stop.value
            return error
        answer = attempt(step) if isinstance(step, Attempt) else wait(step)


async def adrive(
    flow: Flow,
    attempt: Callable[[Attempt], Awaitable[BaseException | None]],
    wait: Callable[[Wait], Awaitable[BaseException | None]],
) -> BaseException | None:
    """Deliver an event in this coroutine, and return the error with which it was given up."""
    answer: BaseException | None = None
    while True:
        try:
            step = flow.send(answer)
        except StopIteration as stop:
            error: BaseException | None = stop.value
            return error
        answer = await (attempt(step) if isinstance(step, Attempt) else wait(step))


def _worth_repeating(error: BaseException | None) -> bool:
    """Whether another attempt could help: not after success, an order to stop, or a call that ran to its end late."""
    return isinstance(error, Exception) and not isinstance(error, AbandonedError | HungError | Propagate)
