"""What one command leaves for the next: which of a project's plugins are disabled, and nothing else."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import msgspec

from frameworm.plugins.names import key_of

log = logging.getLogger("frameworm")


class _Contents(msgspec.Struct):
    disabled: list[str] = []


class Memory:
    """The file `.frameworm/plugins.json` of the project at `root`; without a project nothing is remembered.

    A file that cannot be read or written is a warning, never an error.
    """

    def __init__(self, root: Path | None) -> None:
        self.path = None if root is None else root / ".frameworm" / "plugins.json"

    def disabled(self) -> frozenset[str]:
        """Return the keys of the plugins that are disabled."""
        if self.path is None:
            return frozenset()
        try:
            return frozenset(map(key_of, msgspec.json.decode(self.path.read_bytes(), type=_Contents).disabled))
        except FileNotFoundError:
            return frozenset()
        except (OSError, msgspec.DecodeError) as error:
            log.warning("%s cannot be read, so no plugin counts as disabled: %s", self.path, error)
            return frozenset()

    def disable(self, key: str) -> None:
        """Leave the plugin out from now on."""
        self._write(self.disabled() | {key})

    def enable(self, key: str) -> None:
        """Load the plugin again from now on."""
        if key in (disabled := self.disabled()):
            self._write(disabled - {key})

    def _write(self, disabled: Iterable[str]) -> None:
        """Put a whole file in the place of the old one, so that nobody reads half of it."""
        if self.path is None:
            log.warning("there is no project here in which to remember what is disabled")
            return
        text = msgspec.json.format(msgspec.json.encode(_Contents(sorted(disabled)))) + b"\n"
        try:
            self.path.parent.mkdir(exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=self.path.parent, prefix=self.path.name)
            with os.fdopen(descriptor, "wb") as file:
                file.write(text)
            Path(name).replace(self.path)
        except OSError as error:
            log.warning("%s cannot be written, so that will be forgotten: %s", self.path, error.strerror)
