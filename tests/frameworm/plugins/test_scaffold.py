"""New plugins load, pass the check and train as they are written; names that cannot be are refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from frameworm.errors import UserError
from frameworm.plugins.discovery import at
from frameworm.plugins.scaffold import Kind, create, create_package
from frameworm.plugins.static import check
from frameworm.testing import assert_unloads_cleanly, isolated_plugins, tiny_trainer

KINDS = get_args(Kind)
USES = {
    "model": {"model": "my_awesome_plugin"},
    "callback": {"callbacks": [{"my_awesome_plugin": {"every": 2}}]},
    "metric": {"metrics": ["my_awesome_plugin"], "model": "cnn", "data": {"name": "digits", "batch_size": 512}},
    "dataset": {
        "data": {"name": "my_awesome_plugin", "noise": 0.2, "samples": 128, "batch_size": 16},
        "model": {"name": "mlp", "inputs": 1, "outputs": 1, "loss": "mse"},
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_each_kind_works_unedited(tmp_path: Path, kind: Kind) -> None:
    """Two files; it has no findings, registers what its manifest says, trains, and leaves nothing behind."""
    files = create("my-awesome-plugin", tmp_path, kind=kind)
    folder = tmp_path / "frameworm_plugins" / "my-awesome-plugin"
    assert files == (folder / "plugin.yaml", folder / "__init__.py")
    assert sorted(folder.parent.rglob("*")) == sorted([folder, *files])
    assert check(at(folder)) == ()
    plugin = assert_unloads_cleanly(folder)
    assert plugin.registered == (f"{kind} my_awesome_plugin",)
    assert plugin.warnings == ()
    with isolated_plugins(tmp_path) as plugins:
        plugins.load("my-awesome-plugin")
        result = tiny_trainer(**USES[kind]).fit()  # type: ignore[arg-type]  # words of several types
    assert result.status == "finished"
    assert kind != "metric" or "val_my_awesome_plugin" in result.metrics


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_of_each_kind_passes_its_own_tests(tmp_path: Path, kind: Kind) -> None:
    """Where it lies; its metadata are read without running it, and the check has no findings."""
    files = create_package("my-awesome-plugin", tmp_path, kind=kind)
    project = tmp_path / "frameworm_my_awesome_plugin"
    assert files[0] == project / "pyproject.toml"
    candidate = at(project / "frameworm_my_awesome_plugin")
    assert (candidate.name, candidate.has_manifest, candidate.problem) == ("my-awesome-plugin", True, None)
    assert check(candidate) == ()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["none", "import", "a", "x1", "my_model", "True", "torch", "register"])
def test_names_that_could_trip(tmp_path: Path, name: str, kind: Kind) -> None:
    """Keywords, short ones, one that ends as its kind, names that the code uses itself: it loads all the same."""
    create(name, tmp_path, kind=kind)
    folder = tmp_path / "frameworm_plugins" / name
    assert check(at(folder)) == ()
    assert assert_unloads_cleanly(folder).registered == (f"{kind} {name.lower()}",)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("model", "cnn"), ("metric", "Accuracy"), ("dataset", "digits"), ("callback", "frameworm-early-stopping")],
)
def test_what_ships_is_not_taken(tmp_path: Path, kind: Kind, name: str) -> None:
    """Under that name it could not be registered, so it would not load as it is written; another kind may have it."""
    for make in (create, create_package):
        with pytest.raises(UserError, match="ships with frameworm") as caught:
            make(name, tmp_path, kind=kind)
    assert "my-" in (caught.value.hint or "")
    assert list(tmp_path.iterdir()) == []
    create(name, tmp_path, kind="dataset" if kind != "dataset" else "model")


@pytest.mark.parametrize("name", ["my_plugin", "MY-PLUGIN", "frameworm-my-plugin", "called"])
def test_another_spelling_is_the_same_name(tmp_path: Path, name: str) -> None:
    """A project's plugin keeps its name, and so does one whose manifest has another than its folder."""
    create("my-plugin", tmp_path)
    (_, code) = create("folder", tmp_path)
    code.with_name("plugin.yaml").write_text("name: called\n", encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="is there already") as caught:
        create(name, tmp_path)
    assert caught.value.where in {str(tmp_path / "frameworm_plugins" / folder) for folder in ("my-plugin", "folder")}
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["../evil", "a b", "", "/etc/x", "-x", ".", "a.b", "ünï"])
def test_hostile_names_write_nothing(tmp_path: Path, name: str) -> None:
    """Neither as a folder nor as a package."""
    for make in (create, create_package):
        with pytest.raises(UserError, match="no name for a plugin"):
            make(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["folder", "file", "link"])
def test_nothing_is_overwritten(tmp_path: Path, what: str) -> None:
    """Whatever is there, even if it is empty."""
    place = tmp_path / "frameworm_plugins" / "taken"
    place.parent.mkdir()
    if what == "link":
        place.symlink_to("nowhere")
    else:
        (place.mkdir if what == "folder" else place.touch)()
    with pytest.raises(UserError, match="is there already"):
        create("taken", tmp_path)
    assert list(place.parent.iterdir()) == [place]


def test_a_failure_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the second file cannot be written."""
    write = Path.write_text

    def fail(path: Path, text: str, encoding: str) -> int:
        if path.name == "__init__.py":
            raise OSError(28, "No space left on device")
        return write(path, text, encoding)

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(UserError, match="cannot be written") as caught:
        create("half", tmp_path)
    assert caught.value.got == "No space left on device"
    assert list((tmp_path / "frameworm_plugins").iterdir()) == []


def test_what_is_written_is_clean(tmp_path: Path) -> None:
    """For ruff, as an author who has it would run it."""
    for kind in KINDS:
        create(f"a-{kind}", tmp_path, kind=kind)
        create_package(f"b-{kind}", tmp_path, kind=kind)
    rules = ["--isolated", "--line-length=120", "--select=E,F,I,B,UP,SIM,RUF"]
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", *rules]
    for folder in tmp_path.iterdir():
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
