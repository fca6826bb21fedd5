"""Reading a log: in order, from anywhere, while it grows and while its files are renamed."""

from __future__ import annotations

from pathlib import Path

import pytest

from bus import logfile
from bus.log import LogReader, LogWriter, Record, newest_first
from bus.logfile import line_of, parse


def writer_at(path: Path, max_bytes: int = 1 << 20) -> LogWriter:
    """Open a writer with a plain gap record."""
    return LogWriter(path, gap=lambda first, last: {"gap": [first, last]}, max_bytes=max_bytes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the test's file is."""
    return tmp_path / "events.jsonl"


@pytest.mark.parametrize(
    "line",
    [b"", b"{}", b"0}", b',"crc":0}', b'{"seq":1}', b'{"seq":1,"crc":1}', b'{"seq":1,"crc":+2045894117}', b"\xff\xfe"],
)
def test_a_line_that_no_writer_wrote_is_no_record(line: bytes) -> None:
    """Neither JSON alone nor a checksum alone makes a record."""
    assert parse(line) is None


def test_a_written_line_is_its_record() -> None:
    """Lines and records turn into each other."""
    record: Record = {"seq": 7, "text": "ä\n"}
    parsed = parse(line_of(record)[:-1])
    assert parsed is not None
    assert parsed.items() >= record.items()


def test_a_log_that_is_not_there_has_no_records(tmp_path: Path) -> None:
    """A reader may come before the writer, even before the folder."""
    reader = LogReader(tmp_path / "later" / "events.jsonl")
    assert list(reader) == []
    assert list(newest_first(tmp_path / "events.jsonl")) == []
    (tmp_path / "later").mkdir()
    with writer_at(tmp_path / "later" / "events.jsonl") as writer:
        writer.append({})
    assert [record["seq"] for record in reader] == [1]
    reader.close()


def test_a_reader_follows_a_log_over_its_files(path: Path) -> None:
    """Each time it is asked it goes on behind the last record, also after the file was renamed under it."""
    reader = LogReader(path)
    followed = []
    with writer_at(path, max_bytes=100) as writer:
        for number in range(1, 21):
            writer.append({"text": "x" * 20})
            if number % 5 == 0:
                followed.append([record["seq"] for record in reader])
    reader.close()
    assert followed == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10], [11, 12, 13, 14, 15], [16, 17, 18, 19, 20]]


def test_a_reader_that_was_left_in_the_middle_goes_on_there(path: Path) -> None:
    """Breaking out of the loop loses nothing."""
    with writer_at(path) as writer:
        for _ in range(5):
            writer.append({})
    reader = LogReader(path)
    assert next(iter(reader))["seq"] == 1
    assert next(iter(reader))["seq"] == 2
    assert [record["seq"] for record in reader] == [3, 4, 5]
    reader.close()


@pytest.mark.parametrize("after", [0, 1, 7, 19, 20, 21])
def test_a_reader_starts_behind_a_number(path: Path, after: int) -> None:
    """It starts in the right file, and yields nothing at or below the number."""
    with writer_at(path, max_bytes=100) as writer:
        for _ in range(20):
            writer.append({"text": "x" * 20})
    reader = LogReader(path, after=after)
    assert [record["seq"] for record in reader] == list(range(after + 1, 21))
    reader.close()


def test_damaged_lines_are_counted(path: Path) -> None:
    """The reader says how many lines it could not use."""
    with writer_at(path) as writer:
        for _ in range(3):
            writer.append({})
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"what is this?\n\n" + lines[2])
    reader = LogReader(path)
    assert [record["seq"] for record in reader] == [1, 3]
    assert reader.corrupt == 2
    reader.close()


def test_a_record_without_its_newline_is_not_there_yet(path: Path) -> None:
    """A line that is just being written is neither read nor counted as damage, until it is whole."""
    line = line_of({"seq": 1})
    path.write_bytes(line[:-1])
    reader = LogReader(path)
    assert list(reader) == []
    assert reader.corrupt == 0
    path.write_bytes(line)
    assert [record["seq"] for record in reader] == [1]
    reader.close()


def test_a_full_file_that_lost_its_end_is_damaged(path: Path) -> None:
    """Nobody will write the rest of a full file."""
    path.with_name("events.000001.jsonl").write_bytes(line_of({"seq": 1}) + line_of({"seq": 2})[:-1])
    path.write_bytes(line_of({"seq": 3}))
    reader = LogReader(path)
    assert [record["seq"] for record in reader] == [1, 3]
    assert reader.corrupt == 1
    reader.close()


def test_other_files_in_the_folder_are_not_read(path: Path) -> None:
    """Another rank's log and somebody's backup are no parts of this one."""
    for name in ("events.r1.jsonl", "events.1.bak.jsonl", "events.r1.000001.jsonl"):
        path.with_name(name).write_bytes(line_of({"seq": 1}))
    path.write_bytes(line_of({"seq": 2}))
    reader = LogReader(path)
    assert [record["seq"] for record in reader] == [2]
    reader.close()


@pytest.mark.parametrize("block", [1, 7, 64, 1 << 16])
def test_reading_does_not_depend_on_the_size_of_blocks(path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """Lines may lie across any number of blocks, forwards and backwards."""
    monkeypatch.setattr(logfile, "_BLOCK", block)
    with writer_at(path) as writer:
        for length in (0, 100, 3, 0, 50):
            writer.append({"text": "x" * length})
    with path.open("ab") as file:
        file.write(b'{"torn')
    reader = LogReader(path)
    assert [record["seq"] for record in reader] == [1, 2, 3, 4, 5]
    reader.close()
    assert [record["seq"] for record in newest_first(path)] == [5, 4, 3, 2, 1]
    with writer_at(path) as writer:
        assert writer.seq == 5
        assert writer.statistics().torn == 6


def test_a_file_that_becomes_full_while_reading_backwards_is_read_once(path: Path) -> None:
    """Renaming under a reader neither repeats nor hides records."""
    with writer_at(path) as writer:
        for _ in range(3):
            writer.append({})
    records = newest_first(path)
    assert next(records)["seq"] == 3
    path.rename(path.with_name("events.000001.jsonl"))
    assert [record["seq"] for record in records] == [2, 1]
