"""The connections of gloo, which torch cannot break off: who waits at the other end hears of it only when we exit."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_OPEN = Path("/dev/fd")  # of this process, on Linux and macOS


def open_connections(*, without: int) -> dict[int, tuple[object, object]]:
    """Return the connected TCP sockets of this process, and between which addresses; not those with the port `without`.

    They are found by looking through its descriptors.
    """
    found = {}
    for descriptor in list(_descriptors()):
        with suppress(OSError), _borrowed(descriptor) as connection:
            ends = (connection.getsockname(), connection.getpeername())
            internet = connection.family in {socket.AF_INET, socket.AF_INET6}
            if internet and connection.type == socket.SOCK_STREAM and without not in {ends[0][1], ends[1][1]}:
                found[descriptor] = ends
    return found


def break_off(connections: dict[int, tuple[object, object]]) -> None:
    """Shut connections down, those that are still between the same addresses; they remain open to be closed."""
    for descriptor, ends in connections.items():
        with suppress(OSError), _borrowed(descriptor) as connection:
            if (connection.getsockname(), connection.getpeername()) == ends:
                connection.shutdown(socket.SHUT_RDWR)


def _descriptors() -> Iterator[int]:
    return (int(path.name) for path in _OPEN.iterdir() if path.name.isdigit())


def _borrowed(descriptor: int) -> socket.socket:
    return socket.socket(fileno=os.dup(descriptor))
