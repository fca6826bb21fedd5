"""What a plugin's entry point can mean: places inside the plugin's own package, in the order of trying them."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from frameworm.plugins.names import key_of


class Place(NamedTuple):
    """A module, by its full name, and an attribute in it, dotted where it is an attribute's attribute."""

    module: str
    attribute: str

    def __str__(self) -> str:
        return f"{self.module}:{self.attribute}"


def places(entry_point: str, package: str, keys: Collection[str]) -> list[Place]:
    """Return where `register`, `:register`, `mod:attr` or `mod:attr.sub` may be found.

    `mod` is a submodule of the plugin's `package` first; `plugin`, `__init__` and the plugin's names (`keys`, as
    `key_of` gives them) also mean the package itself. It is never another package's module.
    """
    module, _, attribute = entry_point.rpartition(":")
    if not module:
        return [Place(package, attribute)]
    found = [] if module == "__init__" else [Place(f"{package}.{module}", attribute)]
    if module in ("plugin", "__init__") or key_of(module) in keys:
        found.append(Place(package, attribute))
    return found
