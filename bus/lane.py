"""The asynchronous listeners of one bus: which of them share a worker, how they are waited for, and how they end."""

from __future__ import annotations

import atexit
import math
import os
import time
from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakSet

from .background import LoopBell, LoopWorker
from .errors import SubscriptionError
from .mailbox import Mailbox
from .options import AsyncOptions
from .subscription import Subscription
from .worker import ThreadBell, ThreadWorker, Worker, here

Timeout = float | Callable[[], float] | None
"""So many seconds, or what tells how many are left by now; None: as long as it takes."""

EXIT_DEADLINE = 2.0  # seconds that listeners have, when the interpreter exits, for what is pending

_everywhere: WeakSet[Mailbox] = WeakSet()  # those of all buses, which nobody may have closed at the end
_inherited: list[list[Mailbox]] = []


class Seat:
    """One listener: its mailbox and worker, and the subscriptions that share them."""

    def __init__(self, first: Subscription[Any], box: Mailbox, worker: Worker | None) -> None:
        self.coroutine = first.coroutine
        self.subscriptions = [first]
        self.box = box
        self.worker = worker
        """None for a stream, from which its consumer takes."""
        self.started = False

    def join(self, other: Subscription[Any]) -> None:
        """Let another subscription share; raises `SubscriptionError` where it cannot be served in the same way."""
        if other.coroutine != self.coroutine:
            raise SubscriptionError(
                f"{other.name} and {self.subscriptions[0].name} are one listener with one worker: write all of its "
                "asynchronous functions as `async def` or none, got both"
            )
        if other.options != self.box.options:
            raise SubscriptionError(
                f"{other.name} and {self.subscriptions[0].name} are one listener, which has one queue: expected "
                f"{self.box.options}, got {other.options}"
            )
        self.subscriptions.append(other)

    def start(self) -> None:
        """Begin to serve, once."""
        if self.worker is not None and not self.started and not self.box.inert:
            self.worker.start()
            self.started = True


class AsyncLane:
    """The asynchronous listeners of one bus. `admit` and `leave` are called under the lock of the subscriptions."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        """The process whose listeners they are: in one that is forked from it, nobody serves them."""
        self.boxes: list[Mailbox] = []
        """What there is to wait for. Nothing in here keeps the bus."""
        self._seats: dict[int, Seat] = {}

    def admit(self, subscription: Subscription[Any], options: AsyncOptions) -> Seat:
        """Give a subscription its mailbox, that of its owner where it has one; raises `SubscriptionError`."""
        key = _key(subscription)
        seat = self._seats.get(key)
        if seat is not None:
            seat.join(subscription)
        else:
            seat = self._seats[key] = _seat(subscription, options, self.pid)
            self.boxes[:] = [*(box for box in self.boxes if not box.spent), seat.box]
            _everywhere.add(seat.box)
        subscription.mailbox = seat.box
        return seat

    def feed(self, subscription: Subscription[Any], box: Mailbox) -> None:
        """Let a subscription fill the buffer of a stream, which owns it."""
        seat = self._seats.setdefault(_key(subscription), Seat(subscription, box, None))
        if subscription not in seat.subscriptions:
            seat.subscriptions.append(subscription)
        subscription.mailbox = box

    def leave(self, subscription: Subscription[Any]) -> None:
        """Forget a subscription that was cancelled, and with the last one its worker."""
        seat = self._seats.get(_key(subscription))
        if seat is not None and subscription in seat.subscriptions:
            seat.subscriptions.remove(subscription)
            if not seat.subscriptions:
                del self._seats[_key(subscription)]
                seat.box.retire()

    def close(self) -> None:
        """Drop what is pending and interrupt what is under way; never waits."""
        for seat in list(self._seats.values()):
            if seat.worker is not None:
                seat.box.close()
                if seat.started and not seat.box.inert:
                    seat.worker.cancel()


def _seat(first: Subscription[Any], options: AsyncOptions, pid: int) -> Seat:
    if first.coroutine:
        bell = LoopBell()
        box = Mailbox(options, bell, pid=pid)
        return Seat(first, box, LoopWorker(box, bell))
    knock = ThreadBell()
    box = Mailbox(options, knock, pid=pid)
    return Seat(first, box, ThreadWorker(box, knock, first.name))


def retire(boxes: Iterable[Mailbox]) -> None:
    """Let the workers of a forgotten bus end."""
    for box in boxes:
        box.retire()


def hurry(boxes: Iterable[Mailbox]) -> list[Mailbox]:
    """Ask for what is pending to be delivered now, and return those from which that can be expected."""
    living = [box for box in boxes if not box.inert]
    for box in living:
        box.hurry()
    return living


def drain(boxes: Iterable[Mailbox], timeout: Timeout) -> bool:
    """Wait until everything was delivered, so many seconds at most, and return whether it was."""
    living = hurry(boxes)
    left = _countdown(timeout)
    pause = 0.0005
    while not all(box.settled for box in living):
        if left() <= 0:
            break
        time.sleep(pause)
        pause = min(0.02, 2 * pause)
    return not any(box.unfinished for box in living)


def _countdown(timeout: Timeout) -> Callable[[], float]:
    if callable(timeout):
        return timeout
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    return lambda: deadline - time.monotonic()


def serving() -> bool:
    """Whether this thread serves asynchronous listeners."""
    return getattr(here, "serving", False)


def _key(subscription: Subscription[Any]) -> int:
    return id(subscription if subscription.owner is None else subscription.owner)


def _forget() -> None:
    """Keep what a forked child inherited from being finalized there."""
    _inherited.append(list(_everywhere))


@atexit.register
def _leave() -> None:
    drain(_everywhere, EXIT_DEADLINE)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
