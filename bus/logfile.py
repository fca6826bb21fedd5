"""The files of a log, and reading them: what is a record, where it lies, how it is found while others are written.

A log is a file, `events.jsonl` say, and the full files that it was before: `events.000001.jsonl`, and so on. They are
JSON Lines. A line is a record's object with two keys of the log's own:

- `seq`: the record's number, strictly increasing over the log, whoever wrote it, however often it was reopened.
- `crc`, always the last: the CRC-32 of all bytes of the line before `,"crc":`, as a decimal number.

A line that is not exactly so is no record; what follows the last newline is being written, or never was.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from zlib import crc32

import msgspec

Record = dict[str, Any]

_BLOCK = 64 * 1024  # bytes that are read at a time

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Record).decode


def line_of(record: Record) -> bytes:
    """Return the line of a record; raises TypeError, ValueError or OverflowError for one that is not JSON."""
    body = _encode(record)[:-1]
    return b'%b,"crc":%d}\n' % (body, crc32(body))


def parse(line: bytes) -> Record | None:
    """Return the record of a line (without its newline), None if it is not as a writer wrote it."""
    body, _, check = line.rpartition(b',"crc":')
    if check != b"%d}" % crc32(body):
        return None
    try:
        return _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


class LogReader:
    """Reads the records of the log at `path` in order, damaged ones left out and counted, also while it is written.

    Iterating yields the records behind the number `after` that are there; iterating again yields what came since. A log
    that does not exist (yet) has none.
    """

    def __init__(self, path: Path, *, after: int = 0) -> None:
        self.after = after
        """The number of the record that was yielded last."""
        self.corrupt = 0
        """Lines met so far that were no records."""
        self._path = path
        self._file: BinaryIO | None = None
        self._number = 0  # of the file that is being read, or was read last
        self._offset = 0  # of the line to read next in it

    def __iter__(self) -> Iterator[Record]:
        while True:
            full = full_files(self._path)  # looked up before reading: nothing is appended to these any more
            file = self._file or self._open_next()
            if file is None:
                return
            yield from self._read(file, full=self._number in full)
            if self._number not in full:
                return
            self.close()

    def close(self) -> None:
        """Close the file that is open; again is no error."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open_next(self) -> BinaryIO | None:
        newest = _open_if_there(self._path)
        full = full_files(self._path)  # looked up after opening: should the newest have become full, it is among these
        for number, path in full.items():
            if number > self._number and _last_seq(path) > self.after:
                if newest is not None:
                    newest.close()
                self._number, newest = number, path.open("rb", buffering=0)
                break
        else:
            if newest is not None:
                self._number = max(full, default=0) + 1
        self._file, self._offset = newest, 0
        return newest

    def _read(self, file: BinaryIO, *, full: bool) -> Iterator[Record]:
        file.seek(self._offset)
        rest = b""
        while block := file.read(_BLOCK):
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                self._offset += len(line) + 1
                record = parse(line)
                if record is None:
                    self.corrupt += 1
                elif record["seq"] > self.after:
                    self.after = record["seq"]
                    yield record
        if full and rest:
            self.corrupt += 1


def newest_first(path: Path) -> Iterator[Record]:
    """Yield the records of the log at `path` from the last one back, damaged ones left out; reads only what is used."""
    oldest = None
    for line in lines_newest_first(path):
        record = parse(line)
        # A file that becomes full in this moment is met under both of its names.
        if record is not None and (oldest is None or record["seq"] < oldest):
            oldest = record["seq"]
            yield record


def _last_seq(file: Path) -> int:
    """Return the number of the last record of one file of a log, 0 where it has none."""
    with file.open("rb", buffering=0) as opened:
        return next((record["seq"] for record in map(parse, _backwards(opened)) if record is not None), 0)


def lines_newest_first(path: Path) -> Iterator[bytes]:
    """Yield the whole lines of a log, the last one first, without their newlines."""
    newest = _open_if_there(path)
    if newest is not None:
        with newest:
            full = full_files(path)  # looked up after opening: else a file that becomes full meanwhile were missed
            yield from _backwards(newest)
    else:
        full = full_files(path)
    for file in reversed(full.values()):
        with file.open("rb", buffering=0) as opened:
            yield from _backwards(opened)


def _backwards(file: BinaryIO) -> Iterator[bytes]:
    """Yield the whole lines of a file, the last one first, without their newlines."""
    end = file.seek(0, os.SEEK_END)
    tail = b""
    while end:
        start = max(0, end - _BLOCK)
        file.seek(start)
        first, newline, rest = (file.read(end - start) + tail).partition(b"\n")
        yield from reversed(rest.split(b"\n")[:-1])
        tail, end = first + newline, start
    if tail.endswith(b"\n"):
        yield tail[:-1]


def whole_length(fd: int, end: int) -> int:
    """Return the length of the whole lines among the first `end` bytes of a file."""
    while end:
        start = max(0, end - _BLOCK)
        newline = os.pread(fd, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _open_if_there(path: Path) -> BinaryIO | None:
    """Return the file at `path`, opened without a buffer, None where there is none."""
    try:
        return path.open("rb", buffering=0)
    except FileNotFoundError:
        return None


def full_files(path: Path) -> dict[int, Path]:
    """Return the full files of a log by their numbers, in order."""
    files = path.parent.glob(f"{glob.escape(path.stem)}.[0-9]*{path.suffix}")
    numbers = {file.stem.rpartition(".")[2]: file for file in files}
    return dict(sorted((int(number), file) for number, file in numbers.items() if number.isdecimal()))


def numbered(path: Path, number: int) -> Path:
    """Return what the file at `path` is called as the full file of this number."""
    return path.with_name(f"{path.stem}.{number:06}{path.suffix}")
