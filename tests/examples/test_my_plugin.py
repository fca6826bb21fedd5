"""The example of a package: built, installed elsewhere, found, loaded and trained with, also where it is editable."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

import frameworm

EXAMPLE = Path(__file__).parents[2] / "examples" / "frameworm_my_plugin"
CONFIG = """
data: {name: synthetic, inputs: 10, targets: 5, samples: 64, batch_size: 16}
trainer: {epochs: 1, device: cpu}
"""


class Environment:
    """A fresh virtual environment, which is lent what this one has: nothing need be fetched."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder / "venv", with_pip=False)
        self.python = folder / "venv" / "bin" / "python"
        self.here = folder / "project"
        self.here.mkdir()
        (self.here / "config.yaml").write_text(CONFIG, encoding="utf-8")
        site = self.run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
        lent = [sysconfig.get_path("purelib"), *(entry for entry in sys.path if entry.endswith("site-packages"))]
        lent.append(str(Path(frameworm.__file__).parents[1]))
        Path(site, "lent.pth").write_text("\n".join(dict.fromkeys(lent)), encoding="utf-8")

    def run(self, *words: str | Path) -> str:
        """Run its Python in the project; it must exit with 0."""
        environ = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
        result = subprocess.run(
            [self.python, *words], cwd=self.here, env=environ, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def install(self, *words: str | Path) -> None:
        """Install without an index."""
        self.run("-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-build-isolation", *words)

    def plugins(self) -> list[dict[str, str]]:
        """Return the plugins that are installed there."""
        listed: list[dict[str, str]] = json.loads(self.run("-m", "frameworm", "plugins", "list", "--json"))
        return [plugin for plugin in listed if plugin["source"] == "installed"]


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """A copy of the example."""
    return shutil.copytree(EXAMPLE, tmp_path / "frameworm_my_plugin", ignore=shutil.ignore_patterns("__pycache__"))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("editable", [False, True], ids=["wheel", "editable"])
def test_it_is_found_loaded_and_trained_with(example: Path, tmp_path: Path, *, editable: bool) -> None:
    """From its wheel, which carries its metadata, and from where it is worked on; once each."""
    environment = Environment(tmp_path)
    assert environment.plugins() == []
    if editable:
        environment.install("-e", example)
    else:
        environment.run("-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "dist", example)
        (wheel,) = (tmp_path / "dist").glob("*.whl")
        assert wheel.name == "frameworm_my_plugin-0.1.0-py3-none-any.whl"
        environment.install(wheel)
    (plugin,) = environment.plugins()
    assert (plugin["name"], plugin["version"], plugin["state"]) == ("my-plugin", "0.1.0", "available")
    assert Path(plugin["path"]).is_relative_to(example if editable else tmp_path / "venv")
    assert "model my_plugin" in environment.run("-m", "frameworm", "plugins", "load", "frameworm_my_plugin")
    trained = environment.run("-m", "frameworm", "train", "--model", "my_plugin")
    assert "finished: 1 epoch" in trained


@pytest.mark.timeout(120)
def test_its_own_tests_pass(example: Path, tmp_path: Path) -> None:
    """They need nothing but the plugin and FRAMEWORM."""
    environment = Environment(tmp_path)
    environment.install("-e", example)
    assert "2 passed" in environment.run("-m", "pytest", "-q", "-p", "no:cacheprovider", example / "tests")
