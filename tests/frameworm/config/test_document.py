"""YAML is read as version 1.2 says, with the place of every value, and written so that it reads back."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from frameworm.config.document import Document, read_file, read_mapping, read_text, scalar, write_text
from frameworm.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("3.", 3.0),
        (".5", 0.5),
        ("-1.5e+2", -150.0),
        ("10", 10),
        ("+3", 3),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("on", "on"),
        ("yes", "yes"),
        ("NO", "NO"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("1.2.3", "1.2.3"),
        ("e3", "e3"),
        (".", "."),
        ("nan", "nan"),
        ("-", "-"),
    ],
)
def test_unquoted_scalars(text: str, value: object) -> None:
    """Numbers, booleans and null are those of YAML 1.2; all else is text."""
    read = scalar(text)
    assert (read, type(read)) == (value, type(value))


def test_nan() -> None:
    """`.nan` is not a number."""
    assert math.isnan(float(str(scalar(".nan"))))


def test_quotes_make_text() -> None:
    """What is in quotes, or in a block, is text."""
    assert read_text("a: '1'\nb: \"true\"\nc: |\n  3\n", "c").value == {"a": "1", "b": "true", "c": "3\n"}


def test_every_value_has_its_line() -> None:
    """Keys, items of lists and values inside flow mappings know their line; others that of what is around them."""
    places = read_text("a: 1\n\nb:\n  c: {d: 1,\n    e: 2}\nf:\n  - 1\n  - g: 2\n", "c.yaml").places
    lines = {"a": 1, "b": 3, "b.c": 4, "b.c.d": 4, "b.c.e": 5, "f": 6, "f.0": 7, "f.1.g": 8, "b.x": 3, "f.1.g.x.y": 8}
    assert {key: places.of(tuple(key.split("."))) for key in lines} == {
        key: f"c.yaml:{line}" for key, line in lines.items()
    }
    assert places.of(("x",)) == "c.yaml"


def test_keys_are_given_once_and_are_text() -> None:
    """Duplicate keys and keys of other types are findings, all of them, each with its line."""
    document = read_text("a: 1\na: 2\n3: 4\ntrue: 5\n[x]: 6\nb:\n  c: 1\n  c: 1\non: 7\n", "c.yaml")
    assert [(error.message, error.where) for error in document.findings] == [
        ("a is given twice", "c.yaml:2"),
        ("a key is not text", "c.yaml:3"),
        ("a key is not text", "c.yaml:4"),
        ("a key is not text", "c.yaml:5"),
        ("b.c is given twice", "c.yaml:8"),
    ]
    assert document.findings[0].got == "the first at c.yaml:1"
    assert document.value == {"a": 1, "b": {"c": 1}, "on": 7}


@pytest.mark.parametrize(
    ("text", "message", "where"),
    [
        ("a: 1\nb: [1,\n", "YAML syntax error: ", "c.yaml:3:1"),
        ("a: b: c", "YAML syntax error: mapping values are not allowed here", "c.yaml:1:5"),
        ("a: &x 1\nb: *x", "YAML syntax error: anchors (&), aliases (*) and tags (!) are not used here", "c.yaml:1:4"),
        ("a: !!python/object:os.system x", "YAML syntax error: anchors (&), aliases (*) and tags (!)", "c.yaml:1:4"),
        ("--- \na: 1\n---\nb: 1", "YAML syntax error: but found another document", "c.yaml:3:1"),
        ("a: 1\nb: x\x00y", "YAML syntax error: the character '\\x00' is not allowed", "c.yaml:2:5"),
        ("[" * 100_000, "the values are nested too deeply", "c.yaml"),
    ],
)
def test_syntax_errors(text: str, message: str, where: str) -> None:
    """A text that is no YAML, or more than plain YAML, is an error with line and column."""
    with pytest.raises(ConfigError) as caught:
        read_text(text, "c.yaml")
    assert caught.value.message.startswith(message)
    assert caught.value.where == where


def test_a_tab_is_named() -> None:
    """A tab where YAML wants spaces is said to be one."""
    with pytest.raises(ConfigError) as caught:
        read_text("a:\n\tb: 1", "c.yaml")
    assert (caught.value.where, caught.value.hint) == ("c.yaml:2:1", "spaces in place of the tab")


def test_an_empty_text_is_null() -> None:
    """A text of comments has no value."""
    assert read_text("# nothing\n", "c.yaml").value is None


def test_a_missing_file_offers_the_nearest(tmp_path: Path) -> None:
    """A missing file is answered with the nearest one in its folder, else with what there is."""
    path = tmp_path / "config.yaml"
    assert _error(path).hint == "`frameworm init` writes a config.yaml that trains"
    (tmp_path / "configs.yml").touch()
    (tmp_path / "other.yaml").touch()
    assert _error(path).hint == str(tmp_path / "configs.yml")
    assert _error(tmp_path / "zzz").hint == f"{tmp_path / 'configs.yml'}, {tmp_path / 'other.yaml'}"
    assert (_error(path).message, _error(path).where) == ("there is no such config file", str(path))
    assert _error(tmp_path / "nowhere" / "config.yaml").message == "there is no such config file"


def test_a_directory_offers_the_file_inside(tmp_path: Path) -> None:
    """A directory is no config, but may hold one."""
    (tmp_path / "config.yaml").touch()
    error = _error(tmp_path)
    assert (error.message, error.hint) == ("the config is a directory", str(tmp_path / "config.yaml"))


def test_files_that_are_not_readable_text(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 and paths that are no file are said to be so; a byte order mark is read over."""
    path = tmp_path / "config.yaml"
    path.write_bytes("ä: 1".encode("latin-1"))
    assert (_error(path).message, _error(path).got) == ("the config is not text", "byte 0xe4 at position 0")
    assert _error(path / "x").got == "Not a directory"
    path.write_text("\ufeffa: 1", "utf-8")
    assert read_file(path).value == {"a": 1}


def test_a_mapping_is_copied_plain() -> None:
    """A Python mapping becomes plain values: tuples are lists, paths are text; other things are findings."""
    source = {"a": (1, 2.5), "b": {"path": Path("x"), "c": None}}
    assert read_mapping(source, "c") == Document({"a": [1, 2.5], "b": {"path": "x", "c": None}}, _ANY, ())
    strange: dict[Any, Any] = {"a": [object()], 3: 4, "b": {None: 1}}
    findings = read_mapping(strange, "c").findings
    assert [(error.message, error.got) for error in findings] == [
        ("a key of c is not text", "3"),
        ("wrong value for a.0", "object"),
        ("a key of b is not text", "None"),
    ]


class _Anything:
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]  # what equals everything has no hash


_ANY: Any = _Anything()

_SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.from_regex(r"[0-9eE.+-]+")
)
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=8
)


@given(st.dictionaries(st.text(), _VALUES, max_size=5))
def test_what_is_written_reads_back(value: dict[str, Any]) -> None:
    """Any mapping of plain values is written so that our reader gives it back, types included."""
    document = read_text(write_text(value), "c.yaml")
    assert document.findings == ()
    assert repr(document.value) == repr(value)


@given(st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text(), max_size=5))
def test_what_is_written_reads_back_elsewhere(value: dict[str, Any]) -> None:
    """Readers of YAML 1.1 take it for the same."""
    assert yaml.safe_load(write_text(value)) == value


def _error(path: Path) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read_file(path)
    return caught.value
