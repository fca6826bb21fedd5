"""What an error means for a delivery, and how long one tries: decided without waiting."""

from __future__ import annotations

import errno
import ssl
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from email.message import Message
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError, URLError

import httpx
import pytest

from frameworm.delivery.retry import Blame, RetryPolicy, blame_of, retry_after, waits
from frameworm.errors import PermanentError, RetryLater, UserError


class Answered(Exception):  # noqa: N818  it is one
    """An error that carries what a client's does."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__("answered")
        for name, value in attributes.items():
            setattr(self, name, value)


def caused(by: Exception) -> Exception:
    """Return an error that was raised from another."""
    error = RuntimeError("cannot log")
    error.__cause__ = by
    return error


def of_another_package(package: str, base: str) -> Exception:
    """Return an error of a class that derives from a package's."""
    parent = type(base, (Exception,), {"__module__": f"{package}.exceptions"})
    return type("Inner", (parent,), {"__module__": f"{package}.other"})()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("error", "blame"),
    [
        (ConnectionRefusedError(), Blame.CIRCUMSTANCES),
        (TimeoutError(), Blame.CIRCUMSTANCES),
        (OSError(errno.ENETUNREACH, "no network"), Blame.CIRCUMSTANCES),
        (OSError(errno.ENOSPC, "no space"), Blame.CIRCUMSTANCES),
        (ssl.SSLError(), Blame.CIRCUMSTANCES),
        (URLError("refused"), Blame.CIRCUMSTANCES),
        (httpx.ConnectTimeout("slow"), Blame.CIRCUMSTANCES),
        (of_another_package("requests", "RequestException"), Blame.CIRCUMSTANCES),
        (of_another_package("urllib3", "HTTPError"), Blame.CIRCUMSTANCES),
        (of_another_package("mine", "HTTPError"), Blame.UNKNOWN),
        (caused(ConnectionResetError()), Blame.CIRCUMSTANCES),
        (RetryLater(3), Blame.CIRCUMSTANCES),
        (Answered(status_code=429), Blame.CIRCUMSTANCES),
        (Answered(status_code=503), Blame.CIRCUMSTANCES),
        (Answered(response=SimpleNamespace(status_code=500)), Blame.CIRCUMSTANCES),
        (Answered(get_http_status_code=lambda: 502), Blame.CIRCUMSTANCES),
        (HTTPError("http://x", 500, "down", Message(), None), Blame.CIRCUMSTANCES),
        (HTTPError("http://x", 404, "gone", Message(), None), Blame.RECORD),
        (Answered(status_code=400), Blame.RECORD),
        (Answered(response=SimpleNamespace(status_code=403)), Blame.RECORD),
        (Answered(get_http_status_code=lambda: 400), Blame.RECORD),
        (Answered(code=422), Blame.RECORD),
        (PermanentError("never"), Blame.RECORD),
        (caused(PermanentError("never")), Blame.RECORD),
        (Answered(code="E42"), Blame.UNKNOWN),
        (Answered(code=7), Blame.UNKNOWN),
        (ValueError(), Blame.UNKNOWN),
        (FileNotFoundError(), Blame.UNKNOWN),
        (UserError("wrong"), Blame.UNKNOWN),
        (SystemExit(1), Blame.UNKNOWN),
    ],
)
def test_whose_fault_it_is(error: BaseException, blame: Blame) -> None:
    """By the type, by a status wherever the client keeps it, else by the cause."""
    assert blame_of(error) is blame


def _later(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


def test_how_long_a_server_asks_to_be_left_alone() -> None:
    """Seconds, or a date; what cannot be read is not asked for."""
    for text, least, most in [("7", 7, 7), (_later(30), 28, 30), (_later(-30), 0, 0)]:
        asked = retry_after(Answered(response=SimpleNamespace(status_code=429, headers={"Retry-After": text})))
        assert asked is not None
        assert least <= asked <= most
    headers = Message()
    headers["Retry-After"] = "9"
    assert retry_after(HTTPError("http://x", 503, "down", headers, None)) == 9
    assert retry_after(RetryLater(4)) == 4
    for error in (Answered(headers={"Retry-After": "soon"}), Answered(headers=3), ValueError()):
        assert retry_after(error) is None


def answers(policy: RetryPolicy, errors: Iterable[tuple[float, BaseException]]) -> list[float | None]:
    """Send errors at times; return what is answered, None at last for giving up."""
    now = 0.0
    plan = waits(policy, lambda: now)
    next(plan)
    got: list[float | None] = []
    for at, error in errors:
        now = at
        try:
            got.append(plan.send(error))
        except StopIteration:
            return [*got, None]
    return got


def test_circumstances_are_given_a_week() -> None:
    """The waits double up to a minute; after seven days it is enough."""
    down = ConnectionRefusedError()
    assert answers(RetryPolicy(), [(0, down)] * 8) == [1, 2, 4, 8, 16, 32, 60, 60]
    week = 7 * 24 * 3600.0
    assert answers(RetryPolicy(), [(0, down), (week, down), (week + 1, down)]) == [1, 2, None]


def test_what_is_asked_for_is_waited() -> None:
    """`Retry-After` wins over the doubling, which goes on behind it; it cannot make one hurry."""
    asked = Answered(status_code=429, headers={"Retry-After": "40"})
    down = ConnectionRefusedError()
    assert answers(RetryPolicy(), [(0, asked), (40, down), (41, RetryLater(0))]) == [40, 2, 1]


def test_a_refusal_is_final() -> None:
    """Nothing is tried again."""
    assert answers(RetryPolicy(), [(0, PermanentError("never"))]) == [None]
    assert answers(RetryPolicy(), [(0, ConnectionRefusedError()), (1, Answered(status_code=400))]) == [1, None]


def test_the_unknown_is_tried_five_times() -> None:
    """The fifth error is believed; circumstances between do not count."""
    unknown, down = ValueError(), ConnectionRefusedError()
    assert answers(RetryPolicy(), [(0, unknown)] * 5) == [1, 2, 4, 8, None]
    assert answers(RetryPolicy(tries=2), [(0, unknown), (0, down), (0, unknown)]) == [1, 2, None]
