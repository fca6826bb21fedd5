"""Plugin folders as modules: one name each, another way to write it, and gone when they are forgotten."""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from frameworm.plugins import modules
from frameworm.plugins.loader import PluginLoader
from tests.frameworm.plugins.conftest import Write

pytestmark = pytest.mark.usefixtures("loader")


@pytest.fixture
def opened(tmp_path: Path, loader: PluginLoader) -> Path:
    """Return the root of a project whose plugins can be imported."""
    modules.open_project(tmp_path)
    return tmp_path


def test_the_root_is_appended_and_never_in_front(opened: Path) -> None:
    """A module in the project hides none that is installed."""
    assert sys.path[-1] == str(opened)
    modules.open_project(opened)
    assert sys.path.count(str(opened)) == 1


def test_the_projects_own_copy_wins(opened: Path, write: Write) -> None:
    """A folder that a shipped plugin has too is the project's, and the other shipped ones are there all the same."""
    write("epoch_report", "OWN = True")
    assert importlib.import_module("frameworm_plugins.epoch_report").OWN is True
    modules.forget("frameworm_plugins.epoch_report")
    portions = list(importlib.import_module("frameworm_plugins").__path__)
    assert portions[0] == str(opened / "frameworm_plugins")
    assert len(portions) == len(set(portions)) > 1


def test_a_dashed_folder_has_an_alias_with_all_that_is_below(opened: Path, write: Write) -> None:
    """Both spellings are one module object, submodules and relative imports included."""
    write("my-plugin", "from .models import Model", models="class Model: ...")
    by_alias = importlib.import_module("frameworm_plugins.my_plugin.models")
    canonical = importlib.import_module("frameworm_plugins.my-plugin")
    assert importlib.import_module("frameworm_plugins.my_plugin") is canonical
    assert importlib.import_module("frameworm_plugins.my-plugin.models") is by_alias
    assert canonical.Model is by_alias.Model
    assert by_alias.Model.__module__ == "frameworm_plugins.my-plugin.models"
    assert canonical.__spec__ is not None
    assert canonical.__spec__.name == "frameworm_plugins.my-plugin"
    modules.forget("frameworm_plugins.my-plugin")


def test_a_plugin_may_import_itself_by_its_alias(opened: Path, write: Write) -> None:
    """Also while it is being imported."""
    write(
        "my-plugin",
        "VALUE = 1\nfrom frameworm_plugins.my_plugin.part import VALUE as copy",
        part="""
        from frameworm_plugins.my_plugin import VALUE
    """,
    )
    assert importlib.import_module("frameworm_plugins.my-plugin").copy == 1
    modules.forget("frameworm_plugins.my-plugin")


def test_a_folder_with_underscores_is_nobodys_alias(opened: Path, write: Write) -> None:
    """Where both folders are there, each is its own module."""
    write("my-plugin", "WHICH = 'dashed'")
    write("my_plugin", "WHICH = 'underscored'")
    assert importlib.import_module("frameworm_plugins.my-plugin").WHICH == "dashed"
    assert importlib.import_module("frameworm_plugins.my_plugin").WHICH == "underscored"
    modules.forget("frameworm_plugins.my-plugin")
    modules.forget("frameworm_plugins.my_plugin")


def test_what_is_nowhere_stays_a_module_not_found(opened: Path) -> None:
    """An alias of nothing is the import system's own error."""
    with pytest.raises(ModuleNotFoundError, match="no_such_plugin"):
        importlib.import_module("frameworm_plugins.no_such_plugin")


def test_forgotten_modules_are_gone_under_both_names(opened: Path, write: Write) -> None:
    """Neither `sys.modules` nor the package keeps them, and a neighbour whose name begins alike stays."""
    write("my-plugin", "from . import part", part="")
    write("my-plugin-too", "")
    neighbour = importlib.import_module("frameworm_plugins.my-plugin-too")
    importlib.import_module("frameworm_plugins.my_plugin.part")
    modules.forget("frameworm_plugins.my-plugin")
    left = [
        name for name in sys.modules if name.startswith("frameworm_plugins.") and "plugin" in name.partition(".")[2]
    ]
    assert left == ["frameworm_plugins.my-plugin-too"]
    package = sys.modules["frameworm_plugins"]
    assert not hasattr(package, "my-plugin")
    assert not hasattr(package, "my_plugin")
    assert getattr(package, "my-plugin-too") is neighbour
    modules.forget("frameworm_plugins.my-plugin-too")


def test_a_file_mended_within_the_second_is_read_anew(opened: Path, write: Write) -> None:
    """Bytecode of a file with the same size and time does not survive."""
    file = write("my-plugin", "VALUE = 1") / "__init__.py"
    os.utime(file, (1_000_000_000, 1_000_000_000))
    assert importlib.import_module("frameworm_plugins.my-plugin").VALUE == 1
    modules.forget("frameworm_plugins.my-plugin")
    file.write_text("VALUE = 2", encoding="utf-8")
    os.utime(file, (1_000_000_000, 1_000_000_000))
    assert importlib.import_module("frameworm_plugins.my-plugin").VALUE == 2
    modules.forget("frameworm_plugins.my-plugin")


def test_another_process_unpickles_what_a_dashed_folder_defines(opened: Path, write: Write) -> None:
    """It needs nothing but the same `sys.path`, as a spawned worker has it."""
    write("my-plugin", "class Item:\n    value = 3")
    item = importlib.import_module("frameworm_plugins.my_plugin").Item()
    code = f"import sys, pickle; sys.path.append({str(opened)!r}); print(pickle.loads(sys.stdin.buffer.read()).value)"
    result = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(item), capture_output=True, check=True)
    assert result.stdout.strip() == b"3"
    modules.forget("frameworm_plugins.my-plugin")
