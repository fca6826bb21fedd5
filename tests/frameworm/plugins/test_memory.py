"""What is remembered of a project: which plugins are disabled."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from frameworm.plugins.memory import Memory


def test_disabled_until_enabled(tmp_path: Path) -> None:
    """Another process reads what one has written; names are keys; nothing else is left in the folder."""
    Memory(tmp_path).disable("a")
    Memory(tmp_path).disable("b")
    Memory(tmp_path).disable("a")
    assert Memory(tmp_path).disabled() == {"a", "b"}
    Memory(tmp_path).enable("a")
    Memory(tmp_path).enable("never")
    assert Memory(tmp_path).disabled() == {"b"}
    assert [path.name for path in (tmp_path / ".frameworm").iterdir()] == ["plugins.json"]


def test_looking_writes_nothing(tmp_path: Path) -> None:
    """Nor does enabling what is enabled."""
    assert Memory(tmp_path).disabled() == frozenset()
    Memory(tmp_path).enable("a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["{", "[]", '{"disabled": 3}', '{"disabled": [1]}', "", "\xff"])
def test_a_corrupt_file_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str) -> None:
    """And written anew by the next change."""
    memory = Memory(tmp_path)
    memory.disable("a")
    assert memory.path is not None
    memory.path.write_bytes(text.encode("latin-1"))
    with caplog.at_level(logging.WARNING):
        assert memory.disabled() == frozenset()
    assert str(memory.path) in caplog.text
    memory.disable("b")
    assert memory.disabled() == {"b"}


def test_a_place_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Here a file is where the folder should be."""
    (tmp_path / ".frameworm").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        Memory(tmp_path).disable("a")
    assert "cannot be written" in caplog.text


def test_without_a_project_nothing_is_remembered(caplog: pytest.LogCaptureFixture) -> None:
    """Which is said when something should be."""
    memory = Memory(None)
    assert memory.disabled() == frozenset()
    with caplog.at_level(logging.WARNING):
        memory.disable("a")
    assert "no project" in caplog.text


def test_a_reader_never_sees_half_a_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """While others write."""
    memory = Memory(tmp_path)
    memory.disable("always")

    def write(name: str) -> None:
        for _ in range(50):
            memory.disable(name)
            memory.enable(name)

    threads = [threading.Thread(target=write, args=(f"n{number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    with caplog.at_level(logging.WARNING):
        while any(thread.is_alive() for thread in threads):
            assert "always" in memory.disabled()
    for thread in threads:
        thread.join()
    assert caplog.text == ""
