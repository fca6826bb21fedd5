"""A plugin's manifest: what it is, what it needs, what it brings; read and checked without running the plugin."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import msgspec

from frameworm.config.document import Document, read_mapping, read_text
from frameworm.core.builtins import BUILTINS
from frameworm.errors import ConfigError, ManifestError, UserError, nearest
from frameworm.plugins import requirements
from frameworm.plugins.binding import PREFIX, hook_names
from frameworm.plugins.lanes import Dispatch
from frameworm.plugins.names import check_name

FILE = "plugin.yaml"

_ENTRY_POINT = re.compile(r"(([A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)*)?:)?[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_LIMIT = 1 << 20  # bytes of a manifest; more is another file


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a plugin says of itself.

    `entry_point` is what is called when it is loaded, `dependencies` are requirements of packages (PEP 508), `requires`
    other plugins, `frameworm` a range of versions, and `hooks` what it registers: `model`, `callback`, `on_epoch_end`.
    """

    name: str
    version: str = "0.0.0"
    author: str = ""
    description: str = ""
    entry_point: str = "register"
    dependencies: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    frameworm: str = ""
    dispatch: Dispatch | None = None


LISTS = ("dependencies", "hooks", "requires")


class Read(NamedTuple):
    """A manifest, and what in it is odd but not wrong."""

    manifest: Manifest
    warnings: tuple[str, ...]


def read_manifest(path: Path) -> Read:
    """Read the `plugin.yaml` at `path`; raises `ManifestError` with all that is wrong in it, each with its line."""
    try:
        if path.stat().st_size > _LIMIT:
            raise ManifestError("that is no manifest", where=str(path), expected=f"at most {_LIMIT:,} bytes")
        document = read_text(path.read_text("utf-8-sig"), str(path), as_text=True)
    except OSError as error:
        raise ManifestError("the manifest cannot be read", where=str(path), got=error.strerror) from error
    except UnicodeDecodeError as error:
        got = f"byte {error.object[error.start]:#04x} at position {error.start}"
        raise ManifestError("the manifest is not text", where=str(path), expected="UTF-8", got=got) from error
    except ConfigError as error:
        raise _as_manifest_error(error) from error
    return _Check(document).read()


def parse_manifest(mapping: Mapping[str, Any], source: str) -> Read:
    """Check a `__plugin_metadata__`; `source` is the place that errors name. Otherwise like `read_manifest`."""
    return _Check(read_mapping(mapping, source)).read()


def contributions() -> tuple[str, ...]:
    """Return what may stand under `hooks`: the kinds of registries, and the hooks' names."""
    return (*BUILTINS, *hook_names())


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a manifest."""
    text = {"type": ["string", "number", "boolean", "null"]}
    one_or_many = {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": ["string", "null"]}]}
    properties: dict[str, Any] = {key: one_or_many if key in LISTS else text for key in Manifest.__struct_fields__}
    properties["name"] = {"type": "string"}
    properties["hooks"] = {
        "anyOf": [{"type": "array", "items": {"enum": list(contributions())}}, {"enum": [*contributions(), None]}]
    }
    properties["dispatch"] = {"enum": [*get_args(Dispatch), None]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The manifest of a FRAMEWORM plugin",
        "type": "object",
        "properties": properties,
        "required": ["name"],
    }


class _Check:
    """Collects everything that is wrong with a document that should be a manifest."""

    def __init__(self, document: Document) -> None:
        self._places = document.places
        self._value = document.value
        self._findings: list[UserError] = list(document.findings)
        self._warnings: list[str] = []

    def read(self) -> Read:
        """Return the manifest; raises `ManifestError`."""
        source = self._places.source
        if not isinstance(self._value, dict):
            got = "nothing" if self._value is None else type(self._value).__name__
            raise ManifestError("a manifest has keys and values", where=source, expected="name: my-plugin", got=got)
        fields = self._fields(self._value)
        if not self._findings:
            return Read(Manifest(**fields), tuple(self._warnings))
        raise ManifestError.of([_as_manifest_error(finding) for finding in self._findings], source)

    def _fields(self, value: Mapping[str, Any]) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for key, item in value.items():
            if key not in Manifest.__struct_fields__:
                near = nearest(key, Manifest.__struct_fields__)
                meant = f"; did you mean {near!r}?" if near else ""
                self._warnings.append(f"{self._places.of((key,))}: the key {key!r} means nothing{meant}")
            elif item is not None:
                fields[key] = self._texts(key, item) if key in LISTS else self._text(key, item)
        if "name" not in fields:
            self._report(("name",), "name is missing", expected="the plugin's name", hint="name: my-plugin")
        self._values({key: item for key, item in fields.items() if item is not None})
        return fields

    def _text(self, key: str, value: Any) -> str | None:
        if isinstance(value, dict | list):
            self._report((key,), f"wrong value for {key}", expected="a text", got=_kind(value))
            return None
        return str(value)

    def _texts(self, key: str, value: Any) -> tuple[str | None, ...]:
        """Return the items of a list, None for one that is reported."""
        items = value if isinstance(value, list) else [value]
        for index, item in enumerate(items):
            if item is None or isinstance(item, dict | list):
                place, expected = (key, str(index)), "a text for each item"
                self._report(place, f"wrong value for {key}", expected=expected, got=_kind(item))
        return tuple(None if item is None or isinstance(item, dict | list) else str(item) for item in items)

    def _values(self, fields: Mapping[str, Any]) -> None:
        """Look at what the values mean."""
        if "name" in fields:
            self._name(("name",), fields["name"])
        for place, name in _items(fields, "requires"):
            self._name(place, name)
        for place, text in _items(fields, "dependencies"):
            if problem := requirements.requirement_problem(text):
                self._report(place, f"no requirement: {problem}", expected="such as torch>=2.0.0", got=repr(text))
        self._hooks(list(_items(fields, "hooks")))
        entry_point = fields.get("entry_point", "register")
        if not _ENTRY_POINT.fullmatch(entry_point):
            expected = "a function of the plugin, such as register or module:register"
            self._report(("entry_point",), "wrong value for entry_point", expected=expected, got=repr(entry_point))
        if problem := requirements.range_problem(fields.get("frameworm", "")):
            self._report(("frameworm",), f"no range of versions: {problem}", expected="such as >=0.1,<1")
        dispatch, choices = fields.get("dispatch", "sync"), get_args(Dispatch)
        if dispatch not in choices:
            expected, hint = f"one of {', '.join(choices)}", nearest(dispatch, choices)
            self._report(("dispatch",), "wrong value for dispatch", expected=expected, got=repr(dispatch), hint=hint)
        version = fields.get("version", "0")
        if not requirements.is_version(version):
            self._warnings.append(f"{self._places.of(('version',))}: {version!r} is no version such as 1.0.0")

    def _hooks(self, hooks: Sequence[tuple[tuple[str, str], str]]) -> None:
        known = contributions() if hooks else ()
        for place, hook in hooks:
            if hook not in known and hook.startswith(PREFIX):  # another plugin may publish such an event
                near = nearest(hook, known)
                meant = f"; did you mean {near}?" if near else ""
                self._warnings.append(f"{self._places.of(place)}: no event has the hook {hook}{meant}")
            elif hook not in known:
                expected = f"{', '.join(BUILTINS)}, or the name of a hook"
                message = f"unknown hook {hook!r}"
                self._report(place, message, expected=expected, hint=nearest(hook, known))

    def _name(self, path: tuple[str, ...], name: str) -> None:
        try:
            check_name(name)
        except UserError as error:
            message = f"wrong value for {path[0]}"
            self._report(path, message, expected=error.expected, got=error.got, hint=error.hint)

    def _report(self, path: tuple[str, ...], message: str, **details: str | None) -> None:
        self._findings.append(ManifestError(message, where=self._places.of(path), **details))


def _items(fields: Mapping[str, Any], key: str) -> Iterator[tuple[tuple[str, str], str]]:
    """Return the texts of a list with their places in the document."""
    return (((key, str(index)), text) for index, text in enumerate(fields.get(key, ())) if text is not None)


def _kind(value: Any) -> str:
    return {dict: "a mapping", list: "a list", type(None): "nothing"}.get(type(value), repr(value))


def _as_manifest_error(finding: UserError) -> ManifestError:
    """Return the finding, or the same one under the name of this document's errors."""
    if isinstance(finding, ManifestError):
        return finding
    return ManifestError(
        finding.message, expected=finding.expected, got=finding.got, where=finding.where, hint=finding.hint
    )
