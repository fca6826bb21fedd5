"""Requirements: markers, extras, nightlies, and the line that installs what is missing."""

from __future__ import annotations

import shlex
import sys
from importlib.metadata import PackageNotFoundError

import pytest

from frameworm.plugins.requirements import (
    Missing,
    advice,
    is_version,
    missing,
    names,
    range_problem,
    requirement_problem,
    satisfies,
)

INSTALLED = {"torch": "2.14.0.dev20261101", "numpy": "2.1.0", "ring": "1.0", "tool": "0.9"}
REQUIRES = {
    "ring": ["ring[all]; extra == 'all'", "tool>=1; extra == 'all'", "numpy; extra == 'all'", "gone; extra == 'other'"],
    "tool": None,
}


def installed(name: str) -> str:
    """Return the version of what is installed here."""
    if name not in INSTALLED:
        raise PackageNotFoundError(name)
    return INSTALLED[name]


def lacking(*requirements: str) -> list[tuple[str, str | None]]:
    """Return what is missing."""
    found = missing(requirements, installed=installed, requires=lambda name: REQUIRES[name])
    return [(need.requirement, need.found) for need in found]


@pytest.mark.parametrize(
    "requirement",
    [
        "torch>=2.0.0",
        "torch",
        "numpy>=2,<3",
        "gone>=1; python_version < '3'",
        "gone; sys_platform == 'nowhere'",
        "torch @ https://example.org/torch.whl",
        "tool<1",
    ],
)
def test_what_is_met(requirement: str) -> None:
    """A nightly counts as what it is on the way to; a marker that does not apply asks for nothing."""
    assert lacking(requirement) == []


def test_what_is_missing_is_all_told() -> None:
    """With what is there instead, and without the marker, which applies."""
    assert lacking("gone>=1; python_version > '3'", "numpy>=3", "torch", "other[x]") == [
        ("gone>=1", None),
        ("numpy>=3", "2.1.0"),
        ("other[x]", None),
    ]


def test_extras_bring_their_own_requirements() -> None:
    """Those of the extra that is named, also where it names itself."""
    assert lacking("ring[all]") == [("tool>=1", "0.9")]
    assert lacking("ring") == []


def test_the_pip_line_is_for_this_interpreter() -> None:
    """Quoted for a shell."""
    line = advice([Missing("a>=2", None), Missing("b[x]", None)])
    assert shlex.split(line) == [sys.executable, "-m", "pip", "install", "a>=2", "b[x]"]


def test_texts_are_checked() -> None:
    """What is no requirement, range or version is told."""
    assert requirement_problem("torch>=2") is None
    assert requirement_problem("torch>>2")
    assert range_problem(">=1,<2") is None
    assert range_problem("abc")
    assert is_version("1.0.0rc1")
    assert not is_version("first")


def test_ranges_take_pre_releases() -> None:
    """An empty range takes everything."""
    assert satisfies("0.2.0.dev1", ">=0.1")
    assert satisfies("9", "")
    assert not satisfies("0.1", ">=0.2")


def test_names_are_compared_as_distributions() -> None:
    """PyYAML is pyyaml, and my_x is my-x."""
    assert names(["PyYAML>=6", "my_x[a]; python_version > '3'"]) == {"pyyaml", "my-x"}
