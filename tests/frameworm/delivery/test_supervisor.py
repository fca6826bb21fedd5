"""The trainer's side: the relay is started, kept alive, waited for and left alone, and never in the way."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from frameworm.delivery.relay import status
from frameworm.delivery.status import log_file, relay_of
from frameworm.delivery.supervisor import RelayProcess
from tests.frameworm.delivery.listeners import lines
from tests.frameworm.delivery.recorded import (
    NO_PLUGINS,
    QUICK,
    dead_letters,
    environment,
    listener,
    new_run,
    record,
    until,
    writing,
)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the relay import the tests' listeners."""
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that has just been made."""
    return new_run(tmp_path)


def begin(run_dir: Path, *listeners: object, restarts: int = 3) -> RelayProcess:
    """Start the relay of a run."""
    return RelayProcess(run_dir, listeners, plugins=NO_PLUGINS, options=QUICK, restarts=restarts)  # type: ignore[arg-type]


def test_a_run_is_delivered_and_waited_for(run: Path, tmp_path: Path) -> None:
    """The relay lives in a session of its own while the run does, and `drain` sees it end."""
    with writing(run) as write:
        process = begin(run, listener("a", "ToFile", path=tmp_path / "a"))
        pid = process.pid
        assert pid is not None
        assert os.getsid(pid) == pid != os.getsid(0)
        write("train_begin", epochs=1)
        for index in range(20):
            write("batch_end", batch_idx=index, loss=0.5)
        assert not process.drain(0.05)
        until(lambda: process.lag() == 0)
        assert os.getpriority(os.PRIO_PROCESS, pid) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 5)
        write("train_end", status="finished", reason=None, error=None)
        assert process.drain(20)
        assert process.pid is None
    assert len(lines(tmp_path / "a")) == 21
    assert {line["pid"] for line in lines(tmp_path / "a")} == {pid}


def test_without_listeners_there_is_no_relay(run: Path) -> None:
    """Nothing is started or written."""
    process = begin(run)
    assert process.pid is None
    assert (process.lag(), process.drain(), process.drain(0)) == (0, True, True)
    process.leave()
    assert not (run / "relay").exists()


def test_a_second_end(run: Path, tmp_path: Path) -> None:
    """Training once more in one session is delivered, too: waiting for it starts the relay again."""
    with writing(run) as write:
        process = begin(run, listener("a", "ToFile", path=tmp_path / "a"))
        for _ in range(2):
            write("train_begin", epochs=1)
            write("train_end", status="finished", reason=None, error=None)
            assert process.drain(20)
    assert len(lines(tmp_path / "a")) == 2


def test_a_relay_that_dies_is_started_again(run: Path, tmp_path: Path) -> None:
    """Killed at any moment, with nothing missing, at most 100 repeated each time, and no record blamed."""
    chance = random.Random(7)
    with writing(run) as write:
        process = begin(run, listener("a", "ToFile", path=tmp_path / "a", seconds=0.001), restarts=10)
        write("train_begin", epochs=1)
        killed = set[int]()
        for index in range(2000):
            write("batch_end", batch_idx=index, loss=0.5)
        for _ in range(4):
            until(lambda: process.pid not in {None, *killed})
            count = len(lines(tmp_path / "a"))
            until(lambda: len(lines(tmp_path / "a")) > count)  # noqa: B023  used at once
            time.sleep(chance.uniform(0, 0.1))
            assert process.pid is not None
            killed.add(process.pid)
            os.kill(process.pid, signal.SIGKILL)
        write("train_end", status="finished", reason=None, error=None)
        assert process.drain(40)
    seqs = [line["seq"] for line in lines(tmp_path / "a")]
    assert sorted(set(seqs)) == list(range(2, 2003))
    assert len(seqs) - len(set(seqs)) <= 4 * 100
    assert dead_letters(run, "a") == []


def test_a_record_that_kills_the_relay_costs_two_of_them(run: Path, tmp_path: Path) -> None:
    """The third one buries it and delivers the rest, without anybody's help."""
    record(run, 30)
    process = begin(run, listener("a", "Troubled", path=tmp_path / "a", at=20, how="die"))
    assert process.drain(40)
    assert {line["batch_idx"] for line in lines(tmp_path / "a")[:-1]} >= {*range(30)} - {20}
    assert [letter["record"]["batch_idx"] for letter in dead_letters(run, "a")] == [20]


def test_a_relay_that_always_dies_is_given_up(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """After so many within a minute that is said, with what to do."""
    record(run, 3)
    bad = [listener(str(at), "Troubled", path=tmp_path / str(at), at=at, how="die") for at in range(3)]
    with caplog.at_level(logging.WARNING, "frameworm"):
        process = begin(run, *bad, restarts=1)
        assert not process.drain(40)
    assert "stays dead" in caplog.messages[-1]
    assert f"frameworm relay {run}" in caplog.messages[-1]


def test_a_hung_listener_ends_the_waiting(run: Path, tmp_path: Path) -> None:
    """`drain` says that not all is delivered, and tells meanwhile how much is pending."""
    record(run, 30)
    told: list[int] = []
    process = begin(run, listener("a", "Troubled", path=tmp_path / "a", at=20, how="hang"))
    assert not process.drain(2, told.append)
    assert told
    assert set(told) <= set(range(33))
    process.leave()
    pid = process.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: process.pid is None)


def test_how_long_to_wait_may_change(run: Path, tmp_path: Path) -> None:
    """A second signal, say, ends the patience; a relay that cannot deliver ends the waiting at once."""
    with writing(run) as write:
        process = begin(run, listener("a", "Broken"), listener("b", "ToFile", path=tmp_path / "b"))
        write("train_begin", epochs=1)
        answers = iter([10.0, 10.0, 0.0])
        assert not process.drain(lambda: next(answers))
        write("train_end", status="finished", reason=None, error=None)
        assert not process.drain(lambda: 60.0)
    assert [report.state for report in status(run)] == ["failed to start", "ok"]


def test_what_is_left_alone_finishes_by_itself(run: Path, tmp_path: Path) -> None:
    """The trainer need not be there any more."""
    with writing(run) as write:
        process = begin(run, listener("a", "ToFile", path=tmp_path / "a", seconds=0.005))
        write("train_begin", epochs=1)
        for index in range(100):
            write("batch_end", batch_idx=index, loss=0.5)
    process.leave()
    assert process.drain(20)
    assert lines(tmp_path / "a")[-1]["status"] == "crashed"
    assert relay_of(run) is None


def test_output_without_end_is_bounded(run: Path, tmp_path: Path) -> None:
    """What a listener prints goes to a file, of which the first MiB is kept, and a line that says so."""
    record(run, 10)
    process = begin(run, listener("a", "Troubled", path=tmp_path / "a", at=3, how="chatter"))
    assert process.drain(20)
    assert 0 < log_file(run).stat().st_size < 1024 * 1024 + 1000
    assert b"longer than 1 MiB" in log_file(run).read_bytes()


def test_a_folder_that_cannot_be_written_is_no_error(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Training goes on, and the log says what does not."""
    (run / "relay").write_text("not a folder")
    process = begin(run, listener("a", "Nothing"))
    assert process.pid is None
    assert "nothing reaches the listeners of the process lane" in caplog.text


# A server that comes and goes


class Server:
    """Takes numbers by POST while it is up; answers 503 first, when it comes up again."""

    def __init__(self) -> None:
        self.got: list[int] = []
        self.port = 0
        self._refusals = 0
        self._server: ThreadingHTTPServer | None = None

    def up(self, refusals: int = 0) -> None:
        """Listen, at the same port as before."""
        outer = self
        self._refusals = refusals

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer._refusals -= 1
                if outer._refusals >= 0:
                    self.send_response(503)
                    self.send_header("Retry-After", "0")
                else:
                    outer.got += json.loads(body)
                    self.send_response(200)
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def down(self) -> None:
        """Be gone."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that is up."""
    server = Server()
    server.up()
    yield server
    server.down()


def test_a_server_that_is_away_for_a_while(run: Path, server: Server) -> None:
    """Everything is there at the end, once; meanwhile the listener says that it is trying."""
    with writing(run) as write:
        process = begin(run, listener("a", "ToServer", url=f"http://127.0.0.1:{server.port}/"))
        write("train_begin", epochs=1)
        for index in range(60):
            write("batch_end", batch_idx=index, loss=0.5)
            time.sleep(0.02)
            if index == 20:
                until(lambda: server.got)
                server.down()
            if index == 40:
                until(lambda: status(run)[0].state == "retrying")
                assert "refused" in (status(run)[0].last_error or "")
                server.up(refusals=2)
        write("train_end", status="finished", reason=None, error=None)
        assert process.drain(20)
    assert server.got == list(range(2, 63))
    [report] = status(run)
    assert (report.state, report.delivered, report.dead, report.pending) == ("ok", 61, 0, 0)
    assert report.retried >= 2
