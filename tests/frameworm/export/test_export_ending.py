"""An export that a hook, a signal or its own code ends leaves everything as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import frameworm
from frameworm import config
from frameworm.cli import main
from frameworm.testing import isolated_plugins

PLUGIN = """
import os
import signal
import time

from frameworm import HookRegistry, StopTraining
from frameworm.core import register_exporter

heard = []


class Interrupted:
    number = signal.SIGTERM

    def write(self, forward, folder):
        (folder / "half").write_text("half")
        os.kill(os.getpid(), self.number)
        time.sleep(60)

    def load(self, forward, folder):
        raise AssertionError


class CtrlC(Interrupted):
    number = signal.SIGINT


class Reading(Interrupted):
    def write(self, forward, folder):
        (folder / "half").write_text("half")
        open("vocabulary.txt")


def register():
    register_exporter("interrupted", Interrupted)
    register_exporter("ctrl-c", CtrlC)
    register_exporter("reading", Reading)

    @HookRegistry.on("on_model_export")
    def gate(model, exporter, format):
        if format == "torch-export" and not os.path.exists("approved"):
            raise StopTraining("nobody has approved it")

    @HookRegistry.on("on_model_export", priority=60)
    def hear(format):
        heard.append(("before", format))

    @HookRegistry.on("on_model_exported")
    def told(trainer, path, format):
        heard.append(("after", format, os.path.exists(path)))
        raise StopTraining("too late")
"""

EXPORT = ["-m", "frameworm", "export"]


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A run in a project of its own, with a plugin that ends exports."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "frameworm_plugins" / "ending_in_test"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(PLUGIN)
    (folder / "plugin.yaml").write_text("name: ending-in-test\nversion: '1'\n")
    with isolated_plugins(tmp_path):
        result = frameworm.train(
            config.parse(
                {
                    "run": {"name": "run"},
                    "model": {"name": "mlp", "hidden": [8]},
                    "data": {"name": "digits", "batch_size": 64},
                    "trainer": {"max_steps": 2, "device": "cpu"},
                }
            )
        )
        assert result.directory is not None
        yield result.directory


def command(*arguments: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(main, ["export", *arguments])


def heard() -> list[tuple[object, ...]]:
    """Return what the plugin's hooks were told, and forget it."""
    found: list[tuple[object, ...]] = sys.modules["frameworm_plugins.ending_in_test"].heard
    taken = found[:]
    found.clear()
    return taken


def everything() -> list[Path]:
    """Return all files and folders but what Python caches."""
    return sorted(path for path in Path().rglob("*") if "__pycache__" not in path.parts)


def test_a_hook_refuses_an_export() -> None:
    """Its reason and its line are told, the other hooks have heard, and what was written before is gone."""
    before = everything()
    done = command("--format", "safetensors", "--format", "torch-export", "-o", "below/out")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "format 'torch-export': a hook refuses the export" in done.stderr
    assert "nobody has approved it" in done.stderr
    line = PLUGIN.splitlines().index('            raise StopTraining("nobody has approved it")') + 1
    assert f"ending_in_test/__init__.py:{line}" in done.stderr
    assert "Traceback" not in done.stderr
    assert heard() == [("before", "safetensors"), ("before", "torch-export")]
    assert everything() == before


def test_a_hook_lets_an_export_pass() -> None:
    """Those that hear of it afterwards find the files, and can refuse nothing any more."""
    Path("approved").touch()
    done = command("--format", "safetensors", "--format", "torch-export", "-o", "out")
    assert done.exit_code == 0, done.output
    assert heard() == [
        ("before", "safetensors"),
        ("before", "torch-export"),
        ("after", "safetensors", True),
        ("after", "torch-export", True),
    ]
    assert Path("out/torch-export/model.pt2").is_file()


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("name", "code"), [("interrupted", 128 + signal.SIGTERM), ("ctrl-c", 128 + signal.SIGINT)])
def test_a_signal_ends_an_export(name: str, code: int) -> None:
    """Nothing is left of it."""
    before = everything()
    done = subprocess.run(
        [sys.executable, *EXPORT, "--format", "safetensors", "--format", name, "-o", "below/out"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert "Traceback" not in done.stderr
    assert everything() == before


def test_a_file_that_an_exporter_lacks_is_named() -> None:
    """Also where it is not the disk that is full."""
    before = everything()
    done = command("--format", "reading")
    assert done.exit_code == 2
    assert "vocabulary.txt" in done.stderr
    assert everything() == before


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["safetensors", "torch-export", "onnx"])
def test_a_disk_that_is_full(name: str) -> None:
    """It is told as that, and nothing is left; a limit on the size of files stands for it."""
    Path("approved").touch()
    before = everything()
    done = subprocess.run(
        [
            "bash",
            "-c",
            'ulimit -f 2 && exec "$@"',
            "-",
            sys.executable,
            "-B",
            *EXPORT,
            "--format",
            name,
            "-o",
            "below/out",
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert "the export cannot be written" in done.stderr
    assert "File too large" in done.stderr
    assert everything() == before


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("safetensor", "safetensors"), ("torch_export", "torch-export"), ("ONXX", "onnx")],
)
def test_a_misspelt_format(wrong: str, near: str) -> None:
    """The near one is suggested and the others are listed, also where there is an export already."""
    Path("approved").touch()
    assert command("--format", "safetensors").exit_code == 0
    done = command("--format", "safetensors", "--format", wrong)
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"unknown exporter '{wrong}'" in done.stderr
    assert f"try:      {near}" in done.stderr
    assert "expected: all, or" in done.stderr
