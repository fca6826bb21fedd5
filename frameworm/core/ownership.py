"""Whose code is calling: what a plugin registers is entered in its ledger, from where it can be taken back."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

NAMESPACE = "frameworm_plugins"
_PREFIX = "frameworm_"


class Registered(NamedTuple):
    """Something that a plugin registered: what it is, how it is taken back, and whether it is still there."""

    what: str
    undo: Callable[[], object]
    counts: Callable[[], bool]

    def __str__(self) -> str:
        return self.what


class Ledger:
    """What one plugin has registered, also later, from inside its hooks; `package` is where its code is."""

    def __init__(self, package: str) -> None:
        self.package = package
        self.name = label_of(package)
        self.dispatch: str | None = None
        """The lane in which its manifest wants its listeners to be served."""
        self._entries: list[Registered] = []

    def run(self, fn: Callable[[], T]) -> T:
        """Call `fn`, all of whose registrations are the plugin's, wherever the code is that makes them."""
        return fn()

    def enter(self, what: str, undo: Callable[[], object], counts: Callable[[], bool]) -> None:
        """Write down a registration; those that others have taken back are forgotten meanwhile."""
        self._entries = [*self.entries(), Registered(what, undo, counts)]

    def entries(self) -> list[Registered]:
        """What is registered now, in the order in which it came."""
        return [entry for entry in self._entries if entry.counts()]

    def undo(self) -> None:
        """Take back everything, the newest first."""
        while self._entries:
            self._entries.pop().undo()


_ledgers: dict[str, Ledger] = {}


def ledger(package: str) -> Ledger:
    """The ledger of the plugin whose code is the package (or module) of that name; from now on it has one."""
    return _ledgers.setdefault(package, Ledger(package))


@contextmanager
def fresh_ledgers() -> Iterator[None]:
    """Put all ledgers aside, and bring them back at the end."""
    before = dict(_ledgers)
    _ledgers.clear()
    try:
        yield
    finally:
        _ledgers.clear()
        _ledgers.update(before)


def caller() -> Ledger | None:
    """The ledger of the plugin whose code is calling, the innermost of several; None where none is on the stack."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001  the cheap way to know who calls
    while frame is not None:
        if frame.f_code is Ledger.run.__code__:
            found: Ledger = frame.f_locals["self"]
            return found
        package = package_of(frame.f_globals.get("__name__"))
        if package is not None:
            return ledger(package)
        frame = frame.f_back
    return None


def package_of(module: Any) -> str | None:
    """The plugin package that a module of that name is in; None for code that is no plugin's."""
    if not isinstance(module, str):
        return None
    top, _, rest = module.partition(".")
    if top == NAMESPACE:
        return f"{top}.{rest.partition('.')[0]}" if rest else None
    return top if top.startswith(_PREFIX) or top in _ledgers else None


def label_of(package: str) -> str:
    """What a plugin is called where only its package is known: "my-plugin", of `frameworm_my_plugin` too."""
    return package.rpartition(".")[2].removeprefix(_PREFIX).replace("_", "-")
