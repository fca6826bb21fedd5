"""Tells a service of one's own what happens in a run, by HTTP; httpx is imported when the first event is sent."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated, Any
from urllib.parse import urlsplit

from msgspec import Meta

from bus import Event, event_types
from frameworm.core import register_callback
from frameworm.errors import DeliveryError, PermanentError, UnknownNameError, UserError
from frameworm.plugins.hooks import CallbackHook
from frameworm_plugins.webhook.message import Message, message, signed

USUAL = ("train_begin", "epoch_end", "train_failed", "train_end")
MOST = 1 << 16  # bytes of an answer that are read, so that the connection can serve the next request


class WebhookError(DeliveryError):
    """The service answered `status_code`, and may take it later."""

    def __init__(self, service: str, status_code: int) -> None:
        self.status_code = status_code
        super().__init__(f"{service} answered {status_code}")


class WebhookRefusedError(WebhookError, PermanentError):
    """The service answered `status_code`, and asking again would not help."""


class Webhook(CallbackHook):
    """Sends each of `events` to `url` as a POST of JSON, signed with `secret`.

    `timeout` is in seconds, for connecting and for each wait after that. Redirects are not followed, certificates are
    checked. Neither the object nor its errors show more of `url` than its host.
    """

    dispatch = "async"

    def __init__(
        self,
        url: str,
        events: tuple[str, ...] = USUAL,
        secret: Annotated[str, Meta(min_length=1)] | None = None,
        timeout: Annotated[float, Meta(gt=0)] = 5.0,
    ) -> None:
        if find_spec("httpx") is None:
            message = "the callback webhook needs httpx, which is not installed"
            raise UserError(message, hint="pip install 'frameworm[webhook]'")
        self._url = url
        self._service = _service(url)
        self._secret = secret
        self._timeout = timeout
        self._tls: Any = None
        self._settled: dict[str, WebhookRefusedError | None] = {}
        for name in events:
            if name not in event_types():
                raise UnknownNameError("event", name, event_types())
        self.events = tuple(dict.fromkeys(events))  # type: ignore[misc]  # a class variable of other callbacks

    def __repr__(self) -> str:
        return f"Webhook({self._service!r})"

    async def deliver(self, events: Sequence[Event]) -> None:
        """Send the events, in order; called again after an error, only those that are not settled.

        Raises `ConnectionError` or `TimeoutError` when the service is not reached, `WebhookError` when it cannot take
        an event now, and `WebhookRefusedError` for the first that it never will, when the others are sent.
        """
        httpx = import_module("httpx")
        self._tls = self._tls or httpx.create_ssl_context()
        messages = [message(event) for event in events]
        keys = {waiting.key for waiting in messages}
        self._settled = {key: refused for key, refused in self._settled.items() if key in keys}
        async with httpx.AsyncClient(timeout=self._timeout, verify=self._tls, follow_redirects=False) as client:
            for waiting in messages:
                if waiting.key not in self._settled:
                    self._settled[waiting.key] = await self._send(client, waiting)
        for refused in filter(None, self._settled.values()):
            raise refused

    async def _send(self, client: Any, waiting: Message) -> WebhookRefusedError | None:
        """Send a message; return the error with which it was refused for good."""
        httpx = import_module("httpx")
        headers = signed(waiting, self._secret, int(time.time()))
        try:
            async with client.stream("POST", self._url, content=waiting.body, headers=headers) as response:
                read = 0
                async for chunk in response.aiter_raw():
                    read += len(chunk)
                    if read > MOST:
                        break
        except httpx.TimeoutException as error:
            raise TimeoutError(f"{self._service}: {type(error).__name__}") from None
        except httpx.HTTPError as error:
            told = str(error).replace(self._url, self._service)
            raise ConnectionError(f"{self._service}: {type(error).__name__}: {told}") from None
        status = response.status_code
        if status == 429 or status >= 500:
            raise WebhookError(self._service, status)
        return None if 200 <= status < 300 else WebhookRefusedError(self._service, status)


def _service(url: str) -> str:
    """Return as much of a URL as everybody may see; raises `UserError` for one that is none."""
    expected = "https://..., or http://..."
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError as error:
        raise UserError("the webhook's url is none", expected=expected) from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError("the webhook's url is none", expected=expected, got=f"{parts.scheme or '(no scheme)'}:...")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{port}"


def register() -> None:
    """Make the webhook available to configs as `webhook`; nothing is switched on, or imported, by that."""
    register_callback("webhook", Webhook)
