"""How far a reader of a log has come, kept so that whoever kills it at whatever moment, it is known when it is back.

A cursor's file has two slots, of which every save overwrites the older one: the other is whole whatever happens. A slot
is a head (its number, how long its body is, the CRC-32 of both and of the body) and the body, a `Position` as JSON.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from zlib import crc32

import msgspec

SLOT = 64 * 1024
"""Bytes that a slot may take, its head included."""

_HEAD = struct.Struct("<QII")  # number, length of the body, checksum
_NUMBERED = struct.Struct("<QI")

_encode = msgspec.json.Encoder().encode


class Trying(msgspec.Struct, frozen=True):
    """Records, from number `first` to `last`, whose delivery is under way, and how often it was `begun`."""

    first: int
    last: int
    begun: int


class Position(msgspec.Struct, frozen=True):
    """What a cursor holds: all up to and including the record number `seq` is delivered; `state` is the reader's own.

    `trying` is what was under way: a reader that finds it there did not live to say how it ended.
    """

    seq: int = 0
    state: dict[str, Any] = {}
    trying: Trying | None = None


_decode = msgspec.json.Decoder(Position).decode


class Cursor:
    """The position in the file at `path`, read when opened, until `close`; what was saved survives a kill.

    A new or ruined file is at the beginning. One process at a time may save. Raises OSError when it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._number, self._position = _newest(self._fd)

    @property
    def position(self) -> Position:
        """What was saved last."""
        return self._position

    def save(self, position: Position) -> None:
        """Keep `position`.

        Raises TypeError or ValueError, and keeps the one before, where its state is not JSON or too long for a slot;
        OSError when the disk refuses it.
        """
        body = _encode(position)
        if _HEAD.size + len(body) > SLOT:
            raise ValueError(f"a cursor's state takes at most {SLOT - _HEAD.size} bytes, got {len(body)}")
        number = self._number + 1
        os.pwrite(self._fd, _head(number, body) + body, number % 2 * SLOT)
        self._number, self._position = number, position

    def close(self) -> None:
        """Close the file; again is no error."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.close()


def position_in(path: Path) -> Position:
    """Return what the cursor at `path` holds, also while another process saves; the beginning where there is none."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return Position()
    try:
        return _newest(fd)[1]
    finally:
        os.close(fd)


def _head(number: int, body: bytes) -> bytes:
    return _HEAD.pack(number, len(body), crc32(body, crc32(_NUMBERED.pack(number, len(body)))))


def _newest(fd: int) -> tuple[int, Position]:
    """Return the number and the position of the newer one of the slots that are whole."""
    slots = [slot for slot in (_slot(os.pread(fd, SLOT, offset)) for offset in (0, SLOT)) if slot is not None]
    return max(slots, key=lambda slot: slot[0], default=(0, Position()))


def _slot(content: bytes) -> tuple[int, Position] | None:
    if len(content) < _HEAD.size:
        return None
    number, length, _ = _HEAD.unpack_from(content)
    body = content[_HEAD.size : _HEAD.size + length]
    if len(body) < length or content[: _HEAD.size] != _head(number, body):
        return None
    try:
        return number, _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
