"""What the code of a plugin without a manifest says of itself, read from its text."""

from __future__ import annotations

import ast
from pathlib import Path

import msgspec

from frameworm.errors import ManifestError
from frameworm.plugins.manifest import Manifest, Read, parse_manifest

NAME = "__plugin_metadata__"


def registers(code: Path) -> bool:
    """Whether a module defines `register`, or uses anything of frameworm; raises SyntaxError, ValueError, OSError."""
    text = code.read_bytes()
    if b"register" not in text and b"frameworm" not in text:
        return False
    tree = ast.parse(text, code)
    return any(_defines(node, "register") for node in tree.body) or any(map(_imports_frameworm, ast.walk(tree)))


def of(code: Path, otherwise: Manifest) -> Read | None:
    """Return what a module's `__plugin_metadata__` says, `otherwise` where it says nothing; None where there is none.

    Raises `ManifestError` for one that is wrong or is not a literal, SyntaxError, ValueError and OSError.
    """
    text = code.read_bytes()
    if NAME.encode() not in text:
        return None
    for node in ast.parse(text, code).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None and _defines(node, NAME):
            where = f"{code}:{node.lineno}"
            try:
                value = ast.literal_eval(node.value)
            except ValueError:
                expected = "a dict of texts, which can be read without running the code"
                raise ManifestError(f"{NAME} is not a literal", where=where, expected=expected) from None
            if not isinstance(value, dict):
                raise ManifestError(f"{NAME} is no dict", where=where, got=type(value).__name__)
            known = msgspec.structs.asdict(otherwise)
            return parse_manifest({**known, **value}, where)
    return None


def _defines(node: ast.stmt, name: str) -> bool:
    match node:
        case ast.FunctionDef(name=defined) | ast.AsyncFunctionDef(name=defined) | ast.ClassDef(name=defined):
            return defined == name
        case ast.Assign(targets=targets):
            return any(isinstance(target, ast.Name) and target.id == name for target in targets)
        case ast.AnnAssign(target=ast.Name(id=defined)):
            return defined == name
        case ast.ImportFrom(names=names):
            return any((alias.asname or alias.name) == name for alias in names)
    return False


def _imports_frameworm(node: ast.AST) -> bool:
    match node:
        case ast.Import(names=names):
            return any(alias.name.partition(".")[0] == "frameworm" for alias in names)
        case ast.ImportFrom(module=str() as module, level=0):
            return module.partition(".")[0] == "frameworm"
    return False
