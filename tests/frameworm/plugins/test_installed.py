"""Installed plugins: by entry point, by prefix, by distribution; a name alone is none, and nothing is imported."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

import pytest

from frameworm.plugins.discovery import Candidate, discover

RUN = "raise AssertionError('it was run')\n"
METADATA = "__plugin_metadata__ = {'name': 'described', 'version': '3.0', 'hooks': ['model']}\n"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


def package(site: Path, name: str, code: str = RUN, **files: str) -> Path:
    """Install a package without a distribution."""
    path = site / name
    path.mkdir(parents=True)
    (path / "__init__.py").write_text(code, encoding="utf-8")
    for file, text in files.items():
        (path / file.replace("_yaml", ".yaml")).write_text(text, encoding="utf-8")
    return path


def distribution(site: Path, name: str, version: str = "1.2", entry_points: str = "") -> None:
    """Install a distribution's metadata."""
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir()
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: Of the distribution\nAuthor: Somebody\n"
    (folder / "METADATA").write_text(text)
    if entry_points:
        (folder / "entry_points.txt").write_text(f"[frameworm.plugins]\n{entry_points}\n")


def found() -> dict[str, Candidate]:
    """Return the installed plugins by name."""
    return {candidate.name: candidate for candidate in discover(None) if candidate.source == "installed"}


def test_by_entry_point(site: Path) -> None:
    """Its name is the entry point's, the rest the distribution's; every spelling of its names finds it."""
    path = package(site, "frameworm_pointed")
    distribution(site, "frameworm-pointed", entry_points="pointed = frameworm_pointed.sub:go")
    candidate = found()["pointed"]
    assert (candidate.module, candidate.path, candidate.distribution) == (
        "frameworm_pointed",
        path,
        "frameworm-pointed",
    )
    assert (candidate.manifest.version, candidate.manifest.author) == ("1.2", "Somebody")
    assert candidate.manifest.description == "Of the distribution"
    assert candidate.manifest.entry_point == "sub:go"
    assert candidate.keys == {"pointed"}
    assert not candidate.has_manifest


def test_an_entry_point_of_a_package_of_any_name(site: Path) -> None:
    """The plugin is the module that it names, not the whole package."""
    path = package(site, "colourful")
    (path / "plugin.py").write_text(RUN)
    distribution(site, "colourful", entry_points="bright = colourful.plugin:register\ndark = colourful.gone:register")
    candidates = found()
    assert (candidates["bright"].module, candidates["bright"].path) == ("colourful.plugin", path / "plugin.py")
    assert "dark" not in candidates


def test_by_prefix_with_metadata(site: Path) -> None:
    """What is literal is read; what it does not say, its distribution does."""
    package(site, "frameworm_described", METADATA + RUN)
    distribution(site, "frameworm-described", "9")
    candidate = found()["described"]
    assert (candidate.manifest.version, candidate.manifest.author) == ("3.0", "Somebody")
    assert candidate.manifest.hooks == ("model",)
    assert candidate.has_manifest


def test_by_prefix_with_a_manifest(site: Path) -> None:
    """A plugin.yaml goes before the metadata in the code."""
    package(site, "frameworm_described", METADATA + RUN, plugin_yaml="name: from-file\nversion: 4\n")
    assert list(found()) == ["from-file"]


def test_a_single_file_is_a_plugin_too(site: Path) -> None:
    """A module without a package."""
    (site / "frameworm_single.py").write_text(METADATA + RUN)
    assert found()["described"].path == site / "frameworm_single.py"


def test_a_name_alone_is_no_plugin(site: Path) -> None:
    """Neither a package nor a distribution that is merely called so."""
    package(site, "frameworm_named")
    distribution(site, "frameworm-named")
    distribution(site, "frameworm-without-code")
    (site / "frameworm_folder").mkdir()
    package(site, "frameworm_plugins")
    assert found() == {}


def test_it_is_found_once(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By entry point, prefix and distribution, and by two ways to its folder."""
    package(site, "frameworm_described", METADATA + RUN)
    distribution(site, "frameworm-described", entry_points="described = frameworm_described:register")
    (tmp_path / "again").symlink_to(site)
    monkeypatch.syspath_prepend(str(tmp_path / "again"))
    installed = [candidate for candidate in discover(None) if candidate.source == "installed"]
    assert [candidate.name for candidate in installed] == ["described"]


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("__plugin_metadata__ = dict(name='a')\n", "not a literal"),
        ("__plugin_metadata__ = ['a']\n", "no dict"),
        ("__plugin_metadata__ = {'name': 'a b'}\n", "wrong value for name"),
        ("__plugin_metadata__ = {\n", "SyntaxError"),
    ],
)
def test_metadata_that_cannot_be_used_are_a_problem(site: Path, code: str, says: str) -> None:
    """With the line."""
    path = package(site, "frameworm_odd", code)
    problem = found()["odd"].problem
    assert problem is not None
    assert says in str(problem)
    assert f"{path / '__init__.py'}:1" in (problem.where or "")


class Finder(PathFinder):
    """Finds one package where no path leads, as an editable installation may."""

    where: str

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Look in the hidden folder."""
        return super().find_spec(fullname, [cls.where]) if fullname == "frameworm_hidden" else None


@pytest.fixture
def finder(tmp_path: Path) -> Iterator[Path]:
    """Install the finder; return the folder that it knows."""
    Finder.where = str(tmp_path / "hidden")
    sys.meta_path.append(Finder)
    yield tmp_path / "hidden"
    sys.meta_path.remove(Finder)


def test_editable_installations_by_a_finder(site: Path, finder: Path) -> None:
    """The distribution is in the site's folder, the code is not."""
    path = package(finder, "frameworm_hidden", METADATA + RUN)
    distribution(site, "frameworm-hidden")
    assert found()["described"].path == path


def test_a_namespace_portion_among_the_packages(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What others install into `frameworm_plugins` is found as installed."""
    monkeypatch.setattr("frameworm.plugins.installed.site_packages", lambda: {site})
    package(site / "frameworm_plugins", "other", "def register(): ...")
    assert found()["other"].module == "frameworm_plugins.other"
