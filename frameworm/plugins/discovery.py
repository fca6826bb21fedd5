"""Which plugins there are: in the project, among the installed packages, and shipped; none is imported to find out."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from frameworm.errors import ManifestError, PluginError
from frameworm.plugins import installed, metadata
from frameworm.plugins.manifest import FILE, Manifest, read_manifest
from frameworm.plugins.names import key_of
from frameworm.plugins.project import PLUGINS, TRUST, distrust

Source = Literal["project", "installed", "shipped"]
"""Where a plugin comes from; of several with one name, the one from the earlier source counts."""


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A plugin as it lies there: `module` is the name that it is imported under, `keys` are what it answers to.

    `path` is its folder, or its file; `problem` says why it cannot be loaded. A manifest is made up where it has none.
    """

    name: str
    source: Source
    module: str
    path: Path
    manifest: Manifest
    has_manifest: bool = True
    distribution: str | None = None
    problem: PluginError | None = None
    warnings: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The name as names are compared."""
        return key_of(self.name)

    @property
    def keys(self) -> frozenset[str]:
        """Every name that means it: the manifest's, its folder's, its distribution's."""
        names = (self.name, self.module.removeprefix(f"{PLUGINS}."), self.distribution)
        return frozenset(key_of(name) for name in names if name)


def discover(root: Path | None) -> tuple[Candidate, ...]:
    """Return the plugins of the project at `root`, those that are installed and those that ship, in this order.

    Within a source they are sorted by name. Each folder is found once; of several plugins with one name the first
    keeps it, the others have that as their problem.
    """
    shipped = Path(__file__).parents[2] / PLUGINS  # beside the package `frameworm`, in a checkout as in a wheel
    found = [
        *([] if root is None else _in_folder(root / PLUGINS, "project")),
        *_installed(shipped),
        *_in_folder(shipped, "shipped"),
    ]
    taken: dict[str, Candidate] = {}
    seen: set[str] = set()
    candidates = []
    for candidate in found:
        real = os.path.realpath(candidate.path)
        if real in seen:
            continue
        seen.add(real)
        first = taken.setdefault(candidate.key, candidate)
        candidates.append(candidate if first is candidate else _replaced(candidate, first))
    return tuple(candidates)


def at(path: Path) -> Candidate:
    """Return the plugin in the folder at `path`, wherever it is; raises `PluginError` where there is none."""
    path = Path(os.path.abspath(path))  # noqa: PTH100  "..", not links, are taken out: the link is the plugin's name
    try:
        folder = path.parent if path.is_file() else path
        inside = folder.parent.name == PLUGINS
        module = f"{PLUGINS}.{folder.name}" if inside else folder.name
        if inside and os.path.lexists(folder):
            found = _folder(folder, "project", module)
        else:
            found = None if inside else _package(folder, module)
    except OSError as error:
        raise PluginError(path.name, "its folder cannot be read", where=str(path), got=error.strerror) from error
    if found is None:
        expected = f"a folder with {FILE}, or with an __init__.py that registers something"
        raise PluginError(folder.name, "there is no plugin", where=str(path), expected=expected)
    return found


def _in_folder(folder: Path, source: Source) -> Iterator[Candidate]:
    """Return the plugins in a `frameworm_plugins` folder, sorted by name."""
    reason = distrust(folder.parent) or distrust(folder) if source == "project" and folder.is_dir() else None
    found = []
    for path in sorted(_children(folder)):
        candidate = _folder(path, source, f"{PLUGINS}.{path.name}")
        if candidate is not None:
            found.append(candidate if reason is None else _with_problem(candidate, _distrusted(candidate.name, reason)))
    yield from sorted(found, key=lambda candidate: candidate.key)


def _children(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [
                Path(entry.path)
                for entry in entries
                if not entry.name.startswith((".", "__"))
                and (entry.is_symlink() or entry.is_dir())  # in this order: a link in a circle cannot be asked
            ]
    except OSError:
        return []


def _folder(path: Path, source: Source, module: str) -> Candidate | None:
    """Return the plugin in a folder; None where none is meant to be."""
    name = path.name.encode(errors="backslashreplace").decode()  # it is recorded and remembered, so it must be text
    made_up = Candidate(
        name=name, source=source, module=module, path=path, manifest=Manifest(name=name), has_manifest=False
    )
    try:
        if not path.exists():
            message = "it is a link that leads nowhere"
            return _with_problem(made_up, PluginError(name, message, where=str(path), got=str(path.readlink())))
        candidate = _with_manifest(made_up) if (path / FILE).is_file() else _undeclared(made_up)
        if candidate is None or candidate.problem is not None:
            return candidate
        problem = _problem(candidate)
    except OSError as error:
        problem = PluginError(name, "its folder cannot be read", where=str(path), got=error.strerror)
        return _with_problem(made_up, problem)
    return candidate if problem is None else _with_problem(candidate, problem)


def _undeclared(made_up: Candidate) -> Candidate | None:
    """Return the plugin without a manifest, if its code looks like one."""
    code = made_up.path / "__init__.py"
    try:
        return made_up if code.is_file() and metadata.registers(code) else None
    except (SyntaxError, ValueError, OSError) as error:
        return _with_problem(made_up, _unreadable(made_up.name, code, error))


def _problem(candidate: Candidate) -> PluginError | None:
    """Return why a plugin folder cannot be loaded, whatever its manifest says."""
    name, path = candidate.name, candidate.path
    if not (path / "__init__.py").is_file():
        return PluginError(name, "it has no code", where=str(path), hint=f"an __init__.py beside {FILE}")
    if "." in path.name or not path.name.isprintable():
        hint = re.sub(r"[^A-Za-z0-9_]+", "-", path.name).strip("-") or None
        return PluginError(name, "its folder's name cannot be imported", where=str(path), hint=hint)
    reason = distrust(path) if candidate.source == "project" else None
    return None if reason is None else _distrusted(name, reason)


def _with_manifest(candidate: Candidate) -> Candidate:
    """Return the candidate as the plugin.yaml in its folder describes it."""
    try:
        manifest, warnings = read_manifest(candidate.path / FILE)
    except ManifestError as error:
        return msgspec.structs.replace(candidate, problem=_wrong(candidate.name, "manifest", error), has_manifest=True)
    return msgspec.structs.replace(
        candidate, name=manifest.name, manifest=manifest, has_manifest=True, warnings=warnings
    )


def _package(path: Path, module: str) -> Candidate | None:
    """Return the plugin in a package that was named; it need not be installed."""
    found = Candidate(
        name=path.name,
        source="project",
        module=module,
        path=path,
        manifest=Manifest(name=path.name),
        has_manifest=False,
    )
    if (path / FILE).is_file():
        return _with_manifest(found)
    if not (path / "__init__.py").is_file():
        return None
    return _described(found, required=False) or _folder(path, "project", module)


def _installed(shipped: Path) -> Iterator[Candidate]:
    """Return the plugins among the installed packages, sorted by name."""
    found = []
    for package in installed.packages():
        candidate = Candidate(
            name=package.manifest.name,
            source="installed",
            module=package.module,
            path=package.path,
            manifest=package.manifest,
            has_manifest=False,
            distribution=package.distribution,
        )
        described = _with_manifest(candidate) if (package.path / FILE).is_file() else _described(candidate)
        if described is not None:
            found.append(described)
        elif package.announced:  # by an entry point
            found.append(candidate)
    portions = {folder / PLUGINS for folder in installed.site_packages()} - {shipped}
    found += [candidate for portion in sorted(portions) for candidate in _in_folder(portion, "installed")]
    yield from sorted(found, key=lambda candidate: candidate.key)


def _described(candidate: Candidate, *, required: bool = True) -> Candidate | None:
    """Return the candidate as its `__plugin_metadata__` describes it; None where it has none."""
    code = candidate.path / "__init__.py" if candidate.path.is_dir() else candidate.path
    try:
        found = metadata.of(code, candidate.manifest)
    except (SyntaxError, ValueError, OSError, ManifestError) as error:
        return _with_problem(candidate, _unreadable(candidate.name, code, error)) if required else None
    if found is None:
        return None
    (manifest, warnings) = found
    return msgspec.structs.replace(
        candidate, name=manifest.name, manifest=manifest, has_manifest=True, warnings=warnings
    )


def _with_problem(candidate: Candidate, problem: PluginError) -> Candidate:
    return msgspec.structs.replace(candidate, problem=problem)


def _replaced(candidate: Candidate, first: Candidate) -> Candidate:
    message = f"its name is taken by that of {first.path}"
    hint = f"another name in its {FILE}, or without one another folder's name"
    return _with_problem(candidate, PluginError(candidate.name, message, where=str(candidate.path), hint=hint))


def _distrusted(name: str, reason: str) -> PluginError:
    hint = f"take the others' rights away, or, if you trust them, name the folder in {TRUST}"
    return PluginError(name, "its code is not trusted", where=reason, hint=hint)


def _unreadable(name: str, code: Path, error: Exception) -> PluginError:
    if isinstance(error, SyntaxError):
        return PluginError(name, f"SyntaxError: {error.msg}", where=f"{code}:{error.lineno}")
    if isinstance(error, ManifestError):
        return _wrong(name, metadata.NAME, error)
    return PluginError(name, f"its code cannot be read: {error}", where=str(code))


def _wrong(name: str, what: str, error: ManifestError) -> PluginError:
    """Return the error about a plugin of which `what`, its manifest, is wrong; it has a single finding's details."""
    if error.findings:
        problem = PluginError(name, f"its {what} is wrong\n{error}")
    else:
        message = f"its {what} is wrong: {error.message}"
        problem = PluginError(name, message, expected=error.expected, got=error.got, where=error.where, hint=error.hint)
    problem.__cause__ = error
    return problem
