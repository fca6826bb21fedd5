"""What the text of a plugin's file says that it registers; nothing is run to find out."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from frameworm.core.builtins import BUILTINS

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

_HOOKS = ("frameworm.plugins.hooks", "frameworm")
ON = frozenset(f"{module}.HookRegistry.on" for module in _HOOKS)
CALLBACK = frozenset(f"{module}.CallbackHook" for module in _HOOKS)
REGISTER = {f"frameworm.core.register_{kind}": kind for kind in BUILTINS}


class Hook(NamedTuple):
    """A function that is registered for a hook: `hook` is None where it is not written out, `function` likewise."""

    hook: str | None
    function: Function | None
    name: str
    line: int
    is_method: bool = False


class Registration(NamedTuple):
    """`register_<kind>(name, obj)`; `name` is None where it is not written out."""

    kind: str
    name: str | None
    obj: str
    override: bool
    line: int


class Source:
    """A file's imports, definitions and registrations. What it reaches by ways that cannot be read is left out.

    Raises SyntaxError, and ValueError for a file that is no text.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.tree = ast.parse(file.read_bytes(), file)
        self.imports: list[tuple[str, int]] = []  # of the module itself, by their full names
        self.defined: set[str] = set()
        self.has_star = False
        self.hooks: list[Hook] = []
        self.registrations: list[Registration] = []
        self.bare: list[int] = []  # lines of `@HookRegistry.on` without a hook's name
        self.at_import = False
        self._names: dict[str, str] = {}
        self._functions: dict[str, list[Function]] = {}
        for node in ast.walk(self.tree):
            self._define(node)
        self._outer(self.tree.body)
        self._read(self.tree, inside=False)

    def dotted(self, node: ast.AST | None) -> str:
        """Return the full name of what an expression means by the file's imports; empty where they do not tell."""
        match node:
            case ast.Name(id=name):
                return self._names.get(name, "")
            case ast.Attribute(value=value, attr=attribute):
                base = self.dotted(value)
                return f"{base}.{attribute}" if base else ""
        return ""

    def _define(self, node: ast.AST) -> None:
        match node:
            case ast.Import(names=names):
                for alias in names:
                    whole = alias.name if alias.asname else alias.name.partition(".")[0]
                    self._names[alias.asname or whole] = whole
            case ast.ImportFrom(module=str() as module, names=names, level=0):
                for alias in names:
                    self._names[alias.asname or alias.name] = f"{module}.{alias.name}"
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                self._functions.setdefault(name, []).append(node)

    def _outer(self, body: list[ast.stmt]) -> None:
        """Note what the module has once it is imported, whichever way its conditions go."""
        for node in body:
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                    self.defined.add(name)
                case ast.Import(names=names):
                    self.defined |= {alias.asname or alias.name.partition(".")[0] for alias in names}
                    self.imports += [(alias.name, node.lineno) for alias in names]
                case ast.ImportFrom(names=names, module=module, level=level):
                    self.defined |= {alias.asname or alias.name for alias in names}
                    self.has_star = self.has_star or any(alias.name == "*" for alias in names)
                    self.imports += [(module, node.lineno)] if module and not level else []
                case ast.If(body=inner, orelse=other) | ast.For(body=inner, orelse=other):
                    self._outer([*([] if _for_types(node) else inner), *other])
                case ast.With(body=inner):
                    self._outer(inner)
                case ast.Try(body=inner, orelse=other, finalbody=final, handlers=handlers):
                    optional = [statement for handler in handlers for statement in handler.body]
                    before = len(self.imports)
                    self._outer([*inner, *other, *final, *optional])
                    del self.imports[before:]  # what may be missing is no dependency
                case _:
                    targets = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
                    self.defined |= targets

    def _read(self, node: ast.AST, *, inside: bool) -> None:
        """Look for registrations; `inside` of a function they do not happen at import."""
        before = len(self._registered())
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for decorator in node.decorator_list:
                self._decorated(node, decorator)
        if isinstance(node, ast.Call):
            self._called(node)
        self.at_import = self.at_import or (not inside and len(self._registered()) > before)
        if isinstance(node, ast.ClassDef):
            self._callback(node)
        for child in ast.iter_child_nodes(node):
            self._read(child, inside=inside or isinstance(node, Function))

    def _registered(self) -> list[object]:
        return [*self.hooks, *self.registrations, *self.bare]  # the last would be, once mended

    def _decorated(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, decorator: ast.expr) -> None:
        if self.dotted(decorator) in ON:
            self.bare.append(decorator.lineno)
        elif isinstance(decorator, ast.Call):
            called = self.dotted(decorator.func)
            if called in ON:
                function = None if isinstance(node, ast.ClassDef) else node
                self.hooks.append(Hook(_text(decorator), function, node.name, node.lineno))
            elif called in REGISTER:
                self._register(decorator, REGISTER[called], node.name)

    def _called(self, node: ast.Call) -> None:
        called = self.dotted(node.func)
        objects = [*node.args[1:2], *(word.value for word in node.keywords if word.arg == "obj")]
        if called in REGISTER and objects:
            self._register(node, REGISTER[called], ast.unparse(objects[0]))
        elif isinstance(node.func, ast.Call) and self.dotted(node.func.func) in ON and node.args:
            given = node.args[0]
            function: Function | None = given if isinstance(given, ast.Lambda) else None
            if isinstance(given, ast.Name) and len(named := self._functions.get(given.id, [])) == 1:
                function = named[0]
            self.hooks.append(Hook(_text(node.func), function, ast.unparse(given), node.lineno))

    def _register(self, call: ast.Call, kind: str, obj: str) -> None:
        override = any(word.arg == "override" and getattr(word.value, "value", True) for word in call.keywords)
        self.registrations.append(Registration(kind, _text(call), obj, override, call.lineno))

    def _callback(self, node: ast.ClassDef) -> None:
        if not any(self._is_callback(base, ()) for base in node.bases):
            return
        for method in node.body:
            if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) and method.name.startswith("on_"):
                name = f"{node.name}.{method.name}"
                is_static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in method.decorator_list)
                self.hooks.append(Hook(method.name, method, name, method.lineno, is_method=not is_static))

    def _is_callback(self, base: ast.expr, above: tuple[str, ...]) -> bool:
        if self.dotted(base) in CALLBACK:
            return True
        if not isinstance(base, ast.Name) or base.id in above:
            return False
        named = [node for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef) and node.name == base.id]
        return any(self._is_callback(other, (*above, base.id)) for node in named for other in node.bases)


def signature_of(function: Function, *, is_method: bool) -> inspect.Signature:
    """Return a function's signature as `inspect` would give it, without the first parameter of a method."""
    return inspect.Signature(list(_parameters(function.args))[1 if is_method else 0 :])


def _parameters(arguments: ast.arguments) -> Iterator[inspect.Parameter]:
    kinds = inspect.Parameter
    in_line = [*arguments.posonlyargs, *arguments.args]
    first_default = len(in_line) - len(arguments.defaults)
    for index, argument in enumerate(in_line):
        kind = kinds.POSITIONAL_ONLY if index < len(arguments.posonlyargs) else kinds.POSITIONAL_OR_KEYWORD
        default = ... if index >= first_default else kinds.empty
        yield inspect.Parameter(argument.arg, kind, default=default)
    if arguments.vararg:
        yield inspect.Parameter(arguments.vararg.arg, kinds.VAR_POSITIONAL)
    for argument, given in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield inspect.Parameter(argument.arg, kinds.KEYWORD_ONLY, default=kinds.empty if given is None else ...)
    if arguments.kwarg:
        yield inspect.Parameter(arguments.kwarg.arg, kinds.VAR_KEYWORD)


def _text(call: ast.Call) -> str | None:
    """Return the first argument of a call, where it is a text that is written out."""
    given = [*call.args, *(word.value for word in call.keywords if word.arg in ("hook", "name"))]
    match given:
        case [ast.Constant(value=str() as text), *_]:
            return text
    return None


def _for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
