"""The webhook's requests reach a real HTTP server as they are described, once each, and show no secret elsewhere."""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import re
import shutil
import ssl
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec
import pytest

from bus import EventBus
from frameworm.core import create
from frameworm.delivery.retry import Blame, blame_of
from frameworm.errors import UnknownNameError, UserError
from frameworm.events import TrainBegin
from frameworm_plugins import webhook
from frameworm_plugins.webhook import Webhook, WebhookError, WebhookRefusedError
from frameworm_plugins.webhook.message import signature
from tests.frameworm_plugins.story import Story, live


class Request(NamedTuple):
    """What the server was sent."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """The body."""
        decoded: dict[str, Any] = json.loads(self.body)
        return decoded


class Service:
    """A real HTTP server on 127.0.0.1: it keeps what it is sent, and answers with `answers` in turn, then 204."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self.answers: list[int] = []
        self.delay = 0.0
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                service.requests.append(Request(self.path, headers, body))
                time.sleep(service.delay)
                self.send_response(service.answers.pop(0) if service.answers else 204)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the library's name
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.block_on_close = False
        if context is not None:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    @property
    def host(self) -> str:
        """Its address."""
        return f"127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        """End it."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def service() -> Iterator[Service]:
    """A server."""
    service = Service()
    yield service
    service.close()


def hook(service: Service, **options: Any) -> Webhook:
    """Return a webhook to the service, whose URL has secrets in it."""
    return Webhook(f"http://me:pa55word@{service.host}/hooks/t0ken?sig=s1gned", **options)


async def test_an_event_is_a_post_of_json(service: Service) -> None:
    """With the run, the position and the event's own fields; what the URL says is sent along."""
    story = Story()
    await hook(service).deliver([story.batch(1.0), story.epoch_end(loss=math.nan, val_loss=2.0)][1:])
    (request,) = service.requests
    assert request.path == "/hooks/t0ken?sig=s1gned"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["authorization"].startswith("Basic ")
    assert request.json == {
        "id": "r1-1-2",
        "event": "epoch_end",
        "time": "2030-01-01T00:00:02+00:00",
        "run": "r1",
        "name": "digits",
        "attempt": 1,
        "seq": 2,
        "epoch": 0,
        "step": 1,
        "metrics": {"loss": "NaN", "val_loss": 2.0},
    }


@pytest.fixture
def is_ours() -> Callable[[Mapping[str, str], bytes, str], bool]:
    """The check that the README gives to services."""
    text = (Path(webhook.__file__).parent / "README.md").read_text("utf-8")
    block = re.search(r"^    def is_ours.*?(?=^\S)", text, re.DOTALL | re.MULTILINE)
    assert block is not None
    names: dict[str, Any] = {"Mapping": Mapping, "hashlib": hashlib, "hmac": hmac, "time": time}
    exec(textwrap.dedent(block[0]), names)
    return cast("Callable[[Mapping[str, str], bytes, str], bool]", names["is_ours"])


async def test_a_signature_proves_sender_and_time(
    service: Service, is_ours: Callable[[Mapping[str, str], bytes, str], bool]
) -> None:
    """As the README tells a service to check it."""
    await hook(service, secret="shh").deliver([Story().end("failed", "ValueError: no")])
    (request,) = service.requests
    headers = {
        "X-Frameworm-Timestamp": request.headers["x-frameworm-timestamp"],
        "X-Frameworm-Signature": request.headers["x-frameworm-signature"],
    }
    assert is_ours(headers, request.body, "shh")
    assert not is_ours(headers, request.body, "other")
    assert not is_ours(headers, request.body + b" ", "shh")
    assert not is_ours(headers | {"X-Frameworm-Timestamp": str(int(time.time()) + 1)}, request.body, "shh")
    old = int(time.time()) - 400
    resent = {
        "X-Frameworm-Timestamp": str(old),
        "X-Frameworm-Signature": f"sha256={signature(request.body, 'shh', old)}",
    }
    assert not is_ours(resent, request.body, "shh")
    assert request.json["error"] == "ValueError: no"


async def test_without_a_secret_nothing_is_signed(service: Service) -> None:
    """There would be nothing to sign with."""
    await hook(service).deliver([Story().begin()])
    assert "x-frameworm-signature" not in service.requests[0].headers


def unrecorded(view: Any) -> Any:
    """Return the facts at an event that has no record."""
    return msgspec.structs.replace(view, seq=0)


async def test_a_message_is_known_again_by_its_key(service: Service) -> None:
    """Which is the record's, or of an event without a record one that is the same whenever it is sent."""
    story = Story()
    recorded = story.begin()
    bare = TrainBegin(unrecorded(recorded.source), 3)
    other = TrainBegin(unrecorded(recorded.source), 4)
    for _ in range(2):
        await hook(service).deliver([recorded, bare, other])
    keys = [request.headers["idempotency-key"] for request in service.requests]
    assert keys[:3] == keys[3:]
    assert len(set(keys)) == 3
    assert keys[0] == "r1-1-1"
    assert uuid.UUID(keys[1]).version == 5
    assert [request.json["id"] for request in service.requests] == keys


async def test_what_was_sent_is_not_sent_again_when_a_later_event_fails(service: Service) -> None:
    """A call after an error goes on where it was."""
    story = Story()
    listener = hook(service)
    events = [story.begin(), story.epoch_end(loss=1.0), story.end()]
    service.answers = [204, 503]
    with pytest.raises(WebhookError, match="answered 503") as caught:
        await listener.deliver(events)
    assert blame_of(caught.value) is Blame.CIRCUMSTANCES
    await listener.deliver(events)
    sent = [request.json["event"] for request in service.requests]
    assert sent == ["train_begin", "epoch_end", "epoch_end", "train_end"]


@pytest.mark.parametrize("status", [400, 401, 404, 302])
async def test_what_is_refused_is_not_asked_again(service: Service, status: int) -> None:
    """Nor does it keep others from being sent; a redirect is not followed, and is such a refusal."""
    story = Story()
    listener = hook(service)
    events = [story.begin(), story.end()]
    service.answers = [status]
    for _ in range(3):
        with pytest.raises(WebhookRefusedError, match=str(status)) as caught:
            await listener.deliver(events)
    assert blame_of(caught.value) is Blame.RECORD
    assert [request.json["event"] for request in service.requests] == ["train_begin", "train_end"]
    await listener.deliver([story.end()])
    assert len(service.requests) == 3


async def test_a_service_that_is_not_there_or_does_not_answer(service: Service) -> None:
    """Both are said as they are, and say no more of the URL than its host."""
    service.delay = 0.5
    with pytest.raises(TimeoutError, match=f"http://{service.host}: ReadTimeout") as late:
        await hook(service, timeout=0.05).deliver([Story().begin()])
    service.close()
    with pytest.raises(ConnectionError, match=f"http://{service.host}: ConnectError") as gone:
        await hook(service).deliver([Story().begin()])
    for caught in (late, gone):
        assert blame_of(caught.value) is Blame.CIRCUMSTANCES
        told = "".join(traceback.format_exception(caught.value))
        assert not [word for word in ("pa55word", "t0ken", "s1gned") if word in told]


def test_served_beside_the_training(service: Service) -> None:
    """On an event loop of the bus's; only the events that were asked for are sent."""
    story = Story()
    with EventBus() as bus:
        hook(service, events=("train_end", "train_begin")).register(bus)
        for event in (story.begin(), story.epoch_end(loss=1.0), story.end()):
            bus.publish(live(event))
        assert bus.drain(10)
    assert [request.json["event"] for request in service.requests] == ["train_begin", "train_end"]


def test_nothing_shows_the_secrets() -> None:
    """Not the object, not the error about a wrong url."""
    listener = Webhook("https://me:pa55word@example.org:8443/t0ken?sig=s1gned", secret="shh")
    assert repr(listener) == "Webhook('https://example.org:8443')"
    for url in (
        "pa55word",
        "ftp://me:pa55word@example.org",
        "https:///pa55word",
        "https://me:pa55word@[x",
        "//pa55word",
    ):
        with pytest.raises(UserError) as caught:
            create("callback", "webhook", Webhook, {"url": url})
        assert "pa55word" not in "".join(traceback.format_exception(caught.value))


@pytest.fixture
def own_certificate(tmp_path: Path) -> ssl.SSLContext:
    """A server's context with a certificate that it has made itself."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate]
    subprocess.run([*command, *subject], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


async def test_a_certificate_that_nobody_vouches_for_is_refused(own_certificate: ssl.SSLContext) -> None:
    """Nothing is sent then."""
    service = Service(own_certificate)
    try:
        with pytest.raises(ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
            await Webhook(f"https://{service.host}/").deliver([Story().begin()])
        assert service.requests == []
    finally:
        service.close()


def test_events_are_chosen_by_name() -> None:
    """Each once; a wrong name has its nearest."""
    assert Webhook("https://example.org").events == ("train_begin", "epoch_end", "train_failed", "train_end")
    assert Webhook("https://example.org", ("train_end", "train_end")).events == ("train_end",)
    with pytest.raises(UnknownNameError) as caught:
        Webhook("https://example.org", ("epoch_ende",))
    assert caught.value.hint == "epoch_end"


@pytest.mark.parametrize("options", [{"timeout": 0}, {"secret": ""}, {"events": "train_end"}, {"url": 3}])
def test_wrong_options_are_errors_of_the_config(options: dict[str, Any]) -> None:
    """Before step 1."""
    with pytest.raises(UserError, match="wrong value for the option"):
        create("callback", "webhook", Webhook, {"url": "https://example.org", **options})


def test_nothing_of_httpx_is_imported_before_the_first_event() -> None:
    """Neither by loading the plugin nor by making the webhook."""
    made = "from frameworm_plugins.webhook import Webhook; Webhook('https://example.org')"
    code = f"import sys; {made}; print('httpx' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_without_httpx_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a config asks for it, before step 1."""
    monkeypatch.setattr(webhook, "find_spec", lambda _name: None)
    with pytest.raises(UserError, match="httpx") as caught:
        Webhook("https://example.org")
    assert caught.value.hint == "pip install 'frameworm[webhook]'"
