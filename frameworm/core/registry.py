"""Registries: a config's names become objects here, and every name remembers who gave it a meaning and where."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar, overload

from frameworm.core import ownership
from frameworm.core.builtins import UNLOADED_PLUGINS
from frameworm.core.ownership import Ledger
from frameworm.errors import DuplicateNameError, UnknownNameError, UserError, nearest

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, eq=False)
class Entry:
    """What a name means: the object, the plugin or module that registered it, and the place ("file:line") where."""

    obj: Callable[..., Any]
    owner: str
    place: str
    definition: Hashable
    """Equal for two registrations of one definition: taken when registering, when its module is surely there."""
    ledger: Ledger | None = None
    """That of the plugin that registered it."""

    def __str__(self) -> str:
        return f"{self.owner} ({self.place})"


class Registry:
    """The names of one `kind` of thing ("model", "metric", ...).

    `builtins` maps names to "module:attribute". They are imported when first asked for, so that a registry of models
    does not need torch before somebody wants a model.
    """

    def __init__(self, kind: str, builtins: Mapping[str, str] = MappingProxyType({})) -> None:
        self.kind = kind
        self._builtins = builtins
        self._layers: dict[str, list[Entry]] = {}  # the last one counts; an override hides what lies below it

    @overload
    def register(self, name: str, obj: F, *, override: bool = False) -> F: ...
    @overload
    def register(self, name: str, *, override: bool = False) -> Callable[[F], F]: ...
    def register(self, name: Any, obj: F | None = None, *, override: bool = False) -> F | Callable[[F], F]:
        """Give `obj` (a class or a function) a name, and return it; without `obj`, a decorator that does so.

        Registering the same definition again replaces it, however its file was reached. Another one of that name is a
        DuplicateNameError, unless `override=True`: then the overridden one comes back when this one is taken back.
        """
        if not isinstance(name, str) or not name:
            hint = f'@register_{self.kind}("a_name")'
            raise UserError(f"a {self.kind} needs a name", expected="a text", got=repr(name), hint=hint)
        caller = sys._getframe(1)  # noqa: SLF001  the cheap way to know who calls
        ledger = ownership.caller()
        owner = ledger.name if ledger else caller.f_globals.get("__name__", "an unknown module")
        place = f"{caller.f_code.co_filename}:{caller.f_lineno}"

        def add(obj: F) -> F:
            if not callable(obj):
                expected = "a class or a function"
                raise UserError(f"{self.kind} {name!r} cannot be called", expected=expected, got=repr(obj), where=place)
            entry = Entry(obj, owner, place, _definition(obj), ledger)
            self._add(name, entry, override=override)
            if ledger is not None:
                what = f"{self.kind} {name}"
                ledger.enter(what, lambda: self._remove(name, entry), lambda: entry in self._layers.get(name, ()))
            return obj

        return add if obj is None else add(obj)

    def _add(self, name: str, entry: Entry, *, override: bool) -> None:
        layers = self._layers.get(name, [])
        again = bool(layers) and layers[-1].definition == entry.definition
        if again and layers[-1].ledger is entry.ledger:
            layers[-1] = entry
        elif again or override or name not in self.names():
            self._layers[name] = [*layers, entry]
        else:
            raise DuplicateNameError(self.kind, name, first=str(self.entry(name)), second=str(entry))

    def unregister(self, name: str) -> None:
        """Take back the latest registration of `name`; what it had overridden counts again."""
        if name not in self._layers:
            raise UnknownNameError(f"registered {self.kind}", name, self._layers)
        self._remove(name, self._layers[name][-1])

    def _remove(self, name: str, entry: Entry) -> None:
        layers = [other for other in self._layers.get(name, ()) if other is not entry]
        if layers:
            self._layers[name] = layers
        else:
            self._layers.pop(name, None)

    @contextmanager
    def without_plugins(self) -> Iterator[None]:
        """Put aside what plugins have registered, and bring it back at the end, whatever comes and goes meanwhile."""
        before = {name: list(layers) for name, layers in self._layers.items()}
        kept = {name: [entry for entry in layers if entry.ledger is None] for name, layers in before.items()}
        self._layers = {name: layers for name, layers in kept.items() if layers}
        try:
            yield
        finally:
            self._layers = before

    def get(self, name: str, *, where: str | None = None) -> Callable[..., Any]:
        """The object called `name`, or the one at an import path "package.module:attribute".

        An unknown name is an UnknownNameError; `where` says in it where the name was written.
        """
        if ":" in name:
            obj: Callable[..., Any] = load(name, where=where)
            return obj
        return self.entry(name, where=where).obj

    def entry(self, name: str, *, where: str | None = None) -> Entry:
        """The object called `name`, with its owner and place."""
        if name in self._layers:
            return self._layers[name][-1]
        if name in self._builtins:
            target = self._builtins[name]
            return Entry(load(target), "frameworm", target, target)
        raise UnknownNameError(self.kind, name, self.names(), where=where, got=load(UNLOADED_PLUGINS)())

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted({*self._builtins, *self._layers}))


def load(path: str, *, where: str | None = None) -> Any:
    """Import what "package.module:attribute" names; a UserError says which half of it does not exist."""
    module_name, _, attribute = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(f"cannot import {path!r}", got=str(error), where=where) from error
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        hint = nearest(attribute, vars(module))
        raise UserError(f"module {module_name!r} has no {attribute!r}", where=where, hint=hint) from error


def _definition(obj: Callable[..., Any]) -> Hashable:
    """What two imports of one definition have in common: its file and its name in there."""
    name = getattr(obj, "__qualname__", "<lambda>")
    if name.endswith("<lambda>"):  # no name of its own: only the very same object is the same
        return id(obj)
    module = sys.modules.get(obj.__module__)
    file = getattr(module, "__file__", None)
    return os.path.realpath(file) if file else obj.__module__, name
