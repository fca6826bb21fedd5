"""`--set trainer.epochs=3`: values from the command line, laid over those of the file."""

from __future__ import annotations

from typing import Any

from frameworm.config.document import KeyPath, Places, read_text
from frameworm.config.expectations import show
from frameworm.config.secrets import redact_word
from frameworm.errors import ConfigError


def override(tree: dict[str, Any], places: Places, text: str) -> None:
    """Put the value of `text` ("a.b=VALUE", VALUE in YAML) into `tree`; items of a list go by index ("metrics.0").

    Raises ConfigError, and leaves `tree` as it is, for a text of another form and for a path that leads nowhere.
    """
    key, equals, value = text.partition("=")
    path = tuple(key.split("."))
    place = f"--set {redact_word(text)}"
    if not equals or not all(path):
        raise ConfigError(
            "--set needs a key and a value", where=place, expected="SECTION.KEY=VALUE", hint="--set trainer.epochs=3"
        )
    try:
        written = read_text(value, place)
    except ConfigError as error:
        raise ConfigError(error.message, where=place, hint=error.hint) from None
    if written.findings:
        raise ConfigError.of(written.findings, place)
    _put(tree, places, path, written.value, place)


def _put(tree: dict[str, Any], places: Places, path: KeyPath, value: Any, place: str) -> None:
    container: Any = tree
    for depth, key in enumerate(path[:-1], start=1):
        index = _index(container, key, path[: depth - 1], place)
        if isinstance(container, dict) and container.get(key) is None:
            container[key] = {}
            places.replace(path[:depth], place)
        container = container[index]
    container[_index(container, path[-1], path[:-1], place)] = value
    places.replace(path, place)


def _index(container: Any, key: str, path: KeyPath, place: str) -> str | int:
    """What `container`, which is at `path`, calls the value under `key`."""
    if isinstance(container, dict):
        return key
    name = ".".join(path)
    if not isinstance(container, list):
        raise ConfigError(f"{name} has no keys", where=place, expected="a mapping or a list", got=show(container))
    if not key.isdecimal() or int(key) >= len(container):
        expected = f"an index from 0 to {len(container) - 1}" if container else f"--set {name}=[...]"
        raise ConfigError(f"{name} has no item {key!r}", where=place, expected=expected)
    return int(key)
