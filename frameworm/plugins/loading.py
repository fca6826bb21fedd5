"""One plugin's load as a transaction: checked, imported, registered; or nothing of it is left."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from frameworm import terminal
from frameworm.core import create, ownership
from frameworm.core.ownership import Ledger
from frameworm.errors import FramewormError, PluginError
from frameworm.plugins import modules, requirements
from frameworm.plugins.discovery import Candidate
from frameworm.plugins.entry import places
from frameworm.plugins.project import PLUGINS


class Loaded(NamedTuple):
    """A plugin that is loaded: with which options, what it requires (keys), and all that it has registered."""

    candidate: Candidate
    options: Mapping[str, Any]
    requires: frozenset[str]
    ledger: Ledger

    def registered(self) -> tuple[str, ...]:
        """Return what it has registered and not taken back: "model my_model", "hook on_epoch_end"."""
        return tuple(entry.what for entry in self.ledger.entries())

    def warnings(self) -> tuple[str, ...]:
        """Return in what the manifest's `hooks` and the registrations differ."""
        declared = self.candidate.manifest.hooks
        if not declared:
            return ()
        brought = {what: _words(what) for what in self.registered()}
        missing = [hook for hook in declared if not any(hook in words for words in brought.values())]
        unsaid = [what for what, words in brought.items() if words.isdisjoint(declared)]
        return (
            *(f"its manifest has {hook!r} under hooks, but it registers none" for hook in missing),
            *(f"it registers {what}, which its manifest does not have under hooks" for what in unsaid),
        )

    def undo(self) -> None:
        """Take back all that it has registered, the newest first, and forget its modules."""
        self.ledger.undo()
        modules.forget(self.candidate.module)


def load(
    candidate: Candidate,
    options: Mapping[str, Any],
    requires: frozenset[str] = frozenset(),
    *,
    installed: Callable[[str], str] = version,
) -> Loaded:
    """Import the plugin and call its entry point with `options`; raises `PluginError` with what is wrong and where.

    `installed` tells the version of a distribution, or raises PackageNotFoundError.
    """
    loaded = Loaded(candidate, options, requires, ownership.ledger(candidate.module))
    loaded.ledger.dispatch = candidate.manifest.dispatch
    check(candidate, installed)
    try:
        with terminal.tolerant(sys.stdout), terminal.tolerant(sys.stderr):
            loaded.ledger.run(lambda: _register(candidate, options, loaded.ledger))
    except (PluginError, KeyboardInterrupt):
        loaded.undo()
        raise
    except BaseException as error:  # SystemExit and the like are a plugin's failure, not the program's end
        loaded.undo()
        raise _explained(candidate, error) from error
    return loaded


def check(candidate: Candidate, installed: Callable[[str], str] = version) -> None:
    """Raise `PluginError` for a plugin that does not fit to what is installed."""
    manifest, where = candidate.manifest, str(candidate.path)
    own = installed("frameworm")
    if not requirements.satisfies(own, manifest.frameworm):
        raise PluginError(
            candidate.name,
            "it is made for another frameworm",
            where=where,
            expected=f"frameworm {manifest.frameworm}",
            got=f"frameworm {own}",
        )
    missing = requirements.missing(manifest.dependencies, installed=installed)
    if missing:
        raise PluginError(
            candidate.name,
            "it needs what is not installed",
            where=where,
            expected=", ".join(need.requirement for need in missing),
            got=", ".join(need.found or "none" for need in missing),
            hint=requirements.advice(missing),
        )


def _register(candidate: Candidate, options: Mapping[str, Any], ledger: Ledger) -> None:
    if candidate.module.startswith(f"{PLUGINS}."):
        modules.open_project(candidate.path.parent.parent)
    elif candidate.source == "project":  # a package that need not be installed
        modules.open_folder(candidate.path.parent)
    module = import_module(candidate.module)
    entry_point = _entry_point(candidate, module)
    if entry_point is not None:
        create("plugin", candidate.name, entry_point, options, where=str(candidate.path))
    elif not ledger.entries():
        tried = places(candidate.manifest.entry_point, candidate.module, candidate.keys)
        raise PluginError(
            candidate.name,
            f"it has no {candidate.manifest.entry_point!r}, and importing it registered nothing",
            where=str(candidate.path),
            expected="a function that registers what the plugin brings",
            got=f"nothing at {', '.join(map(str, tried))}",
            hint=f"def {candidate.manifest.entry_point.rpartition(':')[2]}(): ... in __init__.py",
        )


def _entry_point(candidate: Candidate, package: ModuleType) -> Any:
    """Return what the entry point names, inside the plugin's own package; None where nothing is there."""
    for name, attribute in places(candidate.manifest.entry_point, candidate.module, candidate.keys):
        if name != package.__name__ and not modules.exists(name):
            continue
        found: Any = package if name == package.__name__ else import_module(name)
        for part in attribute.split("."):
            found = getattr(found, part, None)
        if found is not None:
            return found
    return None


def _explained(candidate: Candidate, error: BaseException) -> PluginError:
    """Return the error that says where in the plugin it came from."""
    if isinstance(error, FramewormError):
        return PluginError(
            candidate.name,
            error.message,
            expected=error.expected,
            got=error.got,
            where=error.where or _place(candidate, error),
            hint=error.hint,
        )
    what = "it ended the program" if isinstance(error, SystemExit) else "it failed"
    said = traceback.format_exception_only(error)[-1].strip()
    return PluginError(candidate.name, f"{what} while it was loaded: {said}", where=_place(candidate, error))


def _place(candidate: Candidate, error: BaseException) -> str:
    """Return file and line of the plugin's innermost frame in a traceback, or of a syntax error."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if Path(frame.filename).is_relative_to(candidate.path)]
    return f"{inside[-1].filename}:{inside[-1].lineno}" if inside else str(candidate.path)


def _words(what: str) -> set[str]:
    """Return the words under which a manifest's `hooks` may announce what is registered; a hook is a callback, too."""
    kind, _, name = what.partition(" ")
    return {name, "callback"} if kind == "hook" else {kind}
