"""New plugins to go on from: a folder in the project, or a package to publish; both load and train as they are."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Literal

from frameworm.core.builtins import BUILTINS
from frameworm.errors import UserError
from frameworm.plugins.catalogue import Catalogue
from frameworm.plugins.manifest import FILE
from frameworm.plugins.names import check_name, key_of
from frameworm.plugins.project import PLUGINS

Kind = Literal["model", "callback", "metric", "dataset"]

# By kind: the line of a config that uses it, and the words of `tiny_trainer` that do.
_USAGE: Mapping[Kind, tuple[str, list[str]]] = {
    "model": ("model: {{name: {label}}}", ['model="{label}"']),
    "callback": ("callbacks: [{label}]", ['callbacks=["{label}"]']),
    "metric": (
        "metrics: [{label}]",
        ['metrics=["{label}"]', 'model="cnn"', 'data={{"name": "digits", "batch_size": 512}}'],
    ),
    "dataset": (
        "data: {{name: {label}}}",
        ['data={{"name": "{label}"}}', 'model={{"name": "mlp", "inputs": 1, "outputs": 1, "loss": "mse"}}'],
    ),
}


def create(name: str, root: Path, *, kind: Kind = "model") -> tuple[Path, ...]:
    """Write a plugin into the project at `root`; return its files.

    Raises `UserError` for a name that cannot be one, or that is taken; nothing is written then.
    """
    words = _words(name, kind)
    _check_free(name, root)
    texts = {FILE: _filled("plugin.yaml", words), "__init__.py": _filled(f"{kind}.py", words)}
    return _write(root / PLUGINS / name, texts)


def create_package(name: str, parent: Path, *, kind: Kind = "model") -> tuple[Path, ...]:
    """Write a package, with all that it takes to publish it, into a new folder below `parent`; else like `create`."""
    words = _words(name, kind)
    package = f"frameworm_{words['label']}"
    head, imports, body = _filled(f"{kind}.py", words).partition("\n\n\n")
    texts = {
        "pyproject.toml": _filled("pyproject.toml", words),
        "README.md": _filled("README.md", words),
        f"{package}/__init__.py": f"{head}\n\n{_filled('metadata.py', words).rstrip()}{imports}{body}",
        "tests/test_plugin.py": _filled("test_plugin.py", words),
    }
    return _write(parent / package, texts)


def _words(name: str, kind: Kind) -> dict[str, str]:
    """Return what stands for what in the templates."""
    check_name(name)
    dashed = key_of(name)
    label = dashed.replace("-", "_")
    if label in BUILTINS[kind]:
        message = f"the {kind} {label!r} is there already; it ships with frameworm"
        raise UserError(message, got=repr(name), hint=f"another name, such as my-{dashed}")
    stem = dashed.removesuffix(f"-{kind}").split("-")
    usage, run = _USAGE[kind]
    return {
        "name": name,
        "dashed": dashed,
        "label": label,
        "class_name": "".join(part.capitalize() for part in [*stem, kind]),
        "kind": kind,
        "usage": usage.format(label=label),
        "run": f",\n{' ' * 12}".join(run).format(label=label),
        "frameworm": version("frameworm"),
    }


def _check_free(name: str, root: Path) -> None:
    """Raise `UserError` where a plugin of the project has that name, however it is spelt: one would hide the other."""
    first = Catalogue(root).get(name)
    if first is not None and first.source == "project":
        got = None if name == first.name else f"{name}, which means {first.name} as well"
        raise UserError(f"{first.name} is there already", where=str(first.path), got=got, hint="another name")


def _filled(template: str, words: Mapping[str, str]) -> str:
    text = (files("frameworm.plugins") / "templates" / f"{template}.txt").read_text("utf-8")
    return Template(text).substitute(words)


def _write(folder: Path, texts: Mapping[str, str]) -> tuple[Path, ...]:
    """Write files into a folder that is not there yet: all of them, or nothing."""
    if folder.exists() or folder.is_symlink():
        raise UserError(f"{folder.name} is there already", where=str(folder), hint="another name")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as temporary:
            whole = Path(temporary, folder.name)
            for name, text in texts.items():
                (whole / name).parent.mkdir(parents=True, exist_ok=True)
                (whole / name).write_text(text, "utf-8")
            whole.rename(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written", where=error.filename, got=error.strerror) from error
    return tuple(folder / name for name in texts)
