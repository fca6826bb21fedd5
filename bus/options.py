"""How an asynchronous listener is served: its queue, its timeout, its retries; validated once, when it subscribes."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any, Literal, TypedDict, get_args

import msgspec

from .errors import SubscriptionError

Dispatch = Literal["sync", "async"]
Overflow = Literal["drop_oldest", "drop_newest", "latest"]

KEPT_SHARE = 16  # events that must not be dropped have a reserve of so many times the queue


def _whole(name: str, value: object, *, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SubscriptionError(f"{name} must be a whole number of at least {least}, got {value!r}")


def _at_least_zero(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise SubscriptionError(f"{name} must be a number of seconds of at least 0, got {value!r}")


def _instance(name: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise SubscriptionError(f"{name} must be a {kind.__name__}, got {value!r}")


def _nearest(value: object, known: tuple[str, ...]) -> str:
    close = get_close_matches(str(value), known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _listing(known: tuple[str, ...]) -> str:
    return ", ".join(map(repr, known))


class Backoff(msgspec.Struct, frozen=True):
    """How long to wait before a retry, in seconds: `first`, then twice as long each time, up to `longest`.

    Each wait is cut by a random part of up to a half, so that listeners of one dead server do not retry in step.
    """

    first: float = 0.5
    longest: float = 5.0

    def __post_init__(self) -> None:
        for name in ("first", "longest"):
            _at_least_zero(f"backoff.{name}", getattr(self, name))


class Breaker(msgspec.Struct, frozen=True):
    """When to leave a broken listener alone: `after` so many failed events in a row, until a probe succeeds.

    The first probe comes after `probe` seconds, each further one after twice as long, up to `longest`.
    """

    after: int = 5
    probe: float = 30.0
    longest: float = 300.0

    def __post_init__(self) -> None:
        _whole("breaker.after", self.after)
        for name in ("probe", "longest"):
            _at_least_zero(f"breaker.{name}", getattr(self, name))


class AsyncOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of an asynchronous listener; raises `SubscriptionError` for what they cannot be.

    `EventBus.subscribe` describes them.
    """

    queue_size: int = 1024
    overflow: Overflow = "drop_oldest"
    timeout: float | None = 10.0
    retries: int = 2
    backoff: Backoff = Backoff()
    breaker: Breaker | None = Breaker()
    batch: int = 1
    linger: float = 1.0

    def __post_init__(self) -> None:
        _whole("queue_size", self.queue_size)
        _whole("batch", self.batch)
        _whole("retries", self.retries, least=0)
        _at_least_zero("linger", self.linger)
        if self.timeout is not None:
            _at_least_zero("timeout", self.timeout)
        _instance("backoff", self.backoff, Backoff)
        if self.breaker is not None:
            _instance("breaker", self.breaker, Breaker)
        if self.overflow not in get_args(Overflow):
            raise SubscriptionError(
                f"overflow must be one of {_listing(get_args(Overflow))}, got {self.overflow!r}"
                + _nearest(self.overflow, get_args(Overflow))
            )


class QueueOptions(TypedDict, total=False):
    """The options of an asynchronous listener that takes one event at a time, as keyword arguments."""

    queue_size: int
    overflow: Overflow
    timeout: float | None
    retries: int
    backoff: Backoff
    breaker: Breaker | None


class BatchOptions(QueueOptions, total=False):
    """The same for one that takes several at once, besides how many."""

    linger: float


class AllOptions(BatchOptions, total=False):
    """All of them."""

    batch: int


def options_for(dispatch: object, *, coroutine: bool, settings: dict[str, Any], name: str) -> AsyncOptions | None:
    """Return the options of an asynchronous listener called `name`; None for one in step, which has none of them."""
    if dispatch not in (None, *get_args(Dispatch)):
        raise SubscriptionError(
            f"dispatch must be 'sync', 'async' or None, got {dispatch!r}{_nearest(dispatch, get_args(Dispatch))}"
        )
    if dispatch == "sync" and coroutine:
        raise SubscriptionError(
            f"{name} is a coroutine function, of which a call in step would run nothing: expected dispatch='async' or "
            "a plain function, got dispatch='sync'"
        )
    options = AsyncOptions(**settings)
    if dispatch == "async" or coroutine:
        return options
    if settings:
        raise SubscriptionError(
            f"{name} is called in step, where there is no queue: expected dispatch='async' or none of its options, "
            f"got {', '.join(f'{key}={value!r}' for key, value in settings.items())}"
        )
    return None
