"""Discovery: what is a plugin and what is none, in whatever state it is, without running it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from frameworm.errors import PluginError
from frameworm.plugins.discovery import Candidate, at, discover
from tests.frameworm.plugins.conftest import Write

REGISTERS = "raise AssertionError('it was run')\ndef register(): ...\n"


def project(root: Path) -> dict[str, Candidate]:
    """Return the project's candidates by their folders' names."""
    return {candidate.path.name: candidate for candidate in discover(root) if candidate.source == "project"}


def test_a_folder_with_a_manifest(write: Write, tmp_path: Path) -> None:
    """Its name and version are the manifest's, its module the folder's, and it answers to both names."""
    path = write("my-folder", REGISTERS)
    (path / "plugin.yaml").write_text("name: Its_Name\nversion: 1.10\n", encoding="utf-8")
    candidate = project(tmp_path)["my-folder"]
    assert (candidate.name, candidate.key, candidate.manifest.version) == ("Its_Name", "its-name", "1.10")
    assert (candidate.module, candidate.path) == ("frameworm_plugins.my-folder", path)
    assert candidate.keys == {"its-name", "my-folder"}
    assert candidate.has_manifest
    assert candidate.problem is None


@pytest.mark.parametrize(
    ("code", "is_plugin"),
    [
        ("def register(): ...", True),
        ("async def register(): ...", True),
        ("register = print", True),
        ("from .other import register", True),
        ("import frameworm", True),
        ("from frameworm.core import register_model", True),
        ("try:\n    import frameworm.core\nexcept ImportError: pass", True),
        ("import frameworm_other", False),
        ("x = 'register'", False),
        ("def unregister(): ...", False),
        ("class A:\n    def register(self): ...", False),
        ("", False),
    ],
)
def test_a_folder_without_a_manifest(write: Write, tmp_path: Path, code: str, *, is_plugin: bool) -> None:
    """It is one if its code defines `register` or uses frameworm; it has its folder's name and version 0.0.0."""
    write("some-folder", code)
    found = project(tmp_path)
    assert ("some-folder" in found) == is_plugin
    if is_plugin:
        candidate = found["some-folder"]
        assert (candidate.name, candidate.manifest.version, candidate.has_manifest) == ("some-folder", "0.0.0", False)


def test_what_is_never_a_plugin(write: Write, tmp_path: Path) -> None:
    """Files, hidden folders, caches, folders without anything."""
    for folder in (".git", "__pycache__", "empty", ".hidden"):
        write(folder, REGISTERS if folder != "empty" else "")
    (tmp_path / "frameworm_plugins" / "module.py").write_text(REGISTERS)
    (tmp_path / "frameworm_plugins" / "bare").mkdir()
    assert project(tmp_path) == {}


@pytest.mark.parametrize(
    ("code", "manifest", "says"),
    [
        (REGISTERS, "hooks: [modle]", "its manifest is wrong"),
        (REGISTERS, "author: !!python/object/apply:os.system [ls]", "its manifest is wrong"),
        ("def register(:", None, "SyntaxError"),
        (b"import frameworm\nx = '\xff'", None, "SyntaxError"),
        (b"import frameworm\n\0", None, ""),
    ],
)
def test_broken_ones_are_listed_with_their_reason(
    write: Write, tmp_path: Path, code: str | bytes, manifest: str | None, says: str
) -> None:
    """And with the file."""
    path = write("broken", "" if isinstance(code, bytes) else code, manifest)
    if isinstance(code, bytes):
        (path / "__init__.py").write_bytes(code)
    write("good", REGISTERS, "")
    found = project(tmp_path)
    problem = found["broken"].problem
    assert problem is not None
    assert says in str(problem)
    assert str(path) in (problem.where or "")
    assert found["good"].problem is None


@pytest.mark.parametrize(("manifest", "said"), [("hooks: [modle]", 1), ("hooks: [modle]\ndispatch: both", 2)])
def test_a_place_is_said_once(write: Write, tmp_path: Path, manifest: str, said: int) -> None:
    """Each finding in a manifest has its own, and the error about the plugin does not repeat it."""
    path = write("broken", REGISTERS, manifest)
    problem = str(project(tmp_path)["broken"].problem)
    assert problem.count(f"{path / 'plugin.yaml'}:") == problem.count("where:") + said - 1 == 2 * said - 1
    assert problem.startswith("plugin 'broken': its manifest is wrong")


def test_a_manifest_without_code(tmp_path: Path) -> None:
    """It says what is missing."""
    folder = tmp_path / "frameworm_plugins" / "a"
    folder.mkdir(parents=True)
    (folder / "plugin.yaml").write_text("name: a")
    problem = project(tmp_path)["a"].problem
    assert problem is not None
    assert "it has no code" in str(problem)


def test_links(write: Write, tmp_path: Path) -> None:
    """One to nowhere or to itself is listed; one to a folder is the plugin, under its own name; each folder is one."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "__init__.py").write_text(REGISTERS)
    write("a-folder", REGISTERS, "")
    folder = tmp_path / "frameworm_plugins"
    (folder / "nowhere").symlink_to(tmp_path / "gone")
    (folder / "circle").symlink_to("circle")
    (folder / "unreadable").symlink_to("a" * 300)  # as a folder that the user may not look into, also for root
    (folder / "linked").symlink_to(elsewhere)
    (folder / "z-again").symlink_to(folder / "a-folder")
    found = project(tmp_path)
    assert sorted(found) == ["a-folder", "circle", "linked", "nowhere", "unreadable"]
    assert found["a-folder"].problem is None
    assert "leads nowhere" in str(found["nowhere"].problem)
    assert "leads nowhere" in str(found["circle"].problem)
    assert "its folder cannot be read" in str(found["unreadable"].problem)
    assert found["linked"].module == "frameworm_plugins.linked"


@pytest.mark.parametrize("name", ["a b", "ünï", "-x", "$(ls)"])
def test_hostile_folder_names_are_listed(write: Write, tmp_path: Path, name: str) -> None:
    """Whatever they are called."""
    write(name, REGISTERS)
    (candidate,) = project(tmp_path).values()
    assert (candidate.name, candidate.problem) == (name, None)


@pytest.mark.parametrize(
    ("name", "text", "hint"),
    [
        ("a.b", "a.b", "a-b"),
        ("a\nb", "a\nb", "a-b"),
        ("\x1b[31m", "\x1b[31m", "31m"),
        ("a\udcff", "a\\udcff", "a"),  # bytes that are no UTF-8
    ],
)
def test_a_folder_that_cannot_be_imported(write: Write, tmp_path: Path, name: str, text: str, hint: str) -> None:
    """A dot in its name would be a package's; what cannot be written as text could be in no record of a run."""
    write(name, REGISTERS, None)
    (candidate,) = project(tmp_path).values()
    assert candidate.name == text
    assert candidate.problem is not None
    assert candidate.problem.hint == hint


def test_one_name_is_one_plugins(write: Write, tmp_path: Path) -> None:
    """The first by name keeps it, the other says which has it; a project's own copy goes before one that ships."""
    first, second = write("same-name", REGISTERS, ""), write("same_name", REGISTERS)
    own = write("epoch_report", REGISTERS)
    found = discover(tmp_path)
    taken = {candidate.path: candidate.problem for candidate in found}
    assert taken[first] is None
    assert str(first) in str(taken[second])
    assert "another name" in str(taken[second])
    assert taken[own] is None
    (shipped,) = [c for c in found if c.source == "shipped" and c.key == "epoch-report"]
    assert str(own) in str(shipped.problem)


@pytest.mark.parametrize("which", ["root", "plugins", "plugin"])
def test_what_everyone_can_write_to_is_refused(write: Write, tmp_path: Path, which: str) -> None:
    """The project, its plugins' folder, or the plugin's."""
    path = write("open", REGISTERS, "")
    {"root": tmp_path, "plugins": path.parent, "plugin": path}[which].chmod(0o777)
    problem = project(tmp_path)["open"].problem
    assert problem is not None
    assert "not trusted" in str(problem)
    assert "FRAMEWORM_TRUST" in (problem.hint or "")
    tmp_path.chmod(0o700)


def test_a_plugin_at_a_path(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a project or not, by its folder, by a file in it, and from inside."""
    inside = write("inside", REGISTERS, "")
    outside = tmp_path / "frameworm_outside"
    outside.mkdir()
    (outside / "__init__.py").write_text("__plugin_metadata__ = {'name': 'outside', 'version': '2'}\n" + REGISTERS)
    assert at(inside).module == at(inside / "plugin.yaml").module == "frameworm_plugins.inside"
    assert (at(outside).module, at(outside).name, at(outside).manifest.version) == ("frameworm_outside", "outside", "2")
    monkeypatch.chdir(inside)
    assert at(Path()) == at(inside)
    for path in (tmp_path, tmp_path / "gone", inside.with_name("gone")):
        with pytest.raises(PluginError, match="there is no plugin"):
            at(path)


def test_nothing_is_imported(write: Write, tmp_path: Path) -> None:
    """Neither a plugin nor torch, in a process that only looks."""
    write("a", REGISTERS, "")
    write("b", REGISTERS)
    code = (
        "import sys; from pathlib import Path; from frameworm.plugins.discovery import discover;"
        f"found = discover(Path({str(tmp_path)!r}));"
        "print(len([c for c in found if c.source == 'project']), 'torch' in sys.modules,"
        " [m for m in sys.modules if m.startswith('frameworm_plugins.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2 False []"


def test_without_a_project_there_are_those_that_ship() -> None:
    """Each with a manifest, and without a problem."""
    shipped = [candidate for candidate in discover(None) if candidate.source == "shipped"]
    assert {"epoch-report", "gradient-stats", "mlflow-logger", "sample-grid"} <= {c.name for c in shipped}
    assert all(candidate.has_manifest and candidate.problem is None for candidate in shipped)
