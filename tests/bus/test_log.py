"""The writer of a log: what it promises about records, numbers, damage, full disks and other writers."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any
from zlib import crc32

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bus.log import LogBusyError, LogReader, LogWriter, Record, newest_first, writer_of

DISK_FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def gap(first: int, last: int) -> Record:
    """Tell of lost records the way the tests look for it."""
    return {"gap": [first, last]}


def write(path: Path, *records: Record, max_bytes: int = 1 << 20) -> None:
    """Open the log, append the records, close it."""
    with LogWriter(path, gap=gap, max_bytes=max_bytes) as writer:
        for record in records:
            writer.append(record)


def read(path: Path) -> list[Record]:
    """Read all records."""
    reader = LogReader(path)
    records = list(reader)
    reader.close()
    return records


def seqs(path: Path) -> list[int]:
    """Read the numbers of all records."""
    return [record["seq"] for record in read(path)]


def run(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a Python process in which `path` is the first argument and the log's names are imported."""
    prelude = (
        "import os, sys, time\nfrom pathlib import Path\nfrom bus.log import *\npath = Path(sys.argv[1])\n"
        "gap = lambda first, last: {'gap': [first, last]}\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", prelude + textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the test's log is."""
    return tmp_path / "events.jsonl"


class FakeDisk:
    """Stands in for `os.write`: takes `room` more bytes, also a part of a line, then is full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room = 1 << 20
        self.write = os.write
        monkeypatch.setattr("os.write", self._write)

    def _write(self, fd: int, data: bytes) -> int:
        if self.room == 0:
            raise DISK_FULL
        written = self.write(fd, data[: self.room])
        self.room -= written
        return written


def test_a_record_is_read_as_it_was_written(path: Path) -> None:
    """A record comes back with its keys in order, its number where it had it, and the checksum last."""
    write(path, {"v": 1, "seq": 0, "name": "a", "value": 0.5}, {"name": "b\n"})
    assert [list(record.items())[:-1] for record in read(path)] == [
        [("v", 1), ("seq", 1), ("name", "a"), ("value", 0.5)],
        [("name", "b\n"), ("seq", 2)],
    ]


def test_the_line_is_what_the_format_says(path: Path) -> None:
    """Anyone can check a line with json and crc32 alone."""
    write(path, {"text": '","crc":1}'})
    line = path.read_bytes()
    body = line[: line.rindex(b',"crc":')]
    assert json.loads(line)["crc"] == crc32(body)
    assert json.loads(body + b"}") == {"text": '","crc":1}', "seq": 1}


def test_numbers_go_on_when_the_log_is_reopened(path: Path) -> None:
    """A second writer goes on where the first one ended, and knows the record with which it ended."""
    write(path, {}, {"last": True})
    with LogWriter(path, gap=gap) as writer:
        assert writer.last is not None
        assert writer.last["last"] is True
        assert writer.seq == 2
        writer.append({})
    assert seqs(path) == [1, 2, 3]


def test_a_full_file_is_renamed_and_numbers_go_on(path: Path) -> None:
    """Records run on over the files in order, the newest under the log's own name."""
    write(path, *({"text": "x" * 30} for _ in range(7)), max_bytes=150)
    names = sorted(file.name for file in path.parent.glob("*.jsonl"))
    assert names == ["events.000001.jsonl", "events.000002.jsonl", "events.000003.jsonl", "events.jsonl"]
    assert seqs(path) == [1, 2, 3, 4, 5, 6, 7]
    assert [record["seq"] for record in newest_first(path)] == [7, 6, 5, 4, 3, 2, 1]


def test_numbers_go_on_when_the_newest_file_is_missing(path: Path) -> None:
    """A death between renaming the full file and making the next one loses nothing."""
    write(path, {}, {})
    path.rename(path.with_name("events.000001.jsonl"))
    write(path, {})
    assert seqs(path) == [1, 2, 3]


def test_a_torn_tail_is_cut_at_opening_and_counted(path: Path) -> None:
    """What a dying writer left of a record goes, the records before it stay."""
    write(path, {}, {})
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:17])
    with LogWriter(path, gap=gap) as writer:
        assert writer.statistics().torn == 17
        assert path.read_bytes() == whole
        writer.append({})
    assert seqs(path) == [1, 2, 3]


def test_the_number_of_a_damaged_record_is_not_used_again(path: Path) -> None:
    """Somebody may have read the record before it was damaged."""
    write(path, {}, {}, {})
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    write(path, {})
    assert seqs(path) == [1, 2, 4]


def test_what_is_not_json_raises_and_changes_nothing(path: Path) -> None:
    """The caller's mistake is the caller's error, and costs no number."""
    with LogWriter(path, gap=gap) as writer:
        with pytest.raises(TypeError):
            writer.append({"value": object()})
        writer.append({})
    assert seqs(path) == [1]


@st.composite
def damaged(draw: st.DrawFn) -> tuple[list[int], int, int, bytes]:
    """Lengths of records, and a stretch of their log's bytes that is cut out, or one byte and how it is flipped."""
    lengths = draw(st.lists(st.integers(0, 40), min_size=1, max_size=8))
    size = sum(len(line(number, length)) for number, length in enumerate(lengths, 1))
    start = draw(st.integers(0, size - 1))
    if draw(st.booleans()):
        return lengths, start, start + 1, bytes([draw(st.integers(1, 255))])
    return lengths, start, draw(st.integers(start + 1, size)), b""


def line(number: int, length: int) -> bytes:
    """The line that the format demands for a record with a text of that length."""
    body = b'{"text":"%b","seq":%d' % (b"x" * length, number)
    return b'%b,"crc":%d}\n' % (body, crc32(body))


@given(damaged())
@example(([0, 0, 0, 13, 8, 0], 158, 240, b""))
@example(([20, 16, 0], 1, 111, b""))
def test_damage_anywhere_hides_what_it_touches_and_nothing_else(damage: tuple[list[int], int, int, bytes]) -> None:
    """However bytes are flipped or cut, exactly the untouched records are read, and the next writer goes on."""
    lengths, start, end, flip = damage
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "events.jsonl")
        write(path, *({"text": "x" * length} for length in lengths))
        lines = path.read_bytes().splitlines(keepends=True)
        assert lines == [line(number, length) for number, length in enumerate(lengths, 1)]
        data = path.read_bytes()
        left = data[:start] + bytes(a ^ b for a, b in zip(data[start:end], flip, strict=False)) + data[end:]
        # Lines differ in their numbers. One that was cut is whole where its neighbours happen to complete it.
        whole = left.split(b"\n")[:-1]
        untouched = [number for number, line in enumerate(lines, 1) if line[:-1] in whole]
        path.write_bytes(left)

        assert seqs(path) == untouched
        assert [record["seq"] for record in newest_first(path)] == untouched[::-1]
        write(path, {"text": "next"})
        assert seqs(path)[:-1] == untouched
        assert read(path)[-1]["text"] == "next"
        assert all(earlier < later for earlier, later in pairwise(seqs(path)))


@settings(max_examples=50)
@given(st.lists(st.sampled_from(["append", "reopen", "tear", "read"]), max_size=40))
def test_reader_and_reopened_writers_agree_on_all_records(steps: list[str]) -> None:
    """Whatever is reopened or torn between, a reader that follows sees each record once, in order."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "events.jsonl")
        reader = LogReader(path)
        writer = LogWriter(path, gap=gap, max_bytes=150)
        followed, appended = [], 0
        for step in [*steps, "read"]:
            if step == "append":
                appended += 1
                writer.append({"number": appended})
            elif step == "read":
                followed += [record["number"] for record in reader]
            else:
                writer.close()
                if step == "tear":
                    with path.open("ab") as file:
                        file.write(b'{"number":')
                    followed += [record["number"] for record in reader]
                writer = LogWriter(path, gap=gap, max_bytes=150)
        writer.close()
        reader.close()
        assert followed == list(range(1, appended + 1))
        assert reader.corrupt == 0
        assert seqs(path) == followed


def test_records_of_several_threads_are_all_there_in_order(path: Path) -> None:
    """Threads may append at once; each record has its own number, and numbers rise along the file."""
    with LogWriter(path, gap=gap, max_bytes=5000) as writer:

        def append() -> None:
            for _ in range(500):
                writer.append({"text": "x"})

        threads = [threading.Thread(target=append) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert seqs(path) == list(range(1, 2001))


def test_a_signal_handler_may_append_while_its_own_thread_does(path: Path) -> None:
    """A record from a handler waits for the one that it interrupted: no deadlock, no number twice or out of order."""
    with LogWriter(path, gap=gap) as writer:
        interrupts = 0

        def handler(_signal: int, _frame: FrameType | None) -> None:
            nonlocal interrupts
            interrupts += 1
            writer.append({"from": "handler"})

        before = signal.signal(signal.SIGVTALRM, handler)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0005, 0.0005)
        try:
            count = 0
            while interrupts < 50:
                writer.append({"from": "loop"})
                count += 1
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, before)
    assert seqs(path) == list(range(1, count + interrupts + 1))


def test_an_interrupt_uses_no_number_twice(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C may strike right after the write, before the writer knows that it is done."""
    with LogWriter(path, gap=gap) as writer:
        write_bytes = os.write

        def interrupted(fd: int, data: bytes) -> int:
            write_bytes(fd, data)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("os.write", interrupted)
            with pytest.raises(KeyboardInterrupt):
                writer.append({})
        writer.append({})
    assert seqs(path) == [1, 2]


# The disk


def test_lost_records_leave_a_gap_with_the_exact_range(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a full disk nothing raises, one warning is given, and when space returns a record says what is missing."""
    disk = FakeDisk(monkeypatch)
    with caplog.at_level(logging.WARNING, "bus"), LogWriter(path, gap=gap) as writer:
        writer.append({"number": 1})
        disk.room = 10  # bytes of the next line
        for number in (2, 3, 4):
            writer.append({"number": number})
        assert [record["number"] for record in read(path)] == [1]
        assert writer.statistics().lost == 3
        disk.room = 1 << 20
        writer.append({"number": 5})
        assert writer.statistics().written == 3
    assert [(record["seq"], record.get("gap"), record.get("number")) for record in read(path)] == [
        (1, None, 1),
        (5, [2, 4], None),
        (6, None, 5),
    ]
    assert len(caplog.records) == 1
    assert os.strerror(errno.ENOSPC) in caplog.text


def test_a_gap_that_is_still_open_is_recorded_at_closing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last chance to tell of lost records is taken."""
    disk = FakeDisk(monkeypatch)
    with LogWriter(path, gap=gap) as writer:
        disk.room = 0
        writer.append({})
        disk.room = 1 << 20
    assert [record["gap"] for record in read(path)] == [[1, 1]]


def test_warnings_come_once_a_minute(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk that stays full is mentioned again after a minute, not at every record."""
    now = 1000.0
    monkeypatch.setattr("bus.log.time.monotonic", lambda: now)
    disk = FakeDisk(monkeypatch)
    with caplog.at_level(logging.WARNING, "bus"), LogWriter(path, gap=gap) as writer:
        disk.room = 0
        for now in (1000.0, 1059.0, 1061.0, 1062.0):  # noqa: B007  read by the fake clock
            writer.append({})
        disk.room = 1 << 20
    assert len(caplog.records) == 2


def test_a_file_that_cannot_be_renamed_grows_on(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No record is lost for want of a new file."""

    def refuse(_self: Path, _target: Path) -> Path:
        raise DISK_FULL

    with caplog.at_level(logging.WARNING, "bus"), LogWriter(path, gap=gap, max_bytes=50) as writer:
        monkeypatch.setattr(Path, "rename", refuse)
        for _ in range(5):
            writer.append({})
    assert seqs(path) == [1, 2, 3, 4, 5]
    assert len(caplog.records) == 1


def test_a_real_file_size_limit_is_survived(path: Path) -> None:
    """The kernel refuses in the middle of a line; afterwards every record is there or in the gap."""
    with run(
        """
        import resource
        writer = LogWriter(path, gap=gap)
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        for number in range(1, 51):
            writer.append({"number": number})
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        writer.append({"number": 51})
        writer.close()
        print(writer.statistics().lost)
        """,
        path,
    ) as process:
        lost = int(process.communicate(timeout=30)[0])
    records = read(path)
    kept = [record["number"] for record in records if "number" in record]
    assert kept == [*range(1, 51 - lost), 51]
    assert [record["gap"] for record in records if "gap" in record] == [[51 - lost, 50]]
    assert seqs(path) == [*range(1, 51 - lost), 51, 52]


def test_every_record_whose_append_returned_survives_a_kill(path: Path) -> None:
    """SIGKILL takes nothing that the writer had acknowledged, however often, and the next writer goes on behind it."""
    code = """
        writer = LogWriter(path, gap=gap, max_bytes=20_000)
        while True:
            writer.append({"text": "x" * 50})
            os.write(1, b"%d\\n" % writer.seq)
        """
    for lines in (1, 10, 100, 1000):
        with run(code, path) as process:
            assert process.stdout is not None
            printed = "".join(process.stdout.readline() for _ in range(lines))
            process.kill()
            printed += process.stdout.read()
        acknowledged = int(printed.split("\n")[-2])
        found = seqs(path)
        assert found == list(range(1, len(found) + 1))
        assert len(found) >= acknowledged
        assert writer_of(path) is None


# Other processes


@pytest.fixture
def other_writer(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A living process that writes the log, until its stdin is closed."""
    with run("writer = LogWriter(path, gap=gap)\nprint('open', flush=True)\nsys.stdin.read()", path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process
        process.communicate(timeout=30)


def test_a_second_writer_is_refused_with_the_name_of_the_first(path: Path, other_writer: subprocess.Popen[str]) -> None:
    """The error carries who holds the log, and readers can ask for it."""
    with pytest.raises(LogBusyError) as refused:
        LogWriter(path, gap=gap)
    assert refused.value.owner.pid == other_writer.pid
    assert f"process {other_writer.pid} on" in str(refused.value)
    assert writer_of(path) == refused.value.owner


def test_nobody_writes_a_log_that_was_closed(path: Path) -> None:
    """While the writer is open it is its owner; afterwards there is none, as before."""
    assert writer_of(path) is None
    with LogWriter(path, gap=gap):
        owner = writer_of(path)
        assert owner is not None
        assert owner.pid == os.getpid()
    assert writer_of(path) is None


def test_a_forked_child_writes_nothing_and_holds_no_lock(path: Path) -> None:
    """In the child the writer is inert; when the parent is gone the log is free, though the child lives on."""
    with run(
        """
        writer = LogWriter(path, gap=gap)
        writer.append({"who": "parent"})
        if os.fork() == 0:
            writer.append({"who": "child"})
            writer.sync()
            writer.close()
            print("child", flush=True)
            sys.stdin.read()
            os._exit(0)
        writer.append({"who": "parent"})
        os._exit(0)
        """,
        path,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "child\n"
        process.wait(timeout=30)
        assert [record["who"] for record in read(path)] == ["parent", "parent"]
        assert writer_of(path) is None
        process.communicate(timeout=30)


def test_a_closed_writer_writes_nothing(path: Path) -> None:
    """Closing again and appending afterwards do nothing, quietly."""
    writer = LogWriter(path, gap=gap)
    writer.close()
    writer.close()
    writer.append({})
    writer.sync()
    assert read(path) == []


def test_a_folder_that_cannot_be_written_is_an_error_at_opening(tmp_path: Path) -> None:
    """Trouble that is there from the start is told at the start, and leaves no lock behind."""
    (tmp_path / "events.jsonl").mkdir()
    with pytest.raises(OSError, match=r"events\.jsonl"):
        LogWriter(tmp_path / "events.jsonl", gap=gap)
    assert writer_of(tmp_path / "events.jsonl") is None


def test_sync_flushes_on_another_thread(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that asks for a flush never does one."""
    flushed: list[tuple[int, str]] = []
    done = threading.Event()

    def flush(fd: int) -> None:
        flushed.append((os.fstat(fd).st_size, threading.current_thread().name))
        if len(flushed) == 2:  # the folder and the file
            done.set()

    monkeypatch.setattr("bus.flush._flush", flush)
    with LogWriter(path, gap=gap) as writer:
        writer.append({})
        writer.sync()
        assert done.wait(10)
        size = path.stat().st_size
    assert (size, "log-flusher") in flushed
    assert threading.current_thread().name not in {thread for _, thread in flushed}


def test_a_disk_that_cannot_flush_is_a_warning(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A failing flush is told and does not end the flushing."""

    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("bus.flush._flush", fail)
    with caplog.at_level(logging.WARNING, "bus"), LogWriter(path, gap=gap) as writer:
        writer.append({})
        writer.sync()
    assert "cannot be flushed" in caplog.text
    assert seqs(path) == [1]


def test_statistics_say_how_long_a_write_took(path: Path) -> None:
    """A stalled disk can be seen."""
    with LogWriter(path, gap=gap) as writer:
        writer.append({})
        statistics: Any = writer.statistics()
    assert (statistics.written, statistics.lost, statistics.torn) == (1, 0, 0)
    assert 0 < statistics.slowest < 10
