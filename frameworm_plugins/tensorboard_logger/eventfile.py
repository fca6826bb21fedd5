"""TensorBoard's event file, written so that what is delivered twice is in it once."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from frameworm.plugins.tracking import Point

_HEAD, _TAIL = 12, 4  # bytes around a record: its length and the checksum of that, and its own checksum


def write(path: Path, size: int, entries: Iterable[Any]) -> int:
    """Put entries behind the first `size` bytes of a file, and return its size then; what was there is cut off.

    So a writer that was killed, or had no space, is followed by one that begins where all was well.
    """
    buffer = io.BytesIO()
    writer = import_module("tensorboard.summary.writer.record_writer").RecordWriter(buffer)
    for entry in entries:
        writer.write(entry.SerializeToString())
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b") as file:
        file.truncate(size)
        file.seek(size)
        file.write(buffer.getbuffer())
    return size + buffer.tell()


def whole(path: Path, limit: int | None = None) -> int:
    """Return how many bytes of a file, up to `limit`, are whole records; 0 of one that is not there."""
    try:
        with path.open("rb") as file:
            end = min(os.fstat(file.fileno()).st_size, limit if limit is not None else 1 << 62)
            size = 0
            while size + _HEAD + _TAIL <= end:
                file.seek(size)
                following = size + _HEAD + int.from_bytes(file.read(8), "little") + _TAIL
                if following > end:
                    break
                size = following
            return size
    except FileNotFoundError:
        return 0


def header(time: datetime) -> Any:
    """Return the entry that a file begins with."""
    return _event(time, file_version="brain.Event:2")


def restart(time: datetime, step: int) -> Any:
    """Return the entry that makes readers forget what they have from `step` on: it comes again."""
    log = _proto().SessionLog
    return _event(time, step=step, session_log=log(status=log.START))


def scalars(points: list[Point]) -> Any:
    """Return the entry of points that have one step and time."""
    summary = import_module("tensorboard.compat.proto.summary_pb2").Summary
    values = [summary.Value(tag=point.key, simple_value=point.value) for point in points]
    return _event(points[0].time, step=points[0].step, summary=summary(value=values))


def _event(time: datetime, **what: Any) -> Any:
    return _proto().Event(wall_time=time.timestamp(), **what)


def _proto() -> Any:
    return import_module("tensorboard.compat.proto.event_pb2")
