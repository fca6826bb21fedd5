"""`--set a.b=c` puts a value into the config, or says what to write."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from frameworm.config.document import Places
from frameworm.config.overrides import override
from frameworm.errors import ConfigError

TREE: dict[str, Any] = {"run": {"name": "digits"}, "metrics": ["a", "b"], "callbacks": [{"x": {"y": 1}}], "model": None}


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("run.name=x", ("run", "name"), "x"),
        ("run.seed=1e-3", ("run", "seed"), 1e-3),
        ("run.name='1'", ("run", "name"), "1"),
        ("run.name=a=b", ("run", "name"), "a=b"),
        ("run.name=", ("run", "name"), None),
        ("run.name=yes", ("run", "name"), "yes"),
        ("metrics=[c, 1]", ("metrics",), ["c", 1]),
        ("metrics.1=c", ("metrics", "1"), "c"),
        ("callbacks.0.x.y=2", ("callbacks", "0", "x", "y"), 2),
        ("model={name: mlp}", ("model",), {"name": "mlp"}),
        ("model.name=mlp", ("model", "name"), "mlp"),
        ("new.deep.key=1", ("new", "deep", "key"), 1),
    ],
)
def test_a_value_is_put_in_place(text: str, path: tuple[str, ...], value: object) -> None:
    """Values are YAML; sections that are missing or null are made; items of lists go by index."""
    tree, places = copy.deepcopy(TREE), Places("c.yaml")
    override(tree, places, text)
    found: Any = tree
    for key in path:
        found = found[int(key)] if isinstance(found, list) else found[key]
    assert (found, type(found)) == (value, type(value))
    assert places.of((*path, "inside")) == f"--set {text}"


@pytest.mark.parametrize(
    ("text", "message", "expected"),
    [
        ("nonsense", "--set needs a key and a value", "SECTION.KEY=VALUE"),
        ("", "--set needs a key and a value", "SECTION.KEY=VALUE"),
        ("=3", "--set needs a key and a value", "SECTION.KEY=VALUE"),
        ("run..name=3", "--set needs a key and a value", "SECTION.KEY=VALUE"),
        ("run.=3", "--set needs a key and a value", "SECTION.KEY=VALUE"),
        ("run.name.x=3", "run.name has no keys", "a mapping or a list"),
        ("run.name.x.y=3", "run.name has no keys", "a mapping or a list"),
        ("metrics.2=c", "metrics has no item '2'", "an index from 0 to 1"),
        ("metrics.first=c", "metrics has no item 'first'", "an index from 0 to 1"),
        ("metrics.-1=c", "metrics has no item '-1'", "an index from 0 to 1"),
        ("run.name=[", "YAML syntax error: expected the node content, but found '<stream end>'", None),
        ("run={a: 1, a: 2}", "a is given twice", None),
    ],
)
def test_nonsense_says_what_to_write(text: str, message: str, expected: str | None) -> None:
    """What cannot be put anywhere is an error with its own text as its place, and nothing is changed."""
    tree = copy.deepcopy(TREE)
    with pytest.raises(ConfigError) as caught:
        override(tree, Places("c.yaml"), text)
    assert (caught.value.message, caught.value.expected) == (message, expected)
    assert (caught.value.where or "").startswith(f"--set {text}")
    assert tree == TREE


def test_an_empty_list_has_no_items() -> None:
    """An index into an empty list shows how to give the whole list."""
    with pytest.raises(ConfigError) as caught:
        override({"metrics": []}, Places("c.yaml"), "metrics.0=a")
    assert caught.value.expected == "--set metrics=[...]"


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("a.token=hunter2", "--set a.token=***"),
        ("a.b=[{wandb: {api_key: hunter2}}]", "--set a.b=[{wandb: {api_key: ***}}]"),
        ("a.b=[{wandb: {api_key: 'hunter2", "--set a.b=[{wandb: {api_key: ***"),
    ],
)
def test_secrets_on_the_command_line_are_not_repeated(text: str, where: str) -> None:
    """An error about an override does not show its secret."""
    with pytest.raises(ConfigError) as caught:
        override({"a": 1}, Places("c.yaml"), text)
    assert caught.value.where == where
