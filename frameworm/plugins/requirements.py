"""What a plugin needs, compared with what is installed; the door to `packaging`, and no package is imported."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from functools import lru_cache
from importlib import metadata
from typing import NamedTuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

_remembered = lru_cache(1024)  # the plugins of a project need much the same, and parsing it is most of the work


class Missing(NamedTuple):
    """A requirement that is not met; `found` is the version that is installed instead, if any."""

    requirement: str
    found: str | None


def missing(
    requirements: Iterable[str],
    *,
    installed: Callable[[str], str] = metadata.version,
    requires: Callable[[str], Sequence[str] | None] = metadata.requires,
) -> tuple[Missing, ...]:
    """Return those of the requirements (PEP 508) that do not hold here, with those of the extras that they name.

    Markers that do not apply are left out. A pre-release counts as its version does: a nightly build is installed on
    purpose.
    """
    found: dict[str, Missing] = {}
    waiting = [(_requirement(text), "") for text in requirements]
    seen: set[tuple[str, str]] = set()
    while waiting:
        requirement, extra = waiting.pop(0)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        try:
            version = installed(requirement.name)
        except metadata.PackageNotFoundError:
            version = None
        if version is None or not satisfies(version, str(requirement.specifier)):
            told = copy(requirement)
            told.marker = None  # it applies, as has been seen
            found.setdefault(str(told), Missing(str(told), version))
            continue
        for wanted in requirement.extras:
            name = canonicalize_name(requirement.name)
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                needs = [_requirement(text) for text in requires(requirement.name) or ()]
                waiting += [(need, wanted) for need in needs if need.marker and "extra" in str(need.marker)]
    return tuple(found.values())


@_remembered
def _requirement(text: str) -> Requirement:
    """Return the requirement, which is not to be changed."""
    return Requirement(text)


def advice(needs: Iterable[Missing]) -> str:
    """Return the line that installs what is missing for this interpreter."""
    words = [sys.executable, "-m", "pip", "install", *(need.requirement for need in needs)]
    return shlex.join(words)


def names(requirements: Iterable[str]) -> set[str]:
    """Return the distributions that requirements name, in the form in which `key` gives them."""
    return {key(_requirement(text).name) for text in requirements}


def key(distribution: str) -> str:
    """Return a distribution's name as names are compared (PEP 503)."""
    return canonicalize_name(distribution)


def requirement_problem(text: str) -> str | None:
    """Return what is wrong with a requirement, None when nothing is."""
    try:
        _requirement(text)
    except InvalidRequirement as error:
        return str(error).splitlines()[0]
    return None


@_remembered
def range_problem(text: str) -> str | None:
    """Return what is wrong with a range of versions (`>=0.1,<2`), None when nothing is."""
    try:
        SpecifierSet(text)
    except InvalidSpecifier as error:
        return str(error)
    return None


@_remembered
def is_version(text: str) -> bool:
    """Whether a text is a version that others can be compared with."""
    try:
        Version(text)
    except InvalidVersion:
        return False
    return True


@_remembered
def satisfies(version: str, allowed: str) -> bool:
    """Whether a version is in a range; pre-releases count."""
    return SpecifierSet(allowed).contains(version, prereleases=True)
