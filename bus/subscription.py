"""A subscription: who listens to one event type, how, and the handle that ends it."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar

from .errors import SubscriptionError
from .event import Event
from .statistics import State

E = TypeVar("E", bound=Event)
OnError = Literal["isolate", "raise"]

FIRST = float("-inf")
"""The priority of a recorder that must see an event before any listener can fail."""

LAST = float("inf")
"""The priority of a recorder that must see an event as its listeners left it."""

_order = itertools.count()


def next_rank(priority: float) -> tuple[float, int]:
    """Return the place in line of a listener that comes now: by priority, then first come first served."""
    return priority, next(_order)


class Subscription(Generic[E]):
    """One listener of one event type; `cancel()` ends it, and so does leaving it as a context manager.

    Made by `EventBus.subscribe`, whose docstring describes the options.
    """

    def __init__(
        self,
        event_type: type[E],
        fn: Callable[[E], object],
        *,
        changed: Callable[[Subscription[E]], None],
        priority: float = 50,
        every: int = 1,
        on_error: OnError = "isolate",
        name: str | None = None,
        owner: object | None = None,
    ) -> None:
        _check(fn, priority=priority, every=every, on_error=on_error)
        self.event_type = event_type
        self.fn = fn
        self.priority = priority
        self.every = every
        self.on_error = on_error
        self.name = name or name_of(fn)
        self.owner = owner
        self.state: State = "active"
        self.rank = next_rank(priority)
        self._changed = changed

    def cancel(self) -> None:
        """End the subscription, at once, also in the middle of a dispatch; again is no error."""
        self._become("cancelled")

    def pause(self) -> None:
        """Stop delivering to it until `resume`; what is published meanwhile is not kept."""
        self._become("paused")

    def resume(self) -> None:
        """Deliver again, from the next event on."""
        self._become("active")

    def gate(self) -> Callable[[E], bool] | None:
        """Return the filter that lets every `every`-th event through; None where all pass."""
        if self.every == 1:
            return None
        turn = itertools.cycle([False] * (self.every - 1) + [True])
        return lambda _event: next(turn)

    def _become(self, state: State) -> None:
        if self.state not in (state, "cancelled"):
            self.state = state
            self._changed(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.cancel()

    def __call__(self, _sender: object, *, event: E) -> object:
        """Serve as a blinker receiver, as which the subscription table holds it."""
        return self.fn(event)

    def __repr__(self) -> str:
        return f"<Subscription of {self.name} to {self.event_type.name}, priority {self.priority:g}, {self.state}>"


def name_of(fn: Callable[..., Any]) -> str:
    """Return a listener's name for people: `module:qualname`, or its type's where it has none of its own."""
    named: Any = inspect.unwrap(fn)
    if not hasattr(named, "__qualname__"):
        named = type(named)
    return f"{named.__module__}:{named.__qualname__}"


def is_async(fn: Callable[..., Any]) -> bool:
    """Whether calling `fn` gives a coroutine: also for an object with `async def __call__`, and a partial of either."""
    while hasattr(fn, "func") and callable(fn.func):  # functools.partial, and what imitates it
        fn = fn.func
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004


def _check(fn: object, *, priority: object, every: object, on_error: object) -> None:
    if not callable(fn):
        raise SubscriptionError(f"a listener must be callable, got {fn!r}")
    if is_async(fn):
        raise SubscriptionError(
            f"{name_of(fn)} is a coroutine function; this version calls listeners in step: write a plain function"
        )
    if isinstance(priority, bool) or not isinstance(priority, int | float) or priority != priority:  # noqa: PLR0124  NaN
        raise SubscriptionError(f"priority must be a number (lower runs first), got {priority!r}")
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise SubscriptionError(f"every must be a whole number of at least 1, got {every!r}")
    if on_error not in ("isolate", "raise"):
        raise SubscriptionError(f"on_error must be 'isolate' or 'raise', got {on_error!r}")
