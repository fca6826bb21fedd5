"""What a webhook sends: an event as JSON, a key by which it is known again, and a signature."""

from __future__ import annotations

import hashlib
import hmac
import uuid
from collections.abc import Mapping
from datetime import UTC
from typing import Any, NamedTuple

import msgspec

from bus import Event, record_fields
from frameworm.delivery.records import Values
from frameworm.facts import RunView

_NAMESPACE = uuid.UUID("3b1e2f0c-6f0a-5a4e-9a57-7f1f2f7c9d10")
_POSITION = frozenset({"epoch", "step"})


class Message(NamedTuple):
    """A request: its `key` is the same whenever it is sent, `body` is JSON."""

    key: str
    body: bytes


def message(event: Event) -> Message:
    """Return the message of an event off the publishing thread.

    Its body has the event's name and time, its run, and the fields that are recorded of it, as they are in the record:
    NaN and infinities are texts. A field that is called like one of the others gets a `_`.
    """
    view: RunView = event.source
    body: dict[str, Any] = {
        "event": event.name,
        "time": view.time.astimezone(UTC).isoformat(),
        "run": view.run_id,
        "name": view.name,
        "attempt": view.attempt,
        "seq": view.seq,
        "epoch": view.epoch,
        "step": view.step,
    }
    taken = (body.keys() | {"id"}) - _POSITION
    plain = Values().plain
    for field in record_fields(type(event)):
        key = f"{field.name}_" if field.name in taken else field.name
        body[key] = plain(getattr(event, field.name), [])
    key = f"{view.run_id}-{view.attempt}-{view.seq}" if view.seq else str(uuid.uuid5(_NAMESPACE, _json(body).decode()))
    return Message(key, _json({"id": key, **body}))


def signed(message: Message, secret: str | None, now: int) -> dict[str, str]:
    """Return the headers of a message sent at `now` (Unix time); with a secret, they prove who sent it when."""
    headers = {"Content-Type": "application/json", "Idempotency-Key": message.key, "X-Frameworm-Timestamp": str(now)}
    if secret is not None:
        headers["X-Frameworm-Signature"] = f"sha256={signature(message.body, secret, now)}"
    return headers


def signature(body: bytes, secret: str, now: int) -> str:
    """Return the HMAC-SHA256, in hex, of the time, a dot and the body."""
    return hmac.new(secret.encode(), b"%d." % now + body, hashlib.sha256).hexdigest()


def _json(body: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(body)
