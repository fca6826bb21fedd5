"""Everything that can be wrong with the values of a config, found in one go."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_origin

import msgspec

from frameworm.config.document import KeyPath, Places, scalar
from frameworm.config.expectations import expectation, show
from frameworm.config.schema import DEFAULTS, SECTIONS, Name, Named, OptimizerConfig, keys_of
from frameworm.config.secrets import REFERENCE, looks_secret
from frameworm.errors import ConfigError, nearest

_SYNTHETIC = """data:
  name: synthetic
  inputs: 10
  targets: 5"""


class Check:
    """Looks at every value and adds what is wrong to `findings`."""

    def __init__(self, places: Places, findings: list[ConfigError]) -> None:
        self._places = places
        self._findings = findings
        self._unset: set[KeyPath] = set()

    def _report(self, path: KeyPath, message: str, **details: str | None) -> None:
        self._findings.append(ConfigError(message, where=self._places.of(path), **details))

    def _wrong(self, path: KeyPath, value: Any, expected: str, hint: str | None = None) -> None:
        self._report(path, f"wrong value for {'.'.join(path)}", expected=expected, got=show(value), hint=hint)

    def names(self, given: Mapping[str, Any], known: Sequence[str] = tuple(DEFAULTS), path: KeyPath = ()) -> None:
        """Every key of `given` is one of `known`."""
        for key in given:
            if key not in known:
                name = ".".join((*path, key))
                expected = f"one of {', '.join(known)}"
                self._report((*path, key), f"unknown key {name}", expected=expected, hint=nearest(key, known))

    def resolved(self, value: Any, path: KeyPath) -> Any:
        """`value` with its references to the environment replaced by the variables' values.

        A value that is nothing but a reference is read as if the variable's text were written there, `0.1` is a
        number, unless its key looks secret; inside a longer text it stays text.
        """
        if isinstance(value, dict):
            return {key: self.resolved(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self.resolved(item, (*path, str(index))) for index, item in enumerate(value)]
        if not isinstance(value, str) or not REFERENCE.search(value):
            return value
        for name in {name: None for name in REFERENCE.findall(value) if name not in os.environ}:
            message = f"{'.'.join(path)} needs the environment variable {name!r}, which is not set"
            self._report(path, message, hint=f"export {name}=...")
            self._unset.add(path)
        text = REFERENCE.sub(lambda reference: os.environ.get(reference[1], reference[0]), value)
        alone = REFERENCE.fullmatch(value) and not any(map(looks_secret, path))
        return scalar(text) if alone else text

    def sections(self, tree: Mapping[str, Any], *, has_data: bool) -> None:
        """Every section has the keys and values that `SECTIONS` says."""
        if not has_data:
            self._report(("data",), "there is no data section", expected="the dataset to train on", hint=_SYNTHETIC)
        for section, kind in SECTIONS.items():
            if tree[section] is not None and (section != "data" or has_data):
                self._section(tree[section], kind, (section,))
        self._value(tree["metrics"], tuple[Name, ...], ("metrics",))
        self._optimizers(tree["optimizers"])
        self._callbacks(tree["callbacks"])
        self._plugins(tree["plugins"])

    def _section(self, value: Any, kind: type[msgspec.Struct], path: KeyPath) -> None:
        keys = keys_of(kind)
        if not isinstance(value, dict):
            named = isinstance(value, str) and "name" in keys
            self._wrong(path, value, "a mapping", hint=f"{{name: {value}}}" if named else None)
            return
        if "options" not in kind.__struct_fields__:
            self.names(value, tuple(keys), path)
        for key, field in keys.items():
            if key in value:
                self._value(value[key], field.type, (*path, key))
            elif field.required:
                name = ".".join((*path, key))
                hint = _SYNTHETIC if path == ("data",) else None
                self._report(path, f"{name} is missing", expected=expectation(field.type), hint=hint)

    def _value(self, value: Any, kind: Any, path: KeyPath) -> None:
        if path in self._unset:
            return  # that has been said
        if isinstance(value, list) and get_origin(kind) is tuple:
            for index, item in enumerate(value):
                self._value(item, get_args(kind)[0], (*path, str(index)))
            return
        if not _fits(value, kind):
            self._wrong(path, value, expectation(kind), hint=_meant(value, kind))

    def _optimizers(self, value: Any) -> None:
        if not isinstance(value, dict):
            self._wrong(("optimizers",), value, "a mapping of optimizers' names", hint="discriminator: {lr: 1e-4}")
            return
        for name, section in value.items():
            path = ("optimizers", name)
            alone = section
            if isinstance(section, dict) and section.get("scheduler") is not None:
                self._section(section["scheduler"], Named, (*path, "scheduler"))
                alone = {**section, "scheduler": None}
            self._section(alone, OptimizerConfig, path)

    def _callbacks(self, value: Any) -> None:
        if not isinstance(value, list):
            self._wrong(("callbacks",), value, "a list of callbacks", hint="[early_stopping]")
            return
        for index, entry in enumerate(value):
            options = [*entry.values()] if isinstance(entry, dict) else []
            if len(options) != 1 or not isinstance(options[0], dict):
                hint = "early_stopping: {monitor: val_loss, patience: 3}"
                self._wrong(("callbacks", str(index)), entry, "a name, or one name with its options", hint=hint)

    def _plugins(self, value: Any) -> None:
        for name, options in value.items() if isinstance(value, dict) else ():
            if name != "disable" and not isinstance(options, dict):
                hint = f"{name}: {{}}" if not (near := nearest(name, ["disable"])) else near
                self._wrong(("plugins", name), options, "the options of a plugin of that name", hint=hint)


def _fits(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def _meant(value: Any, kind: Any) -> str | None:
    """What to write for a `value` that is no `kind`, if that can be guessed."""
    if type(value) in (int, float):
        return f"'{value}', in quotes" if _fits(str(value), kind) else None
    if not isinstance(value, str):
        return None
    if get_origin(kind) is tuple:
        return f"[{value}]"
    if _fits(scalar(value), kind):
        return f"{value}, without quotes"
    return nearest(value, [choice for choice in get_args(kind) if isinstance(choice, str)])
