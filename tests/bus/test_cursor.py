"""A cursor: what was saved is there after a kill at any moment, and damage is never taken for a position."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.cursor import SLOT, Cursor, Position, Trying, position_in

states = st.dictionaries(st.text(max_size=5), st.integers(-5, 5) | st.text(max_size=20) | st.none(), max_size=3)
positions = st.builds(
    Position,
    st.integers(0, 2**53),
    states,
    st.none() | st.builds(Trying, st.integers(0, 2**53), st.integers(0, 2**53), st.integers(1, 3)),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the test's file is."""
    return tmp_path / "listener.cursor"


def test_a_new_cursor_is_at_the_beginning(path: Path) -> None:
    """Nothing has been delivered, nothing is kept."""
    assert position_in(path) == Position()
    with Cursor(path) as cursor:
        assert cursor.position == Position(0, {}, None)
    assert path.stat().st_mode & 0o077 == 0


def test_what_was_saved_is_read(path: Path) -> None:
    """By the next one that opens it, and by others meanwhile; every save counts."""
    cursor = Cursor(path)
    for seq in range(5):
        position = Position(seq, {"run": "a", "step": seq}, Trying(seq + 1, seq + 9, 1))
        cursor.save(position)
        assert cursor.position == position_in(path) == position
    cursor.close()
    cursor.close()
    with Cursor(path) as again:
        assert again.position == position
        again.save(Position(7))
    assert position_in(path) == Position(7)


@pytest.mark.parametrize(("state", "error"), [({"long": "x" * SLOT}, ValueError), ({"object": object()}, TypeError)])
def test_a_state_that_cannot_be_kept_is_refused(path: Path, state: Any, error: type[Exception]) -> None:
    """The position before stays, and the next one is saved as if nothing had been."""
    with Cursor(path) as cursor:
        cursor.save(Position(1))
        with pytest.raises(error):
            cursor.save(Position(2, state))
        assert cursor.position == position_in(path) == Position(1)
        cursor.save(Position(3))
    assert position_in(path) == Position(3)


def _content(saved: list[Position]) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "cursor"
        with Cursor(path) as cursor:
            for position in saved:
                cursor.save(position)
        return path.read_bytes()


def _read(content: bytes) -> Position:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "cursor"
        path.write_bytes(content)
        return position_in(path)


@given(st.lists(positions, min_size=1, max_size=4), positions, st.integers(0, 400))
def test_a_torn_save_leaves_the_position_before(saved: list[Position], last: Position, length: int) -> None:
    """However much of a save has reached the file, it is that position or the one before it."""
    before, after = _content(saved), _content([*saved, last])
    start = (len(saved) + 1) % 2 * SLOT
    torn = before.ljust(start, b"\0")[:start] + after[start : start + length]
    assert _read(torn + before[len(torn) :]) in (saved[-1], last)


@given(st.lists(positions, min_size=2, max_size=4), st.data())
def test_a_flipped_bit_is_never_read(saved: list[Position], data: st.DataObject) -> None:
    """Wherever a bit changes, it is the newest position or the one before it."""
    content = bytearray(_content(saved))
    place = data.draw(st.integers(0, len(content) - 1) | st.integers(0, 200) | st.integers(SLOT, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    assert _read(bytes(content)) in saved[-2:]


@given(st.binary(max_size=200))
def test_other_files_are_no_positions(content: bytes) -> None:
    """What is no cursor's file counts as the beginning."""
    assert _read(content) == Position()


def test_a_kill_while_saving(path: Path) -> None:
    """The state belongs to the number, whenever the process was killed, and what it reported as saved is saved."""
    code = (
        "import sys; from pathlib import Path; from bus.cursor import Cursor, Position\n"
        "cursor = Cursor(Path(sys.argv[1])); seq = cursor.position.seq\n"
        "while True: seq += 1; cursor.save(Position(seq, {'same': seq})); seq % 1000 or print(seq, flush=True)"
    )
    seen = 0
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            seen = int(process.stdout.readline())
            os.kill(process.pid, signal.SIGKILL)
        position = position_in(path)
        assert position.seq >= seen
        assert position.state == {"same": position.seq}
