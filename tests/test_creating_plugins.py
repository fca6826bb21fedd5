"""The document on plugins is true: its blocks run in their order, as they are printed, in one shell and one program."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.run_page import Block, blocks_of

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "creating-plugins.md"
GUIDE = "\n# From nothing to a published plugin\n"
BEFORE, AFTER = "<!-- fmt: off -->\n", "\n<!-- fmt: on -->\n"
OWNERS = "0f3750cb399ccb6bd434a8d59334d67a2b3eed3871f572911382b51cbbefce4c"

# What the document leaves to its reader: data for the model, and the names that its fragments use.
CONFIG = "data: {name: synthetic, inputs: 10, targets: 5}\ntrainer: {epochs: 2}\n"
PRELUDE = "import torch.nn as nn\nconfig = {}\nscore = 1.0\n"

# MLflow's part of the document is run against this much of MLflow, whose `start_run` takes no `experiment_name` either.
MLFLOW = """
def start_run(run_id=None, experiment_id=None, run_name=None): ...
def log_metrics(metrics, step=None): print("logged", sorted(metrics), "at", step)
def end_run(status="FINISHED"): print("ended", status)
"""


class Reader:
    """Somebody who types a document's blocks into one shell and one Python, and saves its files where they are."""

    def __init__(self, folder: Path) -> None:
        self.here = folder
        scripts = Path(sys.executable).parent
        self.environ = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(folder)}

    def shell(self, code: str) -> str:
        """Run commands where the last ones ended; every exit status must be 0."""
        script = f"set -euo pipefail\n{code}\npwd >&3"
        read, write = os.pipe()
        with os.fdopen(read) as where:
            result = subprocess.run(
                ["bash", "-c", f"exec 3>&{write}\n{script}"],
                cwd=self.here,
                env=self.environ,
                text=True,
                capture_output=True,
                pass_fds=[write],
                stdin=subprocess.DEVNULL,
                check=False,
            )
            os.close(write)
            assert result.returncode == 0, result.stdout + result.stderr
            self.here = Path(where.read().strip())
        return result.stdout

    def python(self, code: str) -> str:
        """Run a program."""
        result = subprocess.run(
            [sys.executable, "-c", code], cwd=self.here, env=self.environ, text=True, capture_output=True, check=False
        )
        assert result.returncode == 0, result.stderr
        return result.stdout


@pytest.fixture(scope="module")
def document() -> str:
    """The owner's document, without the guide that follows it."""
    return PAGE.read_text(encoding="utf-8").partition(GUIDE)[0].removeprefix(BEFORE).removesuffix(AFTER)


@pytest.fixture(scope="module")
def blocks(document: str) -> list[Block]:
    """Its code blocks."""
    return list(blocks_of(f"{document}\n"))


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    """A reader in an empty project with the config that the document takes for granted."""
    (tmp_path / "config.yaml").write_text(CONFIG, encoding="utf-8")
    return Reader(tmp_path)


def test_the_document_is_its_owners(document: str) -> None:
    """To the byte, blanks and quotes included: whatever tidies up our pages leaves it alone."""
    assert hashlib.sha256(document.encode()).hexdigest() == OWNERS


def test_the_blocks_are_those_that_are_run_here(blocks: list[Block]) -> None:
    """Each block has its place below; another one would have to be given one."""
    assert [block.language for block in blocks] == ["bash", "yaml", "python", "bash", *["python"] * 7]


@pytest.mark.timeout(120)
def test_the_quick_start(blocks: list[Block], reader: Reader, tmp_path: Path) -> None:
    """Typed as printed: created, edited, loaded, trained with, and used from a program."""
    create, manifest, code, use, program = blocks[:5]
    reader.shell(create.code)
    folder = tmp_path / "frameworm_plugins" / "my-awesome-plugin"
    assert reader.here == folder
    assert sorted(path.name for path in folder.iterdir()) == ["__init__.py", "plugin.yaml"]
    (folder / "plugin.yaml").write_text(manifest.code, encoding="utf-8")
    (folder / "__init__.py").write_text(code.code, encoding="utf-8")
    output = reader.shell(use.code)
    assert [line for line in output.splitlines() if line.startswith("Custom")] == [
        "Custom: Epoch 0 done!",
        "Custom: Epoch 1 done!",
    ]
    assert reader.python(f"{PRELUDE}{program.code}\nprint(type(model).__name__)") == "MyModel\n"


def test_the_plugin_types(blocks: list[Block], reader: Reader) -> None:
    """The fragments run behind their prelude, one after the other, and what they register is there."""
    fragments = "\n".join(block.code for block in blocks[5:8])
    check = """
from frameworm.core import get_metric, get_model
from frameworm.plugins.hooks import HookRegistry
assert get_model('my_transformer') is TransformerModel
assert get_metric('my_score')()(None, None) == 1.0
print(HookRegistry.list_hooks())
"""
    expected = {name: ["__main__:MyCallback (50)"] for name in ("on_epoch_end", "on_train_end")}
    assert reader.python(f"{PRELUDE}{fragments}{check}") == f"{expected}\n"


@pytest.mark.timeout(120)
def test_the_mlflow_logger(blocks: list[Block], reader: Reader, tmp_path: Path) -> None:
    """It loads as printed; its wrong call of MLflow is told with plugin, hook and line, and training finishes."""
    (tmp_path / "mlflow.py").write_text(MLFLOW, encoding="utf-8")
    folder = tmp_path / "frameworm_plugins" / "mlflow_logger"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(blocks[8].code, encoding="utf-8")
    assert "✓ MLflow logger available" in reader.shell("PYTHONUTF8=1 frameworm plugins load mlflow_logger")
    program = """
from frameworm_plugins.mlflow_logger import MLflowLogger
import frameworm
MLflowLogger("digits").register()
mlp = ["model.name=mlp", "model.inputs=10", "model.outputs=5", "model.loss=mse"]
assert frameworm.train("config.yaml", mlp).status == "finished"
"""
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=reader.environ, text=True, capture_output=True, check=True
    )
    assert "logged ['loss', 'lr', 'train_loss', 'val_loss'] at 1" in result.stdout
    assert "ended FINISHED" in result.stdout
    (failure,) = [line for line in result.stderr.splitlines() if "failed on" in line]
    assert failure.startswith("mlflow-logger:MLflowLogger failed on train_begin at ")
    assert f"{folder / '__init__.py'}:11" in failure
    assert "experiment_name" in result.stderr


def test_the_package(blocks: list[Block], reader: Reader, tmp_path: Path) -> None:
    """A package with the document's metadata is found by its own name once it can be imported."""
    package = tmp_path / "frameworm_my_plugin"
    package.mkdir()
    (package / "__init__.py").write_text(blocks[9].code + "    print('registered')\n", encoding="utf-8")
    listed = reader.shell("frameworm plugins list")
    assert "my-plugin" in listed
    assert "registered" not in listed
    assert "registered" in reader.shell("frameworm plugins load frameworm_my_plugin")


def test_debugging(blocks: list[Block], reader: Reader) -> None:
    """Loaded plugins and hooks can be printed, and hooks silenced for a while."""
    output = reader.python(f"{blocks[10].code}\nassert HookRegistry.is_enabled()")
    assert "epoch-report" in output
    assert output.splitlines()[-1] == "{}"


@pytest.mark.timeout(300)
def test_the_guide(tmp_path: Path) -> None:
    """What follows the document runs as every other page does."""
    document, _, text = PAGE.read_text(encoding="utf-8").partition(GUIDE)
    guide = tmp_path / "guide.md"
    guide.write_text("\n" * document.count("\n") + GUIDE + text, encoding="utf-8")  # with the page's own lines
    project = tmp_path / "project"
    project.mkdir()
    environ = Reader(project).environ | {"COLUMNS": "200", "NO_COLOR": "1"}
    del environ["PYTHONPATH"]
    result = subprocess.run(
        [sys.executable, "-P", Path(__file__).with_name("run_page.py"), guide],
        cwd=project,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout.splitlines()[-1]) > 5
