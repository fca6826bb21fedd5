"""The static check: all that is wrong at once, with lines, nothing run, and silence where nothing is wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import frameworm
from frameworm.plugins.discovery import at, discover
from frameworm.plugins.static import Finding, check
from tests.frameworm.plugins.conftest import Write
from tests.frameworm.plugins.test_in_training import FOURTEEN, MODEL
from tests.frameworm.plugins.test_loader import DOCUMENT

HOOKS = "from frameworm.plugins.hooks import CallbackHook, HookRegistry\n"


def found(path: Path) -> list[tuple[str, str, int]]:
    """Return level, message and line of each finding."""
    return [(finding.level, finding.message, int(finding.where.rpartition(":")[2])) for finding in check(at(path))]


@pytest.mark.parametrize(
    ("code", "manifest"),
    [
        (DOCUMENT, "hooks: [model, callback]\nentry_point: plugin:register"),
        (MODEL, "hooks: [model, dataset]\ndependencies: torch"),
        (FOURTEEN, "hooks: callback"),
        ("from .part import *", ""),
        ("try:\n    import mlflow\nexcept ImportError:\n    mlflow = None\ndef register(): ...", ""),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pandas\ndef register(): ...", ""),
        ("import yaml, packaging.version\ndef register(): ...", "dependencies: [PyYAML, packaging>=2]"),
        (
            HOOKS
            + "class C(CallbackHook):\n  on_epoch_end = None\n  @staticmethod\n  def on_train_end(): ...\nregister = C",
            "",
        ),
        (HOOKS + "NAME = 'on_' + 'x'\nHookRegistry.on(NAME)(print)\n", ""),
        (HOOKS + "def f(*a, **k): ...\nHookRegistry.on('on_epoch_end')(f)", ""),
        ("if True:\n    register = print", ""),
        ("import frameworm.core as core\n@core.register_model('cnn', override=True)\nclass Net: ...", ""),
    ],
)
def test_valid_plugins_have_no_findings(write: Write, code: str, manifest: str) -> None:
    """Neither the document's plugin, nor what is optional, conditional or cannot be read off."""
    assert found(write("my-plugin", code, manifest, part="def register(): ...")) == []


def test_shipped_plugins_have_no_findings() -> None:
    """What ships is an example to follow."""
    folder = Path(frameworm.__file__).parent.parent / "frameworm_plugins"
    paths = sorted(path.parent for path in folder.glob("*/plugin.yaml"))
    assert len(paths) >= 4
    for path in paths:
        assert check(at(path)) == (), path


@pytest.mark.parametrize(
    ("code", "level", "says", "line"),
    [
        ("def register(:", "error", "SyntaxError", 1),
        (HOOKS + "@HookRegistry.on('on_epoch_ends')\ndef f(): ...", "error", "unknown hook 'on_epoch_ends'", 3),
        (HOOKS + "@HookRegistry.on\ndef f(): ...\nregister = f", "error", "needs the name of a hook", 2),
        (HOOKS + "@HookRegistry.on('on_train_end')\ndef f(trainer, x): ...", "error", "fills its parameter 'x'", 3),
        (
            HOOKS + "@HookRegistry.on('on_batch_begin')\nasync def f(t, i, batch): ...",
            "error",
            "'batch' exists only",
            3,
        ),
        (HOOKS + "def f(a, b): ...\nHookRegistry.on('on_train_end')(f)", "error", "parameter 'b'", 3),
        (HOOKS + "HookRegistry.on('on_train_end')(lambda a, b: 1)", "error", "parameter 'b'", 2),
        (HOOKS + "class C(CallbackHook):\n    def on_epoch(self): ...\nregister = C", "error", "'on_epoch'", 3),
        (
            HOOKS + "class C(CallbackHook): ...\nclass D(C):\n  def on_train_end(self, a, b): ...\nregister=C",
            "error",
            "'b'",
            4,
        ),
        ("import frameworm\n@frameworm.HookRegistry.on('on_x')\ndef f(): ...", "error", "unknown hook 'on_x'", 3),
        ("from frameworm.plugins import hooks as h\nh.HookRegistry.on('on_x')(print)", "error", "unknown hook", 2),
        (
            "from frameworm.core import register_model as r\n@r('cnn')\nclass N: ...",
            "error",
            "it ships with frameworm",
            2,
        ),
        (
            "from frameworm.core import register_model as r\nr('a', int)\nr('a', obj=str)",
            "error",
            "registered twice, first at",
            3,
        ),
        ("import pandas as pd\ndef register(): ...", "warning", "it imports pandas", 1),
    ],
)
def test_what_is_wrong_is_found_with_its_line(write: Write, code: str, level: str, says: str, line: int) -> None:
    """One finding each."""
    path = write("my-plugin", code, "")
    matching = [finding for finding in found(path) if says in finding[1]]
    assert [(found_level, found_line) for found_level, _, found_line in matching] == [(level, line)]


def test_each_is_found_once(write: Write, tmp_path: Path) -> None:
    """Also what discovery has seen before; the plugin's name is not repeated in what is said of it."""
    write("a", "def register(:")
    path = write("b", "def register(): ...", "hooks: [modle]")
    path.with_name("nowhere").symlink_to("gone")
    path.with_name("unreadable").symlink_to("a" * 300)
    broken = [candidate for candidate in discover(tmp_path) if candidate.source == "project"]
    assert len(broken) == 4
    for candidate in broken:
        (finding,) = check(candidate)
        assert "plugin" not in finding.message


def test_everything_is_found_at_once(write: Write) -> None:
    """The manifest's lines, what is missing, and every file's, sorted."""
    path = write(
        "my-plugin",
        HOOKS + "@HookRegistry.on('on_x')\ndef f(): ...",
        "hooks: [modle]\nentry_point: 'a b'\nautor: me\n",
        part="1 +",
    )
    lines = [(Path(f.where.rpartition(":")[0]).name, int(f.where.rpartition(":")[2])) for f in check(at(path))]
    assert lines == [("__init__.py", 3), ("part.py", 1), ("plugin.yaml", 2), ("plugin.yaml", 3)]


def test_missing_packages_come_with_the_pip_line(write: Write) -> None:
    """All of them in one finding."""
    path = write("my-plugin", "def register(): ...", "dependencies: [no-such-thing>=2, other-missing]")
    (finding,) = check(at(path))
    assert finding.level == "error"
    assert "no-such-thing>=2, other-missing" in finding.message
    assert sys.executable in (finding.hint or "")


@pytest.mark.parametrize(
    ("entry_point", "finds"), [("register", 0), ("plugin:register", 0), ("part:here", 0), ("part:gone", 1), ("go", 1)]
)
def test_entry_points(write: Write, entry_point: str, finds: int) -> None:
    """They are looked for where the loader would look."""
    path = write("my-plugin", "def register(): ...", f"entry_point: '{entry_point}'", part="here = print")
    findings = check(at(path))
    assert len(findings) == finds
    assert all(f"there is no {entry_point!r}" in finding.message for finding in findings)


def test_what_the_manifest_announces_is_compared(write: Write) -> None:
    """Both ways, as warnings."""
    path = write("my-plugin", MODEL, "hooks: [metric, model]\ndependencies: torch")
    assert [(f.level, f.message) for f in check(at(path))] == [
        ("warning", "'metric' is under hooks, but nothing of that kind is registered"),
        ("warning", "it registers dataset, which is not under hooks"),
    ]


def test_nothing_is_run(write: Write, tmp_path: Path) -> None:
    """Neither the package nor its parts."""
    path = write("my-plugin", f"open({str(tmp_path / 'ran')!r}, 'w')\ndef register(): ...", "", part="raise SystemExit")
    assert check(at(path)) == ()
    assert not (tmp_path / "ran").exists()


def test_findings_are_plain_values() -> None:
    """They can be compared and printed as JSON."""
    assert Finding("error", "m", "f:1") == Finding("error", "m", "f:1", None)
