"""Packages that are installed and may be plugins: by their entry points, or by their names."""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import msgspec

from frameworm.plugins.manifest import Manifest
from frameworm.plugins.names import key_of
from frameworm.plugins.project import PLUGINS

GROUP = "frameworm.plugins"


class Package(NamedTuple):
    """A package, or a single module: `manifest` is what its distribution says; `announced` is it by an entry point."""

    module: str
    path: Path
    manifest: Manifest
    distribution: str | None
    announced: bool


def packages() -> list[Package]:
    """Return the packages that may be plugins, each once; none is imported."""
    found: dict[str, Package] = {}
    for entry in metadata.entry_points(group=GROUP):
        top = entry.module.partition(".")[0]
        module = top if top.startswith("frameworm_") else entry.module
        inner = entry.module.removeprefix(module).lstrip(".")
        entry_point = f"{inner}:{entry.attr or 'register'}".lstrip(":")
        if package := _package(entry.name, module, entry.dist, entry_point):
            found.setdefault(module, package)
    for module in _prefixed():
        if module not in found and (package := _package(key_of(module), module, _distribution(module))):
            found[module] = package
    return list(found.values())


def site_packages() -> set[Path]:
    """Return the folders into which packages are installed."""
    return {Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")}


def _package(
    name: str, module: str, distribution: metadata.Distribution | None, entry_point: str | None = None
) -> Package | None:
    path = _locate(module)
    if path is None:
        return None
    manifest = Manifest(name=name, entry_point=entry_point or "register")
    if distribution is not None:
        given = distribution.metadata
        author, description = (str(given[key]) if key in given else "" for key in ("Author", "Summary"))
        version = distribution.version
        manifest = msgspec.structs.replace(manifest, version=version, author=author, description=description)
    return Package(
        module=module,
        path=path,
        manifest=manifest,
        distribution=None if distribution is None else distribution.metadata["Name"],
        announced=entry_point is not None,
    )


def _locate(module: str) -> Path | None:
    """Return a module's folder or file; its parents are not imported, as `find_spec` would do for a dotted name."""
    top, *below = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:  # a namespace has no code of its own
        return None
    path = Path(spec.origin)
    if path.name != "__init__.py":
        return None if below else path
    folder = path.parent.joinpath(*below)
    return next((found for found in (folder, folder.with_suffix(".py")) if found.exists()), None)


def _prefixed() -> Iterator[str]:
    """Return the names of top-level modules and distributions that begin with `frameworm_`."""
    names: set[str] = set()
    for entry in dict.fromkeys(sys.path):
        try:
            names.update(path.name for path in Path(entry).iterdir() if path.name[:10] in ("frameworm_", "frameworm-"))
        except OSError:
            continue
    for name in sorted(names):
        stem = name.partition("-")[0] if name.endswith((".dist-info", ".egg-info")) else name.removesuffix(".py")
        if stem.isidentifier() and stem != PLUGINS:
            yield stem


def _distribution(module: str) -> metadata.Distribution | None:
    try:
        return metadata.distribution(module)
    except metadata.PackageNotFoundError:
        return None
