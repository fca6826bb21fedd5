"""Entry points mean places in the plugin's own package."""

from __future__ import annotations

import pytest

from frameworm.plugins.entry import places

PACKAGE = "frameworm_plugins.my-folder"
KEYS = {"my-folder", "its-name"}


@pytest.mark.parametrize(
    ("entry_point", "tried"),
    [
        ("register", [f"{PACKAGE}:register"]),
        (":register", [f"{PACKAGE}:register"]),
        ("plugin:register", [f"{PACKAGE}.plugin:register", f"{PACKAGE}:register"]),
        ("__init__:register", [f"{PACKAGE}:register"]),
        ("my_folder:go", [f"{PACKAGE}.my_folder:go", f"{PACKAGE}:go"]),
        ("its-name:go", [f"{PACKAGE}.its-name:go", f"{PACKAGE}:go"]),
        ("os:system", [f"{PACKAGE}.os:system"]),
        ("a.b:C.go", [f"{PACKAGE}.a.b:C.go"]),
    ],
)
def test_places_in_their_order(entry_point: str, tried: list[str]) -> None:
    """A submodule first; never a module of another package."""
    assert list(map(str, places(entry_point, PACKAGE, KEYS))) == tried
