"""YAML in and out, the only door to PyYAML: plain values in YAML 1.2's sense, and the line where each was written."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from yaml.composer import Composer

from frameworm.errors import ConfigError, nearest

KeyPath = tuple[str, ...]
"""Where a value is in a document: the keys on the way to it, list indices as text."""

_CONSTANTS: dict[str, bool | float | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
}
_INTEGER = re.compile(r"[-+]?[0-9]{1,300}")
_OCTAL_OR_HEXADECIMAL = re.compile(r"0o[0-7]{1,300}|0x[0-9a-fA-F]{1,300}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


Scalar = str | float | bool | None


def scalar(text: str) -> Scalar:
    """What unquoted `text` means in YAML 1.2: `1e-3` is a number, `on`, `yes`, `1:30` and `2024-01-01` are text."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _OCTAL_OR_HEXADECIMAL.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def _as_written(text: str) -> str | None:
    return None if text in _CONSTANTS and _CONSTANTS[text] is None else text


class Places:
    """Where the values of a document were written, by key path: `config.yaml:12`, or `--set trainer.epochs=3`."""

    def __init__(self, source: str, known: Mapping[KeyPath, str] | None = None) -> None:
        self.source = source
        self._known = dict(known or {})

    def replace(self, path: KeyPath, place: str) -> None:
        """The value at `path`, with all that is inside it, is now the one written at `place`."""
        self._known = {known: at for known, at in self._known.items() if known[: len(path)] != path}
        self._known[path] = place

    def of(self, path: KeyPath) -> str:
        """The place of the value at `path`, or of the nearest one around it that was written."""
        around = (path[:end] for end in range(len(path), 0, -1))
        return next((self._known[path] for path in around if path in self._known), self.source)


class Document(NamedTuple):
    """A text that was read: its value, the place of each value in it, and what is wrong with its keys."""

    value: Any
    places: Places
    findings: tuple[ConfigError, ...]


def read_text(text: str, source: str, *, as_text: bool = False) -> Document:
    """Read one YAML document; `source` is what errors call it. `as_text` keeps every scalar but null as it is written.

    Raises ConfigError for a syntax error, with line and column. Duplicate and non-text keys are findings of the result.
    """
    try:
        node = _compose(text)
    except yaml.YAMLError as error:
        raise _syntax_error(error, text, source) from None
    except RecursionError:
        raise ConfigError("the values are nested too deeply", where=source) from None
    reader = _Reader(source, _as_written if as_text else scalar)
    value = None if node is None else reader.value(node, ())
    return Document(value, Places(source, reader.places), tuple(reader.findings))


def read_file(path: Path) -> Document:
    """Read the YAML file at `path`. Raises ConfigError when it cannot be read, offering the nearest file."""
    try:
        return read_text(path.read_text("utf-8-sig"), str(path))
    except FileNotFoundError:
        raise ConfigError("there is no such config file", where=str(path), hint=_offer(path)) from None
    except IsADirectoryError:
        raise ConfigError(
            "the config is a directory", where=str(path), expected="a YAML file", hint=_offer(path / "config.yaml")
        ) from None
    except UnicodeDecodeError as error:
        got = f"byte {error.object[error.start]:#04x} at position {error.start}"
        raise ConfigError("the config is not text", where=str(path), expected="UTF-8", got=got) from None
    except OSError as error:
        raise ConfigError("the config cannot be read", where=str(path), got=error.strerror) from None


def read_mapping(mapping: Mapping[str, Any], source: str) -> Document:
    """Take a plain copy of `mapping`; keys that are no text and values that YAML cannot write are findings."""
    findings: list[ConfigError] = []

    def plain(value: Any, path: KeyPath) -> Any:
        if isinstance(value, Mapping):
            findings.extend(
                ConfigError(f"a key of {'.'.join(path) or source} is not text", where=source, got=repr(key))
                for key in value
                if not isinstance(key, str)
            )
            return {key: plain(item, (*path, key)) for key, item in value.items() if isinstance(key, str)}
        if isinstance(value, list | tuple):
            return [plain(item, (*path, str(index))) for index, item in enumerate(value)]
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        if value is not None and type(value) not in (bool, int, float, str):
            expected = "a number, text, true, false, null, or lists and mappings of these"
            got = type(value).__qualname__
            findings.append(ConfigError(f"wrong value for {'.'.join(path)}", where=source, expected=expected, got=got))
        return value

    return Document(plain(mapping, ()), Places(source), tuple(findings))


def write_text(value: Mapping[str, Any]) -> str:
    """YAML for plain `value`, which `read_text` (and YAML 1.1 readers) read back to an equal one."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=math.inf))


def _compose(text: str) -> yaml.Node | None:
    """The tree of a text, by libyaml where it is there, ten times as fast; PyYAML's own parser words the errors."""
    with suppress(yaml.YAMLError, UnicodeError):
        return _FastLoader(text).get_single_node()
    return _Loader(text).get_single_node()


class _PlainComposer(Composer):
    """Composes nodes of text: what unquoted text means is decided by `scalar`."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[attr-defined]  # of the parser that it is mixed with
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None or event.tag is not None:
            # They could hide recursion, exponential size and types of other languages from all who read the file.
            problem = "anchors (&), aliases (*) and tags (!) are not used here; write the value out, or quote the text"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        return super().compose_node(parent, index)


class _Loader(_PlainComposer, yaml.BaseLoader):
    """By PyYAML's own parser."""


_Base: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


class _FastLoader(_PlainComposer, _Base):  # type: ignore[misc]  # which of them is there is known at run time only
    """By libyaml's, where PyYAML was built with it."""

    def __init__(self, text: str) -> None:
        _Base.__init__(self, text)
        Composer.__init__(self)


class _Reader:
    def __init__(self, source: str, meaning: Callable[[str], Scalar]) -> None:
        self.source = source
        self._meaning = meaning
        self.places: dict[KeyPath, str] = {}
        self.findings: list[ConfigError] = []

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        if isinstance(node, yaml.MappingNode):
            return dict(self._items(node, path))
        if isinstance(node, yaml.SequenceNode):
            return [self._placed(item, item, (*path, str(index))) for index, item in enumerate(node.value)]
        return self._scalar(node)

    def _items(self, node: yaml.MappingNode, path: KeyPath) -> Iterator[tuple[str, Any]]:
        seen: set[str] = set()
        for key_node, value_node in node.value:
            key = self._scalar(key_node)
            if not isinstance(key, str):
                got = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else None
                self._report("a key is not text", key_node, got=got, hint="quotes around it" if got else None)
            elif key in seen:
                first = f"the first at {self.places[*path, key]}"
                self._report(f"{'.'.join((*path, key))} is given twice", key_node, got=first)
            else:
                seen.add(key)
                yield key, self._placed(key_node, value_node, (*path, key))

    def _placed(self, place: yaml.Node, node: yaml.Node, path: KeyPath) -> Any:
        self.places[path] = self._place(place)
        return self.value(node, path)

    def _report(self, message: str, node: yaml.Node, *, got: str | None, hint: str | None = None) -> None:
        self.findings.append(ConfigError(message, where=self._place(node), got=got, hint=hint))

    def _scalar(self, node: yaml.Node) -> Scalar:
        """The value of a scalar node; None for a mapping or a list."""
        if not isinstance(node, yaml.ScalarNode):
            return None
        return node.value if node.style else self._meaning(node.value)

    def _place(self, node: yaml.Node) -> str:
        return f"{self.source}:{node.start_mark.line + 1}"


def _syntax_error(error: yaml.YAMLError, text: str, source: str) -> ConfigError:
    mark = getattr(error, "problem_mark", None)
    if mark is None:  # a character that no YAML text may contain: PyYAML gives its position
        position = getattr(error, "position", 0)
        line, column = text.count("\n", 0, position), position - text.rfind("\n", 0, position) - 1
        problem = f"the character {text[position : position + 1]!r} is not allowed"
    else:
        line, column, problem = mark.line, mark.column, str(getattr(error, "problem", error))
    tab = "\t" in "".join(text.splitlines()[line : line + 1])
    where = f"{source}:{line + 1}:{column + 1}"
    return ConfigError(f"YAML syntax error: {problem}", where=where, hint="spaces in place of the tab" if tab else None)


def _offer(path: Path) -> str:
    files = sorted(file.name for file in path.parent.glob("*.y*ml") if file.is_file())
    if not files:
        return "`frameworm init` writes a config.yaml that trains"
    near = nearest(path.name, files)
    return ", ".join(str(path.parent / file) for file in ([near] if near else files[:5]))


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  a value that occurs twice is written twice
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = None
        if not text.isprintable():
            style = '"'  # the other styles lose some of the characters that break lines
        elif scalar(text) != text:
            style = "'"  # text to YAML 1.1, a number to 1.2: `1e-3`
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)
