"""Plugins come and go here: found by name, loaded behind those that they require, unloaded before them."""

from __future__ import annotations

import importlib
import logging
import sys
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from frameworm import terminal
from frameworm.errors import FindingsError, PluginError, nearest
from frameworm.plugins import loading
from frameworm.plugins.catalogue import Catalogue
from frameworm.plugins.discovery import Candidate, Source
from frameworm.plugins.loading import Loaded
from frameworm.plugins.manifest import Manifest
from frameworm.plugins.memory import Memory
from frameworm.plugins.project import project_root
from frameworm.plugins.selection import Selection, select

log = logging.getLogger("frameworm")

State = Literal["available", "loaded", "disabled", "failed", "broken"]
"""A `broken` plugin cannot be loaded as it is; loading a `failed` one was tried."""


class Plugin(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a plugin; `registered` says what it has registered by now, `reason` why it is not loaded."""

    name: str
    key: str
    version: str
    source: Source
    state: State
    reason: str | None
    module: str
    path: Path
    manifest: Manifest
    has_manifest: bool
    registered: tuple[str, ...]
    warnings: tuple[str, ...]


class LoadResult(msgspec.Struct, frozen=True):
    """What is loaded and what failed; true when nothing did."""

    loaded: tuple[Plugin, ...]
    failed: tuple[PluginError, ...]

    def __bool__(self) -> bool:
        return not self.failed


class PluginLoader:
    """Finds, loads and unloads plugins. `root` is the project's folder, by default that of the current directory."""

    def __init__(self, root: Path | None = None) -> None:
        self._root = root
        self._loaded: dict[str, Loaded] = {}  # by key, in the order of loading
        self._failed: dict[str, PluginError] = {}
        self._loading: set[str] = set()
        self._lock = threading.RLock()  # a plugin may load others while it is loaded itself

    @property
    def root(self) -> Path | None:
        """The project's root; None where there is none."""
        return self._root or project_root(Path.cwd())

    @property
    def memory(self) -> Memory:
        """What is remembered of the project: which plugins are disabled."""
        return Memory(self.root)

    def list_plugins(self) -> list[Plugin]:
        """Return every plugin that is found or loaded; nothing is imported for that."""
        remembered = self.memory.disabled()
        return [self._view(candidate, remembered) for candidate in self._catalogue().candidates]

    def loaded(self) -> list[Plugin]:
        """Return those that are loaded, in the order of loading."""
        return [self._view(loaded.candidate) for loaded in self._loaded.values()]

    def get(self, name: str | Path) -> Plugin:
        """Return the plugin of that name; raises `PluginError` with what is near and where was looked."""
        return self._view(self._catalogue().find(name), self.memory.disabled())

    def load(self, name: str | Path, options: Mapping[str, Any] | None = None) -> Plugin:
        """Load the plugin of that name, or in that folder, and first those that it requires; again is no error.

        `options` are the keyword arguments of its `register`; with others than it was loaded with, it is loaded anew.
        Raises `PluginError` with the reason; nothing of it is left then.
        """
        with self._lock:
            catalogue = self._catalogue()
            candidate = catalogue.find(name)
            given = {} if options is None else {candidate.key: options}
            selection = Selection(required=(candidate.key,), remembered=self.memory.disabled(), options=given)
            failed = self._load_in_order([candidate], catalogue, selection)
            if candidate.key in failed:
                raise failed[candidate.key]
            return self._view(candidate)

    def load_all(self, selection: Selection, *, strict: bool = False) -> LoadResult:
        """Load what is selected, in the order of source and name, behind what is required.

        Those that the selection requires must load, with `strict` all: else it is a `PluginError`, raised after the
        others were tried. What fails besides is logged, and in the result.
        """
        with self._lock:
            catalogue = self._catalogue()
            selection = catalogue.resolved(selection)
            chosen = [entry for entry in catalogue.candidates if selection.wants(entry.key)]
            chosen = [entry for entry in chosen if not catalogue.replaces(entry)]
            failed = self._load_in_order(chosen, catalogue, selection)
            serious = [error for key, error in failed.items() if strict or key in selection.required]
            if serious:
                raise serious[0] if len(serious) == 1 else FindingsError.of(serious, "plugins")
            for error in failed.values():
                log.warning("%s", error)
            loaded = [self._view(candidate) for candidate in chosen if candidate.key in self._loaded]
            return LoadResult(tuple(loaded), tuple(failed.values()))

    def unload(self, name: str | Path) -> tuple[str, ...]:
        """Undo all that a plugin has registered, after unloading those that require it; return the names.

        Its modules are forgotten. Unloading what is not loaded does nothing.
        """
        with self._lock:
            gone = self._with_dependents(self._catalogue().find(name).key)
            for loaded in gone:
                del self._loaded[loaded.candidate.key]
                loaded.undo()
            return tuple(loaded.candidate.name for loaded in gone)

    def reload(self, name: str | Path) -> Plugin:
        """Unload a plugin, and load it as it is on the disk now, with those that require it."""
        with self._lock:
            key = self._catalogue().find(name).key
            before = self._with_dependents(key)
            self.unload(name)
            for loaded in reversed(before):
                installed = loaded.candidate.source == "installed"
                self.load(loaded.candidate.key if installed else loaded.candidate.path, loaded.options)
            return self.load(name)

    def print_plugins(self) -> None:
        """Print every plugin in a line: name, version, state, and what it has registered or why it is not loaded."""
        plugins = self.list_plugins()
        width = max((len(plugin.name) for plugin in plugins), default=0)
        with terminal.tolerant(sys.stdout):
            for plugin in plugins:
                more = ", ".join(plugin.registered) or (plugin.reason or "").partition("\n")[0]
                line = f"{plugin.name:{width}}  {plugin.version:8}  {plugin.state:9}  {more}"
                terminal.write_line(line.rstrip())

    def _catalogue(self) -> Catalogue:
        return Catalogue(self.root, [loaded.candidate for loaded in self._loaded.values()])

    def _load_in_order(
        self, chosen: Iterable[Candidate], catalogue: Catalogue, selection: Selection
    ) -> dict[str, PluginError]:
        """Load what is chosen and what that requires; return what failed, by key."""
        failed: dict[str, PluginError] = {}
        importlib.invalidate_caches()  # a file may have been written a moment ago
        for candidate in catalogue.in_order(chosen, selection):
            try:
                self._load(candidate, catalogue, selection, failed)
            except PluginError as error:
                failed[candidate.key] = error
        self._failed |= failed
        return failed

    def _load(
        self,
        candidate: Candidate,
        catalogue: Catalogue,
        selection: Selection,
        failed: Mapping[str, PluginError],
    ) -> None:
        key, options = candidate.key, selection.options.get(candidate.key)
        loaded = self._loaded.get(key)
        if key in self._loading or (loaded is not None and options in (None, loaded.options)):
            return
        self.unload(key) if loaded else None
        if candidate.problem is not None:
            raise candidate.problem
        required = [self._required(name, candidate, catalogue, failed) for name in candidate.manifest.requires]
        self._loading.add(key)
        try:
            self._loaded[key] = loading.load(candidate, options or {}, frozenset(required), installed=catalogue.version)
        finally:
            self._loading.remove(key)
        self._failed.pop(key, None)

    def _required(
        self, name: str, candidate: Candidate, catalogue: Catalogue, failed: Mapping[str, PluginError]
    ) -> str:
        """Return the key of a plugin that the candidate requires, which is loaded; raises `PluginError` else."""
        required = catalogue.get(name)
        if required is not None and required.key in {*self._loaded, *self._loading}:
            return required.key
        if required is None:
            problem, hint = "which is not there", nearest(name, (other.name for other in catalogue.candidates))
            hint = hint or f"put {name} into the project, or install it"
        elif required.key in failed:
            problem, hint = f"which failed: {failed[required.key].message}", f"frameworm plugins check {required.name}"
        elif candidate.key in catalogue.needs(required):
            problem, hint = "which requires it in turn", "one of the two without the other under requires"
        else:
            problem, hint = "which is disabled", f"frameworm plugins load {name}"
        raise PluginError(candidate.name, f"it requires {name!r}, {problem}", where=str(candidate.path), hint=hint)

    def _with_dependents(self, key: str) -> list[Loaded]:
        """Return the plugin, if it is loaded, and those that require it, the newest first."""
        wanted: dict[str, Loaded] = {}
        for other, loaded in self._loaded.items():  # what is required was loaded before
            if other == key or loaded.requires.intersection(wanted):
                wanted[other] = loaded
        return list(reversed(wanted.values()))

    def _view(self, candidate: Candidate, remembered: Iterable[str] = ()) -> Plugin:
        loaded = self._loaded.get(candidate.key)
        if loaded is not None and loaded.candidate.path != candidate.path:
            loaded = None  # another of that name is
        error = None if loaded else candidate.problem or self._failed.get(candidate.key)
        return Plugin(
            name=candidate.name,
            key=candidate.key,
            version=candidate.manifest.version,
            source=candidate.source,
            state=_state(candidate, loaded, error, remembered),
            reason=str(error) if error else None,
            module=candidate.module,
            path=candidate.path,
            manifest=candidate.manifest,
            has_manifest=candidate.has_manifest,
            registered=loaded.registered() if loaded else (),
            warnings=(*candidate.warnings, *(loaded.warnings() if loaded else ())),
        )


def _state(candidate: Candidate, loaded: Loaded | None, error: PluginError | None, remembered: Iterable[str]) -> State:
    if loaded:
        return "loaded"
    if candidate.problem:
        return "broken"
    if candidate.key in remembered:
        return "disabled"
    return "failed" if error else "available"


_loader = PluginLoader()


def get_plugin_loader() -> PluginLoader:
    """Return the process's loader."""
    return _loader


def use(loader: PluginLoader) -> None:
    """Make `loader` the process's."""
    global _loader  # noqa: PLW0603  there is one in a process
    _loader = loader


def load_plugins(selection: Selection | Iterable[str] | None = None, *, strict: bool = False) -> LoadResult:
    """Load every plugin that is found and not disabled, or those of the given names; what is loaded stays as it is.

    Raises `PluginError` for one that was named and cannot be loaded, with `strict` for any.
    """
    if selection is None:
        selection = select(remembered=_loader.memory.disabled())
    elif not isinstance(selection, Selection):
        selection = Selection(required=tuple(selection), others=False)
    return _loader.load_all(selection, strict=strict)


def unloaded_plugins() -> str | None:
    """Return which plugins are found but not loaded, for an error about a name that one of them might bring."""
    waiting = [plugin for plugin in _loader.list_plugins() if plugin.state != "loaded"]
    if not waiting:
        return None
    names = ", ".join(f"{plugin.name} ({plugin.state})" for plugin in waiting)
    one = len(waiting) == 1
    return f"{len(waiting)} plugin{'' if one else 's'} found but not loaded: {names}"
