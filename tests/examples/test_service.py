"""The service trains, tells whoever listens, and does not care about those who do not read or leave."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest

SERVICE = Path(__file__).parents[2] / "examples" / "service"
LONG: dict[str, Any] = {"trainer": {"epochs": 100_000, "device": "cpu"}}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Talk to the service, which a real uvicorn runs in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "service:app", "--app-dir", str(SERVICE), "--port", str(port)]
    folder = tmp_path_factory.mktemp("service")
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(command, cwd=folder, stdout=log, stderr=log) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client,
    ):
        try:
            until(lambda: answers(client), seconds=50)
            yield client
        finally:
            process.terminate()
            assert process.wait(30) in (0, -15), (folder / "log").read_text()
    assert "Traceback" not in (folder / "log").read_text()
    assert all(ended(run) for run in (folder / "runs").iterdir()), "the service has left a run without an end"


def answers(client: httpx.Client) -> bool:
    """Whether the service is there."""
    try:
        return client.get("/runs").status_code == 200
    except httpx.TransportError:
        return False


def ended(run: Path) -> bool:
    """Whether the record of a run says how it ended."""
    return '"event":"train_end"' in (run / "events.jsonl").read_text()


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for something."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)


@contextmanager
def running(client: httpx.Client) -> Iterator[str]:
    """Give the path of a run that trains until it is stopped, and stop it at the end."""
    run = f"/runs/{client.post('/runs', json=LONG).json()['run']}"
    try:
        until(lambda: client.get(run).json()["status"] == "running" and client.get(run).json()["step"] > 0)
        yield run
    finally:
        client.post(f"{run}/stop")
        until(lambda: client.get(run).json()["status"] != "running")


def events_of(response: httpx.Response) -> Iterator[tuple[str, Any, int | None]]:
    """Read server-sent events: name, data and number of each."""
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        if line:
            key, _, value = line.partition(": ")
            fields[key] = value
        else:
            yield fields["event"], json.loads(fields["data"]), int(fields["id"]) if "id" in fields else None
            fields = {}


def test_a_run_from_its_beginning_to_its_end(client: httpx.Client) -> None:
    """All of its record comes, in order, also to whoever comes late; the stream ends with the run."""
    answer = client.post("/runs", json={"trainer": {"epochs": 2, "device": "cpu"}})
    assert answer.status_code == 201
    run = f"/runs/{answer.json()['run']}"
    until(lambda: client.get(run).json()["status"] == "running" or ended_status(client, run) == "finished")
    with client.stream("GET", f"{run}/events", params={"after": 0}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = list(events_of(response))
    recorded = [number for _, _, number in events if number]
    assert recorded == list(range(1, len(recorded) + 1))
    names = [name for name, _, number in events if number]
    assert (names[0], names[-1]) == ("train_begin", "train_end")
    (epoch, *_) = [data for name, data, _ in events if name == "epoch_end"]
    assert 0 < epoch["metrics"]["val_accuracy"] <= 1
    until(lambda: ended_status(client, run) == "finished")
    with client.stream("GET", f"{run}/events", headers={"Last-Event-ID": str(recorded[-3])}) as response:
        assert [number for _, _, number in events_of(response)] == recorded[-2:]


def ended_status(client: httpx.Client, run: str) -> str:
    """How a run stands."""
    return str(client.get(run).json()["status"])


def test_several_clients_one_of_whom_stops_the_run(client: httpx.Client) -> None:
    """Each hears everything from when it came; all hear why the run ended."""
    with (
        running(client) as run,
        client.stream("GET", f"{run}/events") as one,
        client.stream("GET", f"{run}/events") as two,
    ):
        heard = events_of(one)
        first = list(islice(heard, 5))
        assert client.post(f"{run}/stop").status_code == 202
        endings = [list(heard)[-1], list(events_of(two))[-1]]
    assert len(first) == 5
    for name, data, _ in endings:
        assert (name, data["status"], data["reason"]) == ("train_end", "stopped", "asked through the service")


def test_a_run_is_asked_to_save_and_to_validate(client: httpx.Client) -> None:
    """Its record says from where that came, and it goes on; what is not known is said."""
    with running(client) as run, client.stream("GET", f"{run}/events") as response:
        heard = events_of(response)
        next(heard)
        for verb in ("save", "validate"):
            assert client.post(f"{run}/{verb}").status_code == 202
            asked = next(data for name, data, _ in heard if name == "control_requested")
            assert (asked["verb"], asked["by"]) == (verb, "127.0.0.1")
            served = "checkpoint_saved" if verb == "save" else "validation_end"
            data = next(data for name, data, _ in heard if name == served)
            assert verb == "save" or data["asked"]
        assert client.post(f"{run}/dance").status_code == 404
        assert ended_status(client, run) == "running"


def test_a_client_that_never_reads_and_one_that_leaves(client: httpx.Client) -> None:
    """Training goes on at its pace, and others hear everything."""
    with running(client) as run:
        address = client.base_url
        with socket.create_connection((address.host, address.port or 80)) as idle:
            idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            idle.sendall(f"GET {run}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            with client.stream("GET", f"{run}/events") as leaving:
                assert len(list(islice(events_of(leaving), 2))) == 2
            step = client.get(run).json()["step"]
            until(lambda: client.get(run).json()["step"] > step + 1000)
            with client.stream("GET", f"{run}/events") as third:
                assert len(list(islice(events_of(third), 20))) == 20


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "the body is no JSON"),
        (b"[]", "expected a config"),
        (b'{"trainer": {"epoch": 3}}', "unknown key trainer.epoch"),
    ],
)
def test_wrong_input(client: httpx.Client, body: bytes, says: str) -> None:
    """It is refused with what is wrong, and no run begins."""
    before = client.get("/runs").json()
    answer = client.post("/runs", content=body)
    assert answer.status_code == 400
    assert says in answer.text
    assert client.get("/runs").json() == before
    assert client.get("/runs/99").status_code == client.post("/runs/x/stop").status_code == 404


def test_a_run_that_cannot_begin(client: httpx.Client) -> None:
    """Its status says so, and why; a stream of it ends."""
    run = f"/runs/{client.post('/runs', json={'model': {'name': 'cnnn'}}).json()['run']}"
    until(lambda: ended_status(client, run) == "failed")
    assert re.search("unknown model 'cnnn'", client.get(run).json()["error"])
    with client.stream("GET", f"{run}/events") as response:
        assert list(events_of(response)) == []
