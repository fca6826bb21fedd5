"""Plugin folders as modules: imported the ordinary way, under one name each, and gone again when they are unloaded."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from frameworm.core.ownership import NAMESPACE

_DOTTED = f"{NAMESPACE}."


def open_project(root: Path) -> None:
    """Make the plugins of the project at `root` importable, before others of the same names.

    The root is appended to `sys.path`, where it hides nothing and processes that are spawned get it from.
    """
    open_folder(root)
    package = importlib.import_module(NAMESPACE)
    package.__path__ = list(dict.fromkeys([str(root / NAMESPACE), *package.__path__]))


def open_folder(folder: Path) -> None:
    """Make what is in a folder importable, behind all that is already."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
        importlib.invalidate_caches()


def exists(name: str) -> bool:
    """Whether there is a module of that name; its parent is imported for that, it itself is not."""
    return name in sys.modules or importlib.util.find_spec(name) is not None


def forget(package: str) -> None:
    """Take a plugin's modules out of `sys.modules`, also under their other name, so that the next import is a new one.

    Their bytecode goes, too: a file that was mended within the second, at the same size, would pass for the old one.
    """
    inside = {id(module) for name, module in sys.modules.items() if f"{name}.".startswith(f"{package}.")}
    for name, module in [(name, module) for name, module in sys.modules.items() if id(module) in inside]:
        del sys.modules[name]
        if module.__spec__ is not None and module.__spec__.cached is not None:
            with suppress(OSError):
                Path(module.__spec__.cached).unlink()
        parent, _, child = name.rpartition(".")
        if parent == NAMESPACE and vars(sys.modules[NAMESPACE]).get(child) is module:
            delattr(sys.modules[NAMESPACE], child)  # the plugin's own packages stay whole, for objects that live on


class AliasFinder(MetaPathFinder):
    """Finds `frameworm_plugins.my_plugin`, with all that is below, as the modules of the folder `my-plugin`."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002  importlib's signature
        target: ModuleType | None = None,  # noqa: ARG002  likewise
    ) -> ModuleSpec | None:
        """Return a spec where `fullname` is another name of a module; None for all others."""
        if not fullname.startswith(_DOTTED) or (canonical := _canonical(fullname)) == fullname:
            return None
        return ModuleSpec(fullname, AliasLoader(canonical))


class AliasLoader(Loader):
    """Gives the module called `canonical` a second name."""

    def __init__(self, canonical: str) -> None:
        self._canonical = canonical

    def exec_module(self, module: ModuleType) -> None:
        """Put the one module where the import system looks for what it has just loaded."""
        sys.modules[module.__name__] = importlib.import_module(self._canonical)


def _canonical(name: str) -> str:
    """The name that a module is imported under: of a folder `my-plugin` without a `my_plugin` beside it, the dashed."""
    if not name.startswith(_DOTTED):
        return name
    folder, dot, rest = name.removeprefix(_DOTTED).partition(".")
    if "_" not in folder:
        return name
    portions = [*getattr(sys.modules.get(NAMESPACE), "__path__", ())]
    for portion in map(Path, portions):
        if any((portion / f"{folder}{suffix}").exists() for suffix in ("", ".py")):
            return name
    for portion in map(Path, portions):
        with suppress(OSError):
            for other in sorted(path.name for path in portion.iterdir()):
                if other.replace("-", "_") == folder:
                    return f"{_DOTTED}{other}{dot}{rest}"
    return name


sys.meta_path.insert(0, AliasFinder())  # before the finder of files, which would load what is below a second time
