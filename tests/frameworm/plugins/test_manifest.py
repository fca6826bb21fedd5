"""The manifest: text stays text, everything wrong is said at once with its line, and the schema says the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from frameworm.errors import ManifestError
from frameworm.plugins.manifest import Manifest, Read, parse_manifest, read_manifest, schema

DOCUMENT = """name: my-awesome-plugin
version: 1.0.0
author: Your Name
description: My custom FRAMEWORM extension
entry_point: plugin:register
dependencies:
  - torch>=2.0.0
hooks:
  - model
  - callback
"""


def read(folder: Path, text: str | bytes) -> Read:
    """Return the manifest in a file with that content."""
    file = folder / "plugin.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_manifest(file)


def wrong(folder: Path, text: str | bytes) -> ManifestError:
    """Return the error that a file with that content raises."""
    with pytest.raises(ManifestError) as caught:
        read(folder, text)
    return caught.value


def test_the_documents_manifest(tmp_path: Path) -> None:
    """Every key is there, and there is nothing to warn of."""
    manifest, warnings = read(tmp_path, DOCUMENT)
    assert warnings == ()
    assert manifest == Manifest(
        name="my-awesome-plugin",
        version="1.0.0",
        author="Your Name",
        description="My custom FRAMEWORM extension",
        entry_point="plugin:register",
        dependencies=("torch>=2.0.0",),
        hooks=("model", "callback"),
    )


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("version: 1.10", "version", "1.10"),
        ("version: 1", "version", "1"),
        ("version: 2026-01-01", "version", "2026-01-01"),
        ("description: on", "description", "on"),
        ("author: 012", "author", "012"),
        ("description: 1e3", "description", "1e3"),
        ("author: null", "author", ""),
        ("author: ~", "author", ""),
        ("author:", "author", ""),
        ("author: 'null'", "author", "null"),
        ("hooks: model", "hooks", ("model",)),
        ("hooks:", "hooks", ()),
        ("dependencies: torch>=2", "dependencies", ("torch>=2",)),
        ("requires: [a, b_c]", "requires", ("a", "b_c")),
        ("frameworm: '>=0.1,<2'", "frameworm", ">=0.1,<2"),
        ("dispatch: async", "dispatch", "async"),
        ("entry_point: ':register'", "entry_point", ":register"),
        ("entry_point: a.b-c:d.e", "entry_point", "a.b-c:d.e"),
        ("description: ✓ ünï", "description", "✓ ünï"),
    ],
)
def test_values_are_as_they_are_written(tmp_path: Path, line: str, key: str, value: Any) -> None:
    """Numbers, dates and YAML 1.1's booleans are text, null is empty, one text is a list of one."""
    assert getattr(read(tmp_path, f"name: a\n{line}\n").manifest, key) == value


def test_a_name_may_be_what_yaml_takes_for_something_else(tmp_path: Path) -> None:
    """`on` is a name."""
    assert read(tmp_path, "name: on").manifest.name == "on"


def test_everything_wrong_is_said_at_once_with_lines(tmp_path: Path) -> None:
    """In the order of the keys' checks; each finding names its line."""
    error = wrong(
        tmp_path,
        "name: ../evil\nname: b\nversion: [1]\ndependencies: [torch>>2, {a: b}]\nhooks: [modle]\nframeworm: abc\n"
        "dispatch: asynch\nentry_point: 'a b'\nrequires: [x y]\n",
    )
    lines = sorted(int((finding.where or "").rpartition(":")[2]) for finding in error.findings)
    assert lines == [1, 2, 3, 4, 4, 5, 6, 7, 8, 9]
    text = str(error)
    for word in ("name is given twice", "'../evil'", "torch>>2", "unknown hook 'modle'", "'asynch'", "'x y'", "try:"):
        assert word in text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "keys and values"),
        ("# nothing\n", "keys and values"),
        ("- a\n- b\n", "keys and values"),
        ("just text", "keys and values"),
        ("version: 1", "name is missing"),
        ("name:", "name is missing"),
        ("name: [a]", "wrong value for name"),
        ("name: a\nauthor: {b: c}", "wrong value for author"),
        ("name: a\n\thooks: b", "syntax error"),
        ("name: !!python/object/apply:os.system [ls]", "tags"),
        ("name: &x a\nauthor: *x", "anchors"),
        (b"name: \xff\xfe", "not text"),
        (b"\x00\x01\x02", "not allowed"),
        ("a: " * 10_000, "syntax error"),
        ("[" * 5_000, "nested too deeply"),
        ("x" * (1 << 20) + "xx", "no manifest"),
    ],
    ids=range(16),
)
def test_what_is_no_manifest_is_one_clear_error(tmp_path: Path, text: str | bytes, says: str) -> None:
    """Never another exception, and always the file."""
    error = wrong(tmp_path, text)
    assert says in str(error)
    assert str(tmp_path / "plugin.yaml") in (error.where or "")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """Nor one that is a folder."""
    with pytest.raises(ManifestError, match="cannot be read"):
        read_manifest(tmp_path / "plugin.yaml")
    with pytest.raises(ManifestError):
        read_manifest(tmp_path)


def test_what_is_odd_is_warned_of(tmp_path: Path) -> None:
    """Unknown keys with the nearest one, versions that cannot be compared, hooks of unknown events."""
    warnings = read(tmp_path, "name: a\nautor: me\nversion: first\nhooks: [on_epoch_ends]\nxyzzy: 1\n").warnings
    assert len(warnings) == 4
    assert "plugin.yaml:2: the key 'autor' means nothing; did you mean 'author'?" in warnings[0]
    assert any("'first' is no version" in warning for warning in warnings)
    assert any("on_epoch_ends; did you mean on_epoch_end?" in warning for warning in warnings)


def test_metadata_in_code_is_checked_alike() -> None:
    """With the place of the dict."""
    manifest, warnings = parse_manifest({"name": "my-plugin", "version": "1.0.0", "hooks": "model"}, "init.py:3")
    assert (manifest.name, manifest.hooks, warnings) == ("my-plugin", ("model",), ())
    with pytest.raises(ManifestError, match="wrong value for name") as caught:
        parse_manifest({"name": "a b"}, "init.py:3")
    assert caught.value.where == "init.py:3"


@pytest.mark.parametrize(
    "text", [DOCUMENT, "name: a", "name: a\nhooks: model\ndependencies: torch\nversion: 1.10\nauthor:", "name: a\nx: 1"]
)
def test_the_schema_takes_what_is_right(tmp_path: Path, text: str) -> None:
    """As an editor would check it, by the values that YAML gives."""
    read(tmp_path, text)
    jsonschema.validate(yaml.safe_load(text), schema())


@pytest.mark.parametrize(
    "text", ["version: 1.0.0", "name: [a]", "name: a\nhooks: [modle]", "name: a\ndispatch: x", "name: a\nauthor: [b]"]
)
def test_the_schema_refuses_what_is_wrong(tmp_path: Path, text: str) -> None:
    """What the reader refuses."""
    wrong(tmp_path, text)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(text), schema())
