"""What is installed is complete, and is what is tested."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("bus", "frameworm", "frameworm_plugins")

# Distributions whose module has another name.
MODULES = {"pillow": "PIL", "pyyaml": "yaml"}


def home_of(package: str) -> Path:
    """Return the folder that a package is imported from."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(next(iter(spec.submodule_search_locations))).resolve()


@pytest.mark.skipif("FRAMEWORM_CHECKOUT" not in os.environ, reason="the checkout itself is tested, not a wheel")
def test_the_wheel_is_tested_and_not_the_checkout() -> None:
    """When the wheel is tested, nothing is imported from the checkout."""
    checkout = Path(os.environ["FRAMEWORM_CHECKOUT"]).resolve()
    for package in PACKAGES:
        assert not home_of(package).is_relative_to(checkout)
        assert home_of(package).is_relative_to(Path(sys.prefix).resolve())


@pytest.mark.parametrize(
    "file",
    [
        "bus/py.typed",
        "frameworm/py.typed",
        "frameworm/config_template.yaml",
        "frameworm/data/digits.npz",
        "frameworm/data/digits.LICENSE",
        "frameworm_plugins/epoch_report/plugin.yaml",
    ],
)
def test_files_that_are_no_modules_are_installed(file: str) -> None:
    """Types, data and their licence come with the packages."""
    package, _, rest = file.partition("/")
    assert (home_of(package) / rest).is_file()


def test_plugins_are_a_namespace_package() -> None:
    """Nobody's `frameworm_plugins` hides another's: it has no `__init__.py`."""
    spec = find_spec("frameworm_plugins")
    assert spec is not None
    assert spec.origin is None


def test_metadata() -> None:
    """The distribution has its licence, its version and its command."""
    distribution = importlib.metadata.distribution("frameworm")
    assert distribution.metadata["License-Expression"] == "MIT"
    assert distribution.version == "0.1.0"
    (command,) = distribution.entry_points.select(group="console_scripts")
    assert (command.name, command.value) == ("frameworm", "frameworm.cli:main")
    assert "MIT License" in (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_the_command_is_installed() -> None:
    """`frameworm --version` answers with the version."""
    command = Path(sys.executable).with_name("frameworm")
    result = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert importlib.metadata.version("frameworm") in result.stdout


def test_what_is_imported_is_declared() -> None:
    """A package that somebody else happened to bring is not relied on."""
    declared = {
        re.split(r"[^\w.-]", requirement)[0]
        for requirement in importlib.metadata.requires("frameworm") or []
        if not re.search(r"extra == .(dev|peers)", requirement)  # other extras are what some plugins import
    }
    imported = {
        name.partition(".")[0]
        for package in PACKAGES
        for file in home_of(package).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        for name in _imported_by(node)
    }
    foreign = imported - set(sys.stdlib_module_names) - set(PACKAGES)
    assert foreign <= {MODULES.get(name, name) for name in declared}


def _imported_by(node: ast.AST) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=str() as module, level=0):
            return [module]
    return []


def test_everything_is_pinned_and_portable() -> None:
    """The constraints pin each package to a release that an index has: no path, no URL, no build of one machine."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(r"[\w.-]+==[\d.]+(b\d+)?(\.post\d+)?", line)] == []
    assert "torch==2.13.0" in pins
    names = {re.sub(r"[-_.]+", "-", pin.partition("==")[0]).lower() for pin in pins}
    needed = {
        re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement)[0]).lower()
        for requirement in importlib.metadata.requires("frameworm") or []
        if "extra ==" not in requirement or "dev" in requirement
    }
    assert needed <= names
