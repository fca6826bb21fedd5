"""The plugins that can be had at one time: which one a name means, and which must be loaded before which."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from pathlib import Path

from frameworm.errors import PluginError, nearest
from frameworm.plugins.discovery import Candidate, at, discover
from frameworm.plugins.names import key_of
from frameworm.plugins.project import PLUGINS
from frameworm.plugins.selection import Selection

log = logging.getLogger("frameworm")


class Catalogue:
    """The plugins that are found at one time, with those that were `loaded` before and are not found any more."""

    def __init__(self, root: Path | None, loaded: Iterable[Candidate] = ()) -> None:
        self._root = root
        found = discover(root)
        paths = {candidate.path for candidate in found}
        self.candidates = (*found, *(candidate for candidate in loaded if candidate.path not in paths))
        self.version = cache(metadata.version)
        """The version of an installed distribution, looked up once: it stays the same while plugins are loaded."""
        self._named: dict[str, Candidate] = {}
        for candidate in sorted(self.candidates, key=lambda candidate: candidate.problem is not None):
            for key in candidate.keys:
                self._named.setdefault(key, candidate)

    def get(self, name: str) -> Candidate | None:
        """Return the plugin of that name; of several, one that can be loaded."""
        return self._named.get(key_of(name))

    def find(self, name: str | Path) -> Candidate:
        """Return the plugin of that name, or in that folder; raises `PluginError` where there is none."""
        if isinstance(name, Path):
            known = {candidate.path: candidate for candidate in self.candidates}
            return known.get(name.absolute()) or at(name)
        found = self.get(name)
        if found is not None:
            return found
        names = sorted({candidate.name for candidate in self.candidates})
        near = nearest(name, names)
        where = "there is no project here" if self._root is None else str(self._root / PLUGINS)
        raise PluginError(
            name,
            "there is none of that name",
            expected=f"one of {', '.join(names)}" if names else None,
            where=f"{where}, and the packages of {sys.executable}",
            hint=near,
        )

    def resolved(self, selection: Selection) -> Selection:
        """Return the selection with each plugin under its own key; raises `PluginError` for one that is not there."""
        for name in selection.disabled:
            if self.get(name) is None:
                log.warning("plugins.disable: there is no plugin %r; nothing is disabled by that", name)
        return Selection(
            required=tuple(self.find(name).key for name in selection.required),
            others=selection.others,
            disabled=frozenset(self._key(name) for name in selection.disabled),
            remembered=selection.remembered,
            options={self._key(name): options for name, options in selection.options.items()},
        )

    def _key(self, name: str) -> str:
        found = self.get(name)
        return name if found is None else found.key

    def replaces(self, candidate: Candidate) -> bool:
        """Whether one from an earlier source has taken the candidate's place, as a project's own copy does."""
        first = self.get(candidate.key)
        return first is not None and first.source != candidate.source

    def in_order(self, chosen: Iterable[Candidate], selection: Selection) -> list[Candidate]:
        """Return what is chosen, each behind what it requires, which is added unless it is disabled."""
        ordered: dict[Path, Candidate] = {}

        def visit(candidate: Candidate, above: frozenset[Path]) -> None:
            if candidate.path in ordered or candidate.path in above:
                return
            for required in filter(None, map(self.get, candidate.manifest.requires)):
                if not selection.refuses(required.key):
                    visit(required, above | {candidate.path})
            ordered[candidate.path] = candidate

        for candidate in chosen:
            visit(candidate, frozenset())
        return list(ordered.values())

    def needs(self, candidate: Candidate) -> set[str]:
        """Return the keys of all that the candidate requires, directly or through others."""
        found: dict[str, Candidate] = {}
        waiting = [candidate]
        while waiting:
            required = [self.get(name) for name in waiting.pop().manifest.requires]
            new = {other.key: other for other in required if other is not None and other.key not in found}
            found |= new
            waiting += new.values()
        return set(found)
