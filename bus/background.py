"""The event loop on which coroutine functions are served: one for the process, in a daemon thread.

Nothing that publishes waits for it. In a forked child the inherited loop is left alone, down to its finalizer, since
it shares the selector and the wake-up pipe of the parent's.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from time import perf_counter
from typing import Any

import anyio
from anyio import lowlevel

from .mailbox import Mailbox
from .policy import AbandonedError, Attempt, Wait, adrive
from .route import Entry
from .waking import Wake, waker
from .watchdog import Watch
from .worker import Worker, here

Task = Callable[[], Coroutine[Any, Any, None]]


class LoopBell:
    """Wakes a coroutine, on the event loop where it was armed; until then it need not be woken."""

    def __init__(self) -> None:
        self._event: anyio.Event
        self._wake: Wake | None = None

    def arm(self) -> None:
        """From now on it can be rung; to be called by the coroutine, before it looks whether it has to wait."""
        self._event = anyio.Event()
        self._wake = waker()

    def ring(self) -> None:
        """Wake the coroutine, or let its next wait end at once."""
        self.call(self._set)

    def call(self, function: Callable[[], object]) -> None:
        """Call a function on its event loop, soon."""
        if self._wake is not None:
            self._wake(function)

    async def wait(self, seconds: float | None) -> None:
        """Wait until it rings, so many seconds at most, and arm it anew."""
        with anyio.move_on_after(seconds):
            await self._event.wait()
        self.arm()

    def _set(self) -> None:
        self._event.set()


class LoopWorker(Worker):
    """Serves a coroutine function, in a task on the loop in the background."""

    def __init__(self, box: Mailbox, bell: LoopBell) -> None:
        super().__init__(box, coroutine=True)
        self._bell = bell
        self._scope: anyio.CancelScope | None = None

    def start(self) -> None:
        """Begin to serve; raises RuntimeError where the loop cannot be started."""
        self.watch.enroll()
        loop_in_background().spawn(self._run)

    def cancel(self) -> None:
        """Cancel the call that is under way."""
        self._bell.call(self._cancel)

    def _cancel(self) -> None:
        if self._scope is not None:
            self._scope.cancel()

    async def _run(self) -> None:
        self._bell.arm()
        while not self.box.finished:
            if await self._serve(self.box.take()):
                await lowlevel.checkpoint()  # a listener that never waits must not keep the others from theirs
            else:
                await self._bell.wait(self.box.gathers_for())
        self.box.take()  # which drops what is left, since it is for nobody any more

    async def _serve(self, entries: list[Entry]) -> bool:
        """Deliver what was taken, if that is anything."""
        if entries:
            error = await adrive(self.policy.flow(), lambda step: self._attempt(step, entries), self._wait)
            self.conclude(entries, error)
        return bool(entries)

    async def _attempt(self, step: Attempt, entries: list[Entry]) -> BaseException | None:
        refused = self.begin(step, entries)
        if refused is not None:
            return refused
        timeout = self.box.options.timeout
        scope = self._scope = anyio.move_on_after(timeout)
        try:
            with scope:
                await _Watched(self.call(entries), self.watch)
        except BaseException as error:  # nobody cancels this task: also a cancellation is the listener's own
            return self.end(entries, error)
        finally:
            self._scope = None
        if not scope.cancelled_caught:
            return self.end(entries, None)
        if self.box.closed:
            return self.end(entries, AbandonedError("closed"))
        return self.end(entries, TimeoutError(f"it was cancelled after {timeout:g} s"))

    async def _wait(self, step: Wait) -> BaseException | None:
        until = perf_counter() + step.seconds
        while (left := self.box.rests_for(until, probe=step.probe)) > 0:
            await self._bell.wait(left)
        return self.gone()


class _Watched:
    """Awaits something so that the watchdog sees when each of its steps began."""

    def __init__(self, awaitable: Awaitable[Any], watch: Watch) -> None:
        self._steps: Any = awaitable.__await__()
        self._watch = watch

    def __await__(self) -> Generator[Any, Any, Any]:
        resume, answer = self._steps.send, None
        while True:
            self._watch.stepping = perf_counter()
            try:
                asked = resume(answer)
            except StopIteration as stop:
                return stop.value
            finally:
                self._watch.stepping = None
            try:
                resume, answer = self._steps.send, (yield asked)
            except BaseException as error:
                resume, answer = self._steps.throw, error


class _Background:
    """The loop, its thread, and the group of its tasks."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._bell = LoopBell()
        self._tasks: deque[Task] = deque()  # to be begun
        threading.Thread(target=anyio.run, args=(self._main,), name="bus: event loop", daemon=True).start()
        self._ready.wait()

    def spawn(self, task: Task) -> None:
        """Run a task on the loop."""
        self._tasks.append(task)
        self._bell.ring()

    async def _main(self) -> None:
        here.serving = True
        self._bell.arm()
        self._ready.set()
        async with anyio.create_task_group() as group:
            while True:
                while self._tasks:
                    group.start_soon(self._tasks.popleft())
                await self._bell.wait(None)


_background: _Background | None = None
_mutex = threading.RLock()
_inherited: list[_Background | None] = []


def loop_in_background() -> _Background:
    """Return the loop of this process, which is started by the first who asks."""
    global _background  # noqa: PLW0603  there is one in a process
    with _mutex:
        if _background is None:
            _background = _Background()
        return _background


def _forget() -> None:
    """Begin anew in a forked child, and keep what was inherited from being finalized."""
    global _background, _mutex
    _inherited.append(_background)
    _background, _mutex = None, threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


async def until(condition: Callable[[], bool], seconds: float | None) -> bool:
    """Wait until a condition holds, so many seconds at most, and return whether it does."""
    with anyio.move_on_after(seconds):
        pause = 0.001
        while not condition():
            await anyio.sleep(pause)
            pause = min(0.02, 2 * pause)
    return condition()
