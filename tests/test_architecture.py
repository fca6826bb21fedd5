"""The architecture holds: imports point one way, without cycles, and each dependency has one door.

Imports are read from the sources, those inside functions and under `TYPE_CHECKING` included. Each checker is itself
checked on a small made-up tree that breaks its rule.
"""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

# Lower layers first. A module belongs to the longest prefix that fits it, and may import its own layer and lower ones.
LAYERS = (
    ("bus",),
    (
        "frameworm.errors",
        "frameworm.events",
        "frameworm.config",
        "frameworm.core",
        "frameworm.facts",
        "frameworm.terminal",
    ),
    ("frameworm.models", "frameworm.data", "frameworm.metrics"),
    ("frameworm.training",),
    ("frameworm.listeners", "frameworm.plugins", "frameworm.delivery", "frameworm.export"),
    ("frameworm.logs", "frameworm.runs", "frameworm.curves", "frameworm.environment", "frameworm.listening"),
    ("frameworm.app",),
    ("frameworm",),  # the facade, and what is made of everything below
    ("frameworm.cli", "frameworm.__main__"),
)

# What some may not import although the layers would let them.
STRANGERS = {
    "bus": ("frameworm", "torch"),
    "frameworm.plugins": ("frameworm.training", "torch"),
    "frameworm.listeners": ("frameworm.training.trainer", "frameworm.training.loop", "frameworm.plugins"),
    "frameworm.delivery": ("frameworm.training", "torch"),
    "frameworm.logs": ("frameworm.training", "frameworm.models", "frameworm.data", "frameworm.plugins", "torch"),
    "frameworm.runs": ("frameworm.training", "frameworm.models", "frameworm.data", "frameworm.plugins", "torch"),
    "frameworm.cli": ("torch",),
}

# Who alone may import a dependency.
DOORS = {
    "anyio": ("bus.background", "bus.beside", "bus.stream"),
    "blinker": ("bus.signals",),
    "click": ("frameworm.cli",),
    "matplotlib": ("frameworm.curves",),
    "onnx": ("frameworm.export.onnx",),
    "onnxruntime": ("frameworm.export.onnx",),
    "onnxscript": ("frameworm.export.onnx",),
    "packaging": ("frameworm.plugins.requirements",),
    "rich": ("frameworm.cli", "frameworm.listeners.progress"),
    "safetensors": ("frameworm.training.checkpoint",),
    "structlog": ("frameworm.logs",),
    "torch": (
        "frameworm.app",
        "frameworm.data",
        "frameworm.export",
        "frameworm.listeners",
        "frameworm.metrics",
        "frameworm.models",
        "frameworm.predicting",
        "frameworm.restored",
        "frameworm.trained",
        "frameworm.training",
    ),
    "yaml": ("frameworm.config",),
}


class Import(NamedTuple):
    """Module `importer` imports `imported`: the module itself, where it is one of ours, else the name as written."""

    importer: str
    imported: str
    line: int

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def modules_of(*packages: Path) -> dict[str, Path]:
    """Return every module below the package folders, by its dotted name."""
    found = {}
    for package in packages:
        for file in package.rglob("*.py"):
            parts = file.relative_to(package.parent).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports_of(modules: Mapping[str, Path]) -> list[Import]:
    """Return every import in the modules, wherever in the file it stands."""
    return [found for name, file in modules.items() for found in _imports(name, file, modules)]


def _imports(name: str, file: Path, modules: Mapping[str, Path]) -> Iterator[Import]:
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), file)):
        match node:
            case ast.Import(names=names):
                for alias in names:
                    yield Import(name, alias.name, node.lineno)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = importlib.util.resolve_name("." * level + (module or ""), package) if level else module or ""
                for alias in names:
                    full = f"{base}.{alias.name}"
                    yield Import(name, full if full in modules else base, node.lineno)
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"),
                args=[ast.Constant(value=str() as target), *_],
            ):
                yield Import(name, target, node.lineno)


def within(module: str, prefixes: Iterable[str]) -> bool:
    """Whether the module is one of `prefixes`, or lies below one."""
    return any(module == prefix or module.startswith(f"{prefix}.") for prefix in prefixes)


def layer_of(module: str) -> int:
    """Return the layer of one of our modules; the longest prefix decides."""
    fits = [(len(prefix), rank) for rank, layer in enumerate(LAYERS) for prefix in layer if within(module, [prefix])]
    return max(fits)[1]


def upward(imports: Iterable[Import]) -> list[str]:
    """Return the imports that point to a higher layer."""
    return [
        str(found)
        for found in imports
        if within(found.imported, ("bus", "frameworm")) and layer_of(found.imported) > layer_of(found.importer)
    ]


def strange(imports: Iterable[Import]) -> list[str]:
    """Return the imports between parts that must not know each other."""
    return [
        str(found)
        for found in imports
        for part, others in STRANGERS.items()
        if within(found.importer, [part]) and within(found.imported, others)
    ]


def through_the_wall(imports: Iterable[Import]) -> list[str]:
    """Return the imports of a dependency elsewhere than at its door."""
    return [
        str(found)
        for found in imports
        for dependency, doors in DOORS.items()
        if within(found.imported, [dependency]) and not within(found.importer, doors)
    ]


def cycle(imports: Iterable[Import], *, depth: int | None = None) -> list[str]:
    """Return one cycle of modules (of packages, where a `depth` cuts the names), or nothing."""
    graph: dict[str, set[str]] = {}
    for importer, imported, _ in imports:
        ends = tuple(".".join(name.split(".")[:depth]) for name in (importer, imported))
        if ends[0] != ends[1]:
            graph.setdefault(ends[0], set()).add(ends[1])
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.fixture(scope="module")
def sources() -> list[Import]:
    """Every import of the packages as they are installed: the checkout's, or the wheel's."""
    folders = []
    for name in ("bus", "frameworm"):
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        folders.append(Path(spec.origin).parent)
    return imports_of(modules_of(*folders))


def test_layers_point_one_way(sources: list[Import]) -> None:
    """No module imports a higher layer."""
    assert upward(sources) == []


def test_strangers_stay_strangers(sources: list[Import]) -> None:
    """The bus knows no training, plugins and the trainer do not know each other, what must be light has no torch."""
    assert strange(sources) == []


def test_there_are_no_cycles(sources: list[Import]) -> None:
    """Neither modules nor the packages below `frameworm` import each other in a circle."""
    assert cycle(sources) == []
    below = [found for found in sources if found.importer != "frameworm" and within(found.imported, ["frameworm"])]
    assert cycle(below, depth=2) == []


def test_each_dependency_has_one_door(sources: list[Import]) -> None:
    """A dependency is imported where it belongs and nowhere else."""
    assert through_the_wall(sources) == []


def test_the_bus_imports_itself_relatively(sources: list[Import]) -> None:
    """`bus` is a common name: inside it, no import can pick up somebody else's `bus`."""
    spec = importlib.util.find_spec("bus")
    assert spec is not None
    assert spec.origin is not None
    absolute = [
        f"{file.name}:{node.lineno}"
        for file in Path(spec.origin).parent.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if (isinstance(node, ast.ImportFrom) and not node.level and within(node.module or "", ["bus"]))
        or (isinstance(node, ast.Import) and any(within(alias.name, ["bus"]) for alias in node.names))
    ]
    assert absolute == []


@pytest.mark.parametrize(
    "module",
    [
        "bus",
        "frameworm",
        "frameworm.errors",
        "frameworm.events",
        "frameworm.config",
        "frameworm.core",
        "frameworm.logs",
        "frameworm.runs",
        "frameworm.delivery",
        "frameworm.plugins.hooks",
        "frameworm.cli",
    ],
)
def test_light_modules_do_not_import_torch(module: str) -> None:
    """What every command and every listener's process imports does not wait two seconds for torch."""
    assert _modules_after(f"import {module}").isdisjoint({"torch", "numpy"})


def test_help_does_not_import_torch() -> None:
    """`frameworm --help` answers before torch could be loaded."""
    after = _modules_after(
        "import contextlib, io\n"
        "from frameworm.cli import main\n"
        "sys.argv = ['frameworm', '--help']\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    main()\n"
    )
    assert "frameworm.cli" in after
    assert "torch" not in after


def _modules_after(code: str) -> set[str]:
    """Return the top-level names, and our own modules, in `sys.modules` after running code in a new interpreter."""
    script = f"import sys\n{code}\nprint(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


class TestTheCheckers:
    """Each rule is broken once, on purpose."""

    def test_an_upward_import_is_found_inside_a_function(self, tmp_path: Path) -> None:
        """Hiding an import in a function does not help."""
        found = _tree(tmp_path, {"frameworm/core/registry.py": "def f():\n    from frameworm import app\n"})
        assert upward(found) == ["frameworm.core.registry:2 imports frameworm.app"]

    def test_an_upward_import_is_found_under_type_checking(self, tmp_path: Path) -> None:
        """Nor does importing for the type checker only."""
        code = (
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from frameworm.training.trainer import Trainer\n"
        )
        found = _tree(tmp_path, {"frameworm/data/splits.py": code, "frameworm/training/trainer.py": ""})
        assert upward(found) == ["frameworm.data.splits:3 imports frameworm.training.trainer"]

    def test_an_upward_import_is_found_by_name(self, tmp_path: Path) -> None:
        """Nor does importing by a literal name."""
        code = "import importlib\nimportlib.import_module('frameworm.training.trainer')\n"
        found = _tree(tmp_path, {"frameworm/models/mlp.py": code})
        assert upward(found) == ["frameworm.models.mlp:2 imports frameworm.training.trainer"]

    def test_the_facade_is_no_shortcut(self, tmp_path: Path) -> None:
        """Importing a name of the facade from below it is an upward import."""
        found = _tree(tmp_path, {"frameworm/training/loop.py": "from frameworm import load_model\n"})
        assert upward(found) == ["frameworm.training.loop:1 imports frameworm"]

    def test_strangers_are_found(self, tmp_path: Path) -> None:
        """The bus that knows training, and the plugin host that knows the trainer."""
        files = {
            "bus/log.py": "import frameworm.events\n",
            "frameworm/plugins/hooks.py": "from frameworm.training import trainer\n",
            "frameworm/training/trainer.py": "",
        }
        assert strange(_tree(tmp_path, files)) == [
            "bus.log:1 imports frameworm.events",
            "frameworm.plugins.hooks:1 imports frameworm.training.trainer",
        ]

    def test_a_cycle_of_modules_is_found(self, tmp_path: Path) -> None:
        """Two modules that import each other, one of them relatively."""
        files = {"bus/bus.py": "from .channel import Channel\n", "bus/channel.py": "def f():\n    from . import bus\n"}
        found = _tree(tmp_path, files)
        assert set(cycle(found)) == {"bus.bus", "bus.channel"}
        assert cycle(_tree(tmp_path, {"bus/channel.py": ""})) == []

    def test_a_cycle_of_packages_is_found(self, tmp_path: Path) -> None:
        """Packages in a circle although no two modules are."""
        files = {
            "frameworm/data/a.py": "import frameworm.models.b\n",
            "frameworm/models/b.py": "",
            "frameworm/models/c.py": "import frameworm.data.d\n",
            "frameworm/data/d.py": "",
        }
        found = _tree(tmp_path, files)
        assert cycle(found) == []
        assert set(cycle(found, depth=2)) == {"frameworm.data", "frameworm.models"}

    def test_a_second_door_is_found(self, tmp_path: Path) -> None:
        """A submodule of a dependency counts as the dependency."""
        files = {"frameworm/core/a.py": "from torch.nn import Module\n", "frameworm/models/b.py": "import torch\n"}
        assert through_the_wall(_tree(tmp_path, files)) == ["frameworm.core.a:1 imports torch.nn"]


def _tree(root: Path, files: Mapping[str, str]) -> list[Import]:
    """Write a made-up source tree and return its imports."""
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        for folder in file.relative_to(root).parents[:-1]:
            (root / folder / "__init__.py").touch()
    (root / "frameworm/app.py").parent.mkdir(exist_ok=True)
    (root / "frameworm/app.py").touch()
    return sorted(imports_of(modules_of(*(folder for folder in root.iterdir() if folder.is_dir()))))
