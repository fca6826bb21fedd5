"""A subscription: who listens to one event type, how, and the handle that ends it."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable
from time import perf_counter
from types import CodeType, TracebackType
from typing import Any, Generic, Literal, Self, TypeVar

from .errors import SubscriptionError
from .event import Event
from .mailbox import Mailbox
from .options import Dispatch, options_for
from .route import Report, Route
from .statistics import AsyncTally, Lane, State, Tally

E = TypeVar("E", bound=Event)
OnError = Literal["isolate", "raise"]

FIRST = float("-inf")
"""The priority of a recorder that must see an event before any listener can fail."""

LAST = float("inf")
"""The priority of a recorder that must see an event as its listeners left it."""

_order = itertools.count()


Rank = tuple[float, bool, int]


def next_rank(priority: float, lane: Lane = "sync") -> Rank:
    """Return the place in line of a listener that comes now: by priority, then first come first served.

    Of those with one priority the listeners in step come first: a recorder numbers an event before it is posted.
    """
    return priority, lane == "async", next(_order)


class Subscription(Generic[E]):
    """One listener of one event type; `cancel()` ends it, and so does leaving it as a context manager.

    Made by `EventBus.subscribe`, whose docstring describes the options.
    """

    def __init__(
        self,
        event_type: type[E],
        fn: Callable[[Any], object],
        *,
        set_state: Callable[[Subscription[E], State], None],
        priority: float = 50,
        every: int = 1,
        on_error: OnError = "isolate",
        name: str | None = None,
        owner: object | None = None,
        dispatch: Dispatch | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        _check(fn, priority=priority, every=every, on_error=on_error)
        self.coroutine = is_async(fn)
        self.options = options_for(dispatch, coroutine=self.coroutine, settings=settings or {}, name=name_of(fn))
        """How it is served in the async lane; None in step."""
        self.lane: Lane = "sync" if self.options is None else "async"
        if self.lane == "async":
            if on_error == "raise":
                raise SubscriptionError(
                    f"{name_of(fn)} is called after the event was published: expected on_error='isolate', got 'raise'"
                )
            priority = LAST if event_type.additive else FIRST
        self.event_type = event_type
        self.fn = fn
        self.priority = priority
        self.every = every
        self.on_error = on_error
        self.name = name or name_of(fn)
        self.owner = owner
        self.state: State = "active"
        self.rank = next_rank(priority, self.lane)
        self.code = code_of(fn)
        self.mailbox: Mailbox | None = None
        """Where its events go in the async lane; given by the bus."""
        self.paused_at = 0.0
        """When it was last paused (`perf_counter`): what was pending then is not delivered."""
        self._set_state = set_state

    def cancel(self) -> None:
        """End the subscription, at once, also in the middle of a dispatch; again is no error."""
        self._set_state(self, "cancelled")

    def pause(self) -> None:
        """Stop delivering to it until `resume`; what is published meanwhile, or was still pending, is not kept."""
        self._set_state(self, "paused")
        self.paused_at = perf_counter()

    def resume(self) -> None:
        """Deliver again, from the next event on."""
        self._set_state(self, "active")

    def gate(self) -> None:
        """Return no filter: whatever is published is for it."""

    def tally(self) -> Tally:
        """Return an empty account for it."""
        return Tally() if self.mailbox is None else AsyncTally()

    def inlet(self, tally: Tally, report: Report) -> Callable[[E], object]:
        """Return what takes an event on the publishing thread: the listener itself, or its mailbox."""
        if self.mailbox is None:
            return self.fn
        assert isinstance(tally, AsyncTally)
        return self.mailbox.inlet(Route(self, tally, report))

    @property
    def inert(self) -> bool:
        """Whether nobody serves it in this process, which was forked from the one where it was subscribed."""
        return self.mailbox is not None and self.mailbox.inert

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
    named = _written(fn)
    if not hasattr(named, "__qualname__"):
        named = type(named)
    return ":".join(filter(None, (named.__module__, named.__qualname__)))


def code_of(fn: Callable[..., Any]) -> CodeType | None:
    """Return the code that somebody wrote for a listener, which says where it is; None for what is not Python."""
    function = _written(fn)
    own: CodeType | None = getattr(function, "__code__", None)
    return own or getattr(type(function).__call__, "__code__", None)


def _written(fn: Callable[..., Any]) -> Any:
    """Return what is inside of decorators and partials."""
    while isinstance(fn := inspect.unwrap(fn), functools.partial):
        fn = fn.func
    return fn


def _inside(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return what is inside of partials."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return fn


def is_async(fn: Callable[..., Any]) -> bool:
    """Whether calling `fn` runs nothing but gives a coroutine or an asynchronous generator.

    Also known of an object with `async def __call__`, and of a partial of either.
    """
    fn = _inside(fn)
    called: Any = type(fn).__call__
    return any(inspect.iscoroutinefunction(made) or inspect.isasyncgenfunction(made) for made in (fn, called))


def refuse_async(fn: Callable[..., Any]) -> None:
    """Raise `SubscriptionError` for a coroutine function among blinker's receivers, which are called in step."""
    if is_async(fn):
        raise SubscriptionError(
            f"{name_of(fn)} is a coroutine function, and a signal calls its receivers in step, which would run "
            "nothing: expected a plain function, or a subscription to the bus"
        )


def _check(fn: object, *, priority: object, every: object, on_error: object) -> None:
    if not callable(fn):
        raise SubscriptionError(f"a listener must be callable, got {fn!r}")
    if any(map(inspect.isasyncgenfunction, (_inside(fn), type(_inside(fn)).__call__))):
        raise SubscriptionError(f"{name_of(fn)} is an asynchronous generator: expected `async def` without yield")
    if isinstance(priority, bool) or not isinstance(priority, int | float) or priority != priority:  # noqa: PLR0124  NaN
        raise SubscriptionError(f"priority must be a number (lower runs first), got {priority!r}")
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise SubscriptionError(f"every must be a whole number of at least 1, got {every!r}")
    if on_error not in ("isolate", "raise"):
        raise SubscriptionError(f"on_error must be 'isolate' or 'raise', got {on_error!r}")
