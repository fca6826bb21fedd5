"""What an error of a listener means in the process lane: try again, when, and when to give up. Pure: it never waits."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from frameworm.errors import PermanentError, RetryLater


class Blame(enum.Enum):
    """Whose fault an error is."""

    CIRCUMSTANCES = "circumstances"  # the network's, the server's: it passes
    RECORD = "record"  # what was delivered will never be taken
    UNKNOWN = "unknown"


class RetryPolicy(msgspec.Struct, frozen=True):
    """How often and how long to try, in seconds.

    Waits begin with `first` and double up to `longest`. Circumstances are given `max_age` to pass; an unknown error is
    believed after `tries`.
    """

    first: float = 1.0
    longest: float = 60.0
    max_age: float = 7 * 24 * 3600.0
    tries: int = 5


def waits(policy: RetryPolicy, clock: Callable[[], float]) -> Generator[float, BaseException, None]:
    """Answer each error that is sent with the seconds to wait before the next try; return when it is to be given up.

    As with every generator, `next` comes first; what that yields means nothing.
    """
    wait, tries, since = policy.first, 0, clock()
    error = yield 0.0
    while True:
        blame = blame_of(error)
        tries += blame is Blame.UNKNOWN
        if blame is Blame.RECORD or tries >= policy.tries or clock() - since > policy.max_age:
            return
        asked = retry_after(error)
        error = yield wait if asked is None else max(asked, policy.first)
        wait = min(2 * wait, policy.longest)


_NOT_THE_NETWORK = (
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    ValueError,  # requests.InvalidURL is both
)
_TRANSPORT = {
    "httpx": "TransportError",
    "httpcore": "NetworkError",
    "urllib3": "HTTPError",
    "aiohttp": "ClientConnectionError",
    "requests": "RequestException",
}
"""By package, the base class of the errors that its transport raises; nothing is imported to know them."""

_TOO_MANY = 429


def blame_of(error: BaseException) -> Blame:
    """Return whose fault an error is: by its type, by the HTTP status it carries, else by what it was raised from."""
    if isinstance(error, PermanentError):
        return Blame.RECORD
    if isinstance(error, RetryLater):
        return Blame.CIRCUMSTANCES
    status = _status(error)
    if status is not None:
        return Blame.CIRCUMSTANCES if status == _TOO_MANY or status >= 500 else Blame.RECORD
    if _is_transport(error):
        return Blame.CIRCUMSTANCES
    return Blame.UNKNOWN if error.__cause__ is None else blame_of(error.__cause__)


def retry_after(error: BaseException) -> float | None:
    """Return the seconds for which the error asks to be left alone: by `RetryLater` or an HTTP header; None if not."""
    if isinstance(error, RetryLater):
        return error.seconds
    headers = getattr(getattr(error, "response", error), "headers", None)
    with suppress(Exception):  # whatever a client's headers are
        asked = headers and headers.get("Retry-After")
        return _seconds(str(asked)) if asked else None
    return None


def _status(error: BaseException) -> int | None:
    """Return the HTTP status of an error of 400 or more, wherever its client keeps it."""
    return next((int(code) for code in _codes(error) if type(code) is int and 400 <= code < 600), None)


def _codes(error: Any) -> Iterator[Any]:
    yield getattr(error, "status_code", None)
    yield getattr(getattr(error, "response", None), "status_code", None)
    with suppress(Exception):  # it is asked whether it has such a method by calling it
        yield error.get_http_status_code()
    yield getattr(error, "code", None)


def _is_transport(error: BaseException) -> bool:
    if isinstance(error, OSError):  # the network's errors, timeouts and a full disk among them
        return not isinstance(error, _NOT_THE_NETWORK)
    return any(_TRANSPORT.get(base.__module__.partition(".")[0]) == base.__name__ for base in type(error).__mro__)


def _seconds(text: str) -> float | None:
    """Read a `Retry-After`: a number of seconds, or a date."""
    if re.fullmatch(r"\d+(\.\d+)?", text.strip()):
        return float(text)
    return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
