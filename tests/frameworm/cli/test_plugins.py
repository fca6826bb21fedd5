"""`frameworm plugins` makes plugins, shows them without running them, loads them, and finds what is wrong."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from click.testing import CliRunner, Result

from frameworm.cli import main
from frameworm.plugins import manifest
from frameworm.plugins.loader import get_plugin_loader

Write = Callable[..., Path]

MANIFEST = """
version: 1.0.0
author: Your Name
description: My custom FRAMEWORM extension
entry_point: plugin:register
dependencies:
  - torch>=2.0.0
hooks: [model, callback]
"""

CODE = """
from frameworm.core import register_model
from frameworm.plugins.hooks import HookRegistry

class MyModel: ...

def register():
    print("✓ registering")
    register_model("my_model", MyModel)

    @HookRegistry.on("on_epoch_end")
    def my_hook(trainer, epoch, metrics): ...
"""

RUNS = "raise AssertionError('a plugin was run')\n\ndef register(): ...\n"


def plugins(*arguments: str) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(main, ["plugins", *arguments])


def in_a_process(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "frameworm", "plugins", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environ,
    )


def listed() -> dict[str, Any]:
    """The plugins, by name."""
    return {plugin["name"]: plugin for plugin in json.loads(plugins("list", "--json").stdout)}


@pytest.fixture
def write(project: Path) -> Write:
    """Return a function that writes a plugin into the project."""

    def write(folder: str, code: str = "def register(): ...", text: str | None = None) -> Path:
        path = project / "frameworm_plugins" / folder
        path.mkdir()
        (path / "__init__.py").write_text(code, "utf-8")
        if text is not None:
            (path / "plugin.yaml").write_text(f"name: {folder}\n{dedent(text)}", "utf-8")
        return path

    return write


@pytest.fixture
def awesome(write: Write) -> Path:
    """The document's plugin."""
    return write("my-awesome-plugin", CODE, MANIFEST)


class TestCreating:
    """`create` writes a plugin that loads, and says how to go on."""

    @pytest.mark.parametrize("kind", ["model", "callback", "metric", "dataset"])
    def test_each_kind_loads_as_it_is(self, project: Path, kind: str) -> None:
        """The document's two files are there; what they register is of that kind, as their manifest says."""
        done = plugins("create", "my-plugin", "--kind", kind)
        assert (done.exit_code, done.stderr) == (0, "")
        assert done.stdout.startswith(
            "wrote frameworm_plugins/my-plugin/plugin.yaml\nwrote frameworm_plugins/my-plugin/__init__.py\n"
        )
        assert sorted(path.name for path in (project / "frameworm_plugins" / "my-plugin").iterdir()) == [
            "__init__.py",
            "plugin.yaml",
        ]
        loaded = plugins("load", "my-plugin")
        assert (loaded.exit_code, loaded.stderr) == (0, "")
        assert loaded.stdout == f"loaded my-plugin 0.1.0: {kind} my_plugin\n"
        assert plugins("check", "my-plugin").stdout == "checked 1 plugin: 0 errors, 0 warnings\n"

    @pytest.mark.usefixtures("project")
    def test_the_commands_to_go_on_with(self) -> None:
        """They are those of the document."""
        lines = plugins("create", "my-awesome-plugin").stdout.splitlines()
        assert lines[-3:] == [
            "  cd frameworm_plugins/my-awesome-plugin",
            "  frameworm plugins load my-awesome-plugin",
            "  frameworm train --config config.yaml --model my_awesome_plugin",
        ]

    @pytest.mark.usefixtures("project")
    @pytest.mark.parametrize(
        ("kind", "use"),
        [("callback", "callbacks=[mine]"), ("metric", "metrics=[mine]"), ("dataset", "data.name=mine")],
    )
    def test_a_run_uses_what_was_created(self, kind: str, use: str) -> None:
        """By a setting, where no option is its own."""
        last = plugins("create", "mine", "--kind", kind).stdout.splitlines()[-1]
        assert shlex.split(last) == ["frameworm", "train", "--config", "config.yaml", "--set", use]

    def test_beside_the_plugin_that_one_is_in(self, awesome: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """From below the root another plugin comes into the same project."""
        monkeypatch.chdir(awesome)
        done = plugins("create", "other")
        assert "wrote ../other/plugin.yaml\n" in done.stdout
        assert "  cd ../other\n" in done.stdout
        assert (awesome.parent / "other" / "plugin.yaml").is_file()

    def test_without_a_project(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The current folder becomes one."""
        monkeypatch.chdir(tmp_path)
        assert plugins("create", "first").exit_code == 0
        assert (tmp_path / "frameworm_plugins" / "first" / "plugin.yaml").is_file()

    def test_a_package(self, project: Path) -> None:
        """With `--package` it is what can be published, in the current folder."""
        done = plugins("create", "my-plugin", "--package", "--kind", "metric")
        assert done.exit_code == 0
        assert "wrote frameworm_my_plugin/pyproject.toml\n" in done.stdout
        assert "  cd frameworm_my_plugin\n" in done.stdout
        assert "  pip install -e '.[dev]'\n" in done.stdout
        assert (project / "frameworm_my_plugin" / "frameworm_my_plugin" / "__init__.py").is_file()

    @pytest.mark.parametrize("name", ["../evil", "a b", "", "my-awesome-plugin", "/tmp/x", "-x"])
    def test_what_cannot_be_created(self, awesome: Path, name: str) -> None:
        """A name that is none, and a folder that is there, are wrong input; nothing is written."""
        before = sorted(awesome.parent.parent.rglob("*"))
        done = plugins("create", "--", name)
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr.startswith("error: ")
        assert sorted(awesome.parent.parent.rglob("*")) == before


class TestLooking:
    """`list` and `info` tell what there is and run nothing."""

    def test_a_table_for_people(self, write: Write) -> None:
        """A line for each plugin; those that are broken have their reason below the table."""
        write("good", RUNS, "description: Makes all good.\nversion: 1.10")
        write("bare", RUNS)
        write("bad", RUNS, "versoin: 1\nhooks: modle")
        done = plugins("list")
        assert done.exit_code == 0
        header, *lines = done.stdout.splitlines()
        assert header.split() == ["name", "version", "source", "state", "description"]
        assert lines[0].split() == ["bad", "0.0.0", "project", "broken"]
        assert lines[1].split() == ["bare", "0.0.0", "project", "available,", "no", "manifest"]
        assert lines[2].split() == ["good", "1.10", "project", "available", "Makes", "all", "good."]
        assert "shipped" in lines[3]
        reason = done.stdout.partition("\n\n")[2]
        assert reason.startswith("plugin 'bad': its manifest is wrong: unknown hook 'modle'\n")
        assert "plugin.yaml:3" in reason

    def test_more_of_each(self, awesome: Path) -> None:
        """With `-v` there are modules, paths and what is odd in manifests."""
        (awesome / "plugin.yaml").write_text("name: my-awesome-plugin\nautor: me\n", "utf-8")
        out = plugins("list", "-v").stdout
        assert ["frameworm_plugins.my-awesome-plugin", str(awesome)] in [line.split()[-2:] for line in out.splitlines()]
        assert "plugin.yaml:2: the key 'autor' means nothing; did you mean 'author'?" in out

    @pytest.mark.usefixtures("awesome")
    def test_an_array_for_programs(self) -> None:
        """As JSON all that is known is there."""
        mine = listed()["my-awesome-plugin"]
        assert (mine["version"], mine["state"], mine["source"], mine["reason"]) == (
            "1.0.0",
            "available",
            "project",
            None,
        )
        assert (mine["manifest"]["hooks"], mine["has_manifest"]) == (["model", "callback"], True)

    def test_neither_plugins_nor_torch_are_imported(self, write: Write) -> None:
        """Looking stays quick whatever the plugins would import."""
        write("runs", RUNS)
        for command in (["list"], ["info", "runs"], ["check"]):
            program = (
                "import sys; from frameworm.cli import main\n"
                f"code = main(['plugins', *{command}], standalone_mode=False)\n"
                "print(*sys.modules)\nsys.exit(code)"
            )
            done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
            modules = done.stdout.splitlines()[-1].split()
            assert {"torch", "frameworm.app", "frameworm_plugins.runs"}.isdisjoint(modules)

    def test_all_of_one(self, awesome: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """`info` shows what a manifest says and where things are, for any of a plugin's names, from anywhere inside."""
        monkeypatch.chdir(awesome)
        for name in ("my-awesome-plugin", "My_Awesome_Plugin", "frameworm-my-awesome-plugin", "."):
            lines = [line.split() for line in plugins("info", name).stdout.splitlines()]
            assert ["author", "Your", "Name"] in lines
            assert ["state", "available"] in lines
            assert ["path", str(awesome)] in lines
            assert ["hooks", "model"] in lines
            assert ["callback"] in lines
        assert json.loads(plugins("info", "my-awesome-plugin", "--json").stdout) == listed()["my-awesome-plugin"]

    @pytest.mark.usefixtures("awesome")
    @pytest.mark.parametrize("command", ["info", "load", "unload", "check"])
    def test_an_unknown_name(self, project: Path, command: str) -> None:
        """It is wrong input; what is near, where was looked and which Python this is are said."""
        done = plugins(command, "my-awsome-plugin")
        assert (done.exit_code, done.stdout) == (2, "")
        assert "try:      my-awesome-plugin\n" in done.stderr
        assert str(project / "frameworm_plugins") in done.stderr
        assert sys.executable in done.stderr

    def test_an_ascii_terminal(self, write: Write) -> None:
        """What it does not have is shown escaped."""
        write("unicode", text="description: schön ✓")
        for command in (["list"], ["info", "unicode"]):
            done = in_a_process(*command, PYTHONIOENCODING="ascii")
            assert (done.returncode, done.stderr) == (0, "")
        assert "sch\\xf6n \\u2713" in done.stdout

    def test_control_characters_are_not_obeyed(self, write: Write) -> None:
        """A manifest cannot write over what is on the terminal."""
        write("rude", text='description: "a\\e[2Jb"')
        assert "a\\x1b[2Jb" in plugins("list").stdout
        assert "a\\x1b[2Jb" in plugins("info", "rude").stdout


class TestLoading:
    """`load` tries a plugin and enables it, `unload` disables it, for the commands that follow."""

    def test_what_was_registered_is_said(self, awesome: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """From inside the plugin's folder, as in the document; what the plugin prints is shown, too."""
        monkeypatch.chdir(awesome)
        done = plugins("load", "my-awesome-plugin")
        assert (done.exit_code, done.stderr) == (0, "")
        printed, loaded = done.stdout.splitlines()
        assert printed == "✓ registering"
        assert loaded.startswith("loaded my-awesome-plugin 1.0.0: model my_model, hook on_epoch_end")

    def test_what_differs_from_the_manifest_is_a_warning(self, write: Write) -> None:
        """It comes on stderr, and the plugin is loaded all the same."""
        write("more", CODE, "hooks: [metric, model]")
        done = plugins("load", "more")
        assert done.exit_code == 0
        assert "warning: more: its manifest has 'metric' under hooks, but it registers none\n" in done.stderr
        assert "warning: more: it registers hook on_epoch_end" in done.stderr

    def test_nothing_registered(self, write: Write) -> None:
        """A plugin may leave that for later."""
        write("later", "def register():\n    print('ready')\n")
        assert plugins("load", "later").stdout == "ready\nloaded later 0.0.0: nothing is registered yet\n"

    @pytest.mark.usefixtures("awesome")
    def test_json_and_prints(self) -> None:
        """With `--json` a plugin's prints go to stderr, also on an ASCII terminal."""
        done = in_a_process("load", "my-awesome-plugin", "--json", PYTHONIOENCODING="ascii")
        assert done.returncode == 0, done.stderr
        facts = json.loads(done.stdout)
        assert (facts["state"], facts["registered"][0]) == ("loaded", "model my_model")
        assert "\\u2713 registering" in done.stderr

    def test_failing(self, write: Write) -> None:
        """The exit status is 1, the place in the plugin is named; a program gets the reason as JSON."""
        path = write("broken", "import frameworm\n\n1 / 0\n")
        done = plugins("load", "broken")
        assert (done.exit_code, done.stdout) == (1, "")
        assert done.stderr.startswith("error: plugin 'broken': it failed while it was loaded: ZeroDivisionError")
        assert f"{path / '__init__.py'}:3" in done.stderr
        facts = json.loads(plugins("load", "broken", "--json").stdout)
        assert facts["state"] == "failed"
        assert "ZeroDivisionError" in facts["reason"]

    @pytest.mark.parametrize(("end", "status"), [("pass", 0), ("raise ValueError('oh')", 1)])
    def test_a_plugin_that_goes_elsewhere(
        self, project: Path, write: Write, monkeypatch: pytest.MonkeyPatch, end: str, status: int
    ) -> None:
        """The project is the one in which the command was given."""
        monkeypatch.chdir(project)
        write("roaming", f"import os\nos.chdir('/')\ndef register(): {end}")
        plugins("unload", "roaming")
        done = plugins("load", "roaming")
        assert done.exit_code == status
        assert ("ValueError: oh" in done.stderr) == bool(status)
        monkeypatch.chdir(project)
        assert listed()["roaming"]["state"] == ("disabled" if status else "loaded")

    def test_a_broken_manifest(self, write: Write) -> None:
        """What cannot be loaded as it is fails in the same way."""
        write("wrong", text="hooks: nothing")
        done = plugins("load", "wrong")
        assert (done.exit_code, done.stdout) == (1, "")
        assert "plugin.yaml:2" in done.stderr

    @pytest.mark.usefixtures("awesome")
    def test_disabled_and_enabled_again(self) -> None:
        """Between commands it is remembered what is disabled, and nothing else."""
        done = plugins("unload", "my_awesome_plugin")
        assert (done.exit_code, done.stderr) == (0, "")
        assert "`frameworm plugins load my-awesome-plugin` brings it back" in done.stdout
        assert listed()["my-awesome-plugin"]["state"] == "disabled"
        assert plugins("load", "my-awesome-plugin").exit_code == 0
        get_plugin_loader().unload("my-awesome-plugin")
        assert listed()["my-awesome-plugin"]["state"] == "available"

    def test_failing_enables_nothing(self, write: Write) -> None:
        """Nor is anything left of what was tried."""
        path = write("broken", "1 / 0\ndef register(): ...\n")
        plugins("unload", "broken")
        assert plugins("load", "broken").exit_code == 1
        assert json.loads((path.parent.parent / ".frameworm" / "plugins.json").read_bytes()) == {"disabled": ["broken"]}

    def test_others_may_need_it(self, write: Write) -> None:
        """Whoever requires what is disabled is named: it cannot be loaded any more."""
        write("base")
        write("above", text="requires: base")
        done = plugins("unload", "base")
        assert done.exit_code == 0
        assert done.stderr == "warning: above requires it, and cannot be loaded without it\n"
        failed = plugins("load", "above")
        assert failed.exit_code == 1
        assert "frameworm plugins load base" in failed.stderr

    @pytest.mark.usefixtures("awesome")
    def test_a_root_that_cannot_be_written(self, project: Path) -> None:
        """It cannot be remembered then, which is a warning that says what helps."""
        (project / ".frameworm").write_text("no folder", "utf-8")
        done = in_a_process("unload", "my-awesome-plugin")
        assert (done.returncode, done.stdout) == (0, "")
        assert "cannot be written" in done.stderr
        assert "plugins: {disable: [my-awesome-plugin]}" in done.stderr


class TestChecking:
    """`check` finds what is wrong with plugins without running them."""

    def test_everything_at_once(self, write: Write) -> None:
        """Manifest, what it needs and code: each finding has its place, and what would help."""
        manifest = "entry_point: nowhere\nautor: me\ndependencies: [torch>=99, nothing-like-this]\nframeworm: '>=0'\n"
        code = "from frameworm.plugins.hooks import HookRegistry\n\ndef register():\n"
        code += "    @HookRegistry.on('on_epoch_ends')\n    def my_hook(trainer): ...\n"
        write("wrong", code, manifest)
        done = plugins("check", "wrong")
        assert (done.exit_code, done.stderr) == (1, "")
        *findings, counts = done.stdout.splitlines()
        places = [
            line.removeprefix("frameworm_plugins/wrong/").partition(": wrong: ")[0]
            for line in findings
            if line[0] != " "
        ]
        assert "plugin.yaml:3: warning" in places
        assert "__init__.py:5: error" in places
        assert "  try: on_epoch_end" in findings
        assert any("-m pip install 'torch>=99' nothing-like-this" in line for line in findings)
        assert counts == "checked 1 plugin: 3 errors, 1 warning"

    def test_all_of_the_project(self, write: Write) -> None:
        """Without a name all of the project's are checked, and nothing else; warnings alone are no failure."""
        write("fine")
        write("odd", text="autor: me\n")
        done = plugins("check")
        assert done.exit_code == 0
        assert done.stdout.splitlines()[-1] == "checked 2 plugins: 0 errors, 1 warning"

    def test_for_programs(self, write: Write) -> None:
        """As JSON each finding says whose it is."""
        path = write("wrong", "def register(:\n", "")
        done = plugins("check", "--json")
        found = json.loads(done.stdout)
        assert (done.exit_code, found["checked"]) == (1, ["wrong"])
        [finding] = found["findings"]
        assert (finding["plugin"], finding["level"], finding["where"]) == ("wrong", "error", f"{path}/__init__.py:1")

    def test_a_folder_anywhere(self, project: Path, write: Write) -> None:
        """A path is checked wherever it is; one without a plugin is wrong input."""
        elsewhere = write("elsewhere").rename(project / "elsewhere")
        assert plugins("check", str(elsewhere)).stdout == "checked 1 plugin: 0 errors, 0 warnings\n"
        empty = plugins("check", f"{project}/")
        assert (empty.exit_code, empty.stdout) == (2, "")
        assert "there is no plugin" in empty.stderr

    def test_inside_its_folder(self, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        """`.` is the plugin that one is in."""
        monkeypatch.chdir(write("mine"))
        assert plugins("check", ".").stdout == "checked 1 plugin: 0 errors, 0 warnings\n"

    def test_without_a_project(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """There is nothing to check then, which is said."""
        monkeypatch.chdir(tmp_path)
        done = plugins("check")
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr.startswith("error: there is no project here\n")


@pytest.mark.parametrize("command", [["list"], ["create", "x"], ["load", "."]])
def test_a_folder_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    """One message says so."""
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    done = plugins(*command)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: the current folder is not there any more\n")


def test_the_schema() -> None:
    """A manifest's JSON Schema is printed as it is published."""
    for arguments in (["schema"], ["schema", "--json"]):
        assert json.loads(plugins(*arguments).stdout) == manifest.schema()
