"""What a model receives as its config: a mapping that cannot change, read by item or by attribute."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from frameworm.config.secrets import redact
from frameworm.errors import nearest


class Section(Mapping[str, Any]):
    """An immutable mapping: `config.model.latent_dim` and `config["model"]["latent_dim"]` are the same.

    Mappings inside become sections, lists become tuples. A key that is also a method (`keys`, `items`, `values`,
    `get`, `to_dict`) is read by item. Its repr hides what looks like a secret.
    """

    __slots__ = ("_items",)
    _items: dict[str, Any]

    def __init__(self, items: Mapping[str, Any]) -> None:
        self._items = {key: _frozen(value) for key, value in items.items()}

    def __getitem__(self, key: str) -> Any:
        return self._items[key]

    def __getattr__(self, name: str) -> Any:
        if name in self._items:
            return self._items[name]
        near = nearest(name, self._items)
        meant = f"; did you mean {near!r}?" if near else f"; it has {', '.join(self._items) or 'no keys'}"
        raise AttributeError(f"this section of the config has no {name!r}{meant}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._items]

    def __repr__(self) -> str:
        return f"Section({redact(self)!r})"

    def __reduce__(self) -> tuple[Callable[[Mapping[str, Any]], Section], tuple[dict[str, Any]]]:
        return Section, (self._items,)

    def to_dict(self) -> dict[str, Any]:
        """A plain copy of dicts and lists, which may be changed, dumped or pickled without this package."""
        return {key: _plain(value) for key, value in self._items.items()}


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Section(value)
    if isinstance(value, list | tuple):
        return tuple(_frozen(item) for item in value)
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
