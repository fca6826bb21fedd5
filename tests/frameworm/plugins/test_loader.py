"""The loader: transactions, isolation, conflicts, requirements, and what an error says."""

from __future__ import annotations

import gc
import logging
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest

from bus import default_bus
from frameworm.core import get_model, registries
from frameworm.errors import FindingsError, PluginError
from frameworm.plugins.hooks import HookRegistry
from frameworm.plugins.loader import PluginLoader
from frameworm.plugins.selection import Selection
from tests.frameworm.plugins.conftest import Write

DOCUMENT = """
    from frameworm.core import register_model
    from frameworm.plugins.hooks import HookRegistry

    class MyModel:
        pass

    def register():
        register_model('my_model', MyModel)

        @HookRegistry.on('on_epoch_end')
        def my_hook(trainer, epoch, metrics):
            pass
"""


def residue() -> dict[str, Any]:
    """Return what a plugin could leave behind."""
    return {
        "names": {kind: registry.names() for kind, registry in registries.items()},
        "subscriptions": len(default_bus.subscriptions()),
        "modules": {name for name in sys.modules if name.startswith("frameworm_plugins.")},
    }


def test_load_and_unload_leave_things_as_they_were(loader: PluginLoader, write: Write) -> None:
    """What the document's plugin registers is there, listed under its name, and gone again."""
    before = residue()
    write("my-plugin", DOCUMENT, "version: 1.10\nentry_point: plugin:register\nhooks: [model, callback]")
    plugin = loader.load("my-plugin")
    assert (plugin.state, plugin.version, plugin.warnings) == ("loaded", "1.10", ())
    assert plugin.registered == ("model my_model", "hook on_epoch_end")
    assert get_model("my_model").__module__ == "frameworm_plugins.my-plugin"
    assert registries["model"].entry("my_model").owner == "my-plugin"
    assert HookRegistry.list_hooks() == {"on_epoch_end": ["my-plugin:register.<locals>.my_hook (50)"]}
    assert loader.unload("my-plugin") == ("my-plugin",)
    assert residue() == before
    assert loader.unload("my-plugin") == ()


@pytest.mark.parametrize("name", ["my-plugin", "my_plugin", "My.Plugin", "frameworm-my-plugin", "frameworm_my_plugin"])
def test_every_spelling_finds_it(loader: PluginLoader, write: Write, name: str) -> None:
    """Dashes, underscores, case and the prefix make no difference."""
    write("my-plugin", DOCUMENT, "")
    assert loader.load(name).name == "my-plugin"


def test_a_miss_says_what_is_near_and_where_it_looked(loader: PluginLoader, write: Write, tmp_path: Path) -> None:
    """The folder, the interpreter, the names there are."""
    write("my-plugin", DOCUMENT, "")
    with pytest.raises(PluginError) as caught:
        loader.load("my-plugim")
    assert caught.value.hint == "my-plugin"
    assert str(tmp_path / "frameworm_plugins") in (caught.value.where or "")
    assert sys.executable in (caught.value.where or "")


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def register(:", "SyntaxError"),
        ("import sys\nsys.exit(3)", "it ended the program"),
        ("import asyncio\nraise asyncio.CancelledError", "CancelledError"),
        ("import no_such_module_at_all", "No module named 'no_such_module_at_all'"),
        ("def register():\n    raise ValueError('no\\nnewline')", "ValueError"),
        ("x = 1", "it has no 'register'"),
        ("def register(needed): pass", "needs the option 'needed'"),
        ("register = 3", "'int' object is not callable"),
    ],
)
def test_a_failure_is_undone_and_attributed(loader: PluginLoader, write: Write, code: str, says: str) -> None:
    """Whatever happens while it is loaded, nothing is left, the error names plugin and place, and the state says it."""
    before = residue()
    path = write("broken", code, "")
    with pytest.raises(PluginError) as caught:
        loader.load("broken")
    assert says in str(caught.value)
    assert "'broken'" in str(caught.value)
    assert str(path) in (caught.value.where or "")
    assert residue() == before
    plugin = loader.get("broken")
    assert plugin.state == "failed"
    assert plugin.reason == str(caught.value)


def test_a_half_done_load_is_rolled_back_and_works_once_mended(loader: PluginLoader, write: Write) -> None:
    """Registrations and submodules before the error go, and the mended file loads in the same process."""
    before = residue()
    code = DOCUMENT + "\n        from . import part"
    write("my-plugin", code, "", part="1 / 0")
    with pytest.raises(PluginError, match="ZeroDivisionError") as caught:
        loader.load("my-plugin")
    assert (caught.value.where or "").endswith("part.py:1")
    assert residue() == before
    write("my-plugin", code, "", part="1 / 1")
    assert loader.load("my-plugin").registered == ("model my_model", "hook on_epoch_end")
    assert loader.get("my-plugin").state == "loaded"


def test_ctrl_c_during_a_load_goes_on_its_way(loader: PluginLoader, write: Write) -> None:
    """It is no plugin's failure, and nothing of the plugin stays."""
    before = residue()
    write(
        "my-plugin", "from frameworm.core import register_model\nregister_model('m', object)\nraise KeyboardInterrupt"
    )
    with pytest.raises(KeyboardInterrupt):
        loader.load("my-plugin")
    assert residue() == before


def test_the_others_load_beside_a_broken_one(
    loader: PluginLoader, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    """What is not named may fail: it is logged, in the result, and the result is false."""
    write("bad", "raise RuntimeError('oh')", "")
    write("good", DOCUMENT, "")
    with caplog.at_level(logging.WARNING):
        result = loader.load_all(Selection())
    assert not result
    assert [error.plugin for error in result.failed] == ["bad"]
    assert "good" in {plugin.name for plugin in result.loaded}
    assert any("bad" in record.getMessage() and "RuntimeError: oh" in record.getMessage() for record in caplog.records)


def test_what_is_named_must_load(loader: PluginLoader, write: Write) -> None:
    """A required plugin that fails, or is not there, is an error; the others were loaded before it."""
    write("bad", "raise RuntimeError('oh')", "")
    write("good", DOCUMENT, "")
    with pytest.raises(PluginError, match="oh"):
        loader.load_all(Selection(required=("bad",)))
    assert loader.get("good").state == "loaded"
    with pytest.raises(PluginError, match="none of that name"):
        loader.load_all(Selection(required=("nobody",)))


def test_strict_names_all_that_fail(loader: PluginLoader, write: Write) -> None:
    """Several failures are one error."""
    write("bad", "raise RuntimeError('oh')", "")
    write("worse", "raise RuntimeError('no')", "")
    with pytest.raises(FindingsError) as caught:
        loader.load_all(Selection(), strict=True)
    assert "oh" in str(caught.value)
    assert "no" in str(caught.value)


def test_two_owners_of_a_name(loader: PluginLoader, write: Write) -> None:
    """The second fails, the message has both owners and both places, and the first goes on."""
    first, second = write("first", DOCUMENT, ""), write("second", DOCUMENT, "")
    loader.load("first")
    with pytest.raises(PluginError) as caught:
        loader.load("second")
    for word in ("first (", "second (", str(first), str(second), "'my_model'"):
        assert word in str(caught.value)
    assert get_model("my_model").__module__ == "frameworm_plugins.first"


OVERRIDE = """
    from frameworm.core import register_model

    class Net: ...

    def register():
        register_model('cnn', Net, override=True)
"""


def test_an_override_is_undone_wherever_it_lies(loader: PluginLoader, write: Write) -> None:
    """Two plugins override a built-in; unloading the lower one leaves the upper one, unloading both the built-in."""
    shipped = get_model("cnn")
    write("lower", OVERRIDE, "")
    write("upper", OVERRIDE, "")
    loader.load("lower")
    loader.load("upper")
    loader.unload("lower")
    assert get_model("cnn").__module__ == "frameworm_plugins.upper"
    loader.unload("upper")
    assert get_model("cnn") is shipped


def test_loading_again_registers_once(loader: PluginLoader, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a plugin loads all plugins while it is loaded."""
    monkeypatch.setattr("frameworm.plugins.loader._loader", loader)
    write("a", "from frameworm.plugins.loader import load_plugins\ndef register(): load_plugins()", "")
    write("b", DOCUMENT, "")
    first = loader.load_all(Selection())
    again = loader.load_all(Selection())
    assert first
    assert again
    assert {plugin.name for plugin in first.loaded} >= {"a", "b"}
    assert len(HookRegistry.list_hooks()["on_epoch_end"]) == 1


def test_the_order_is_that_of_sources_then_names(loader: PluginLoader, write: Write) -> None:
    """Whatever the folders' order: the project's before those that ship, both by name, behind what they require."""
    for name, requires in (("zebra", ""), ("Bee", "requires: cow"), ("cow", "requires: sample-grid"), ("ant", "")):
        write(name, "def register(): pass", requires)
    loader.load_all(Selection())
    shipped = [plugin.key for plugin in loader.list_plugins() if plugin.source == "shipped"]
    shipped.remove("sample-grid")
    assert list(loader._loaded) == ["ant", "sample-grid", "cow", "bee", "zebra", *shipped]


def test_requirements_are_loaded_first_and_unloaded_last(loader: PluginLoader, write: Write) -> None:
    """Whatever the names' order; unloading or reloading one takes those along that stand on it."""
    write("a", "def register(): pass", "requires: [b]")
    write("b", "def register(): pass", "requires: c")
    write("c", "def register(): pass", "")
    assert loader.load("a").state == "loaded"
    assert list(loader._loaded) == ["c", "b", "a"]
    loader.reload("b")
    assert list(loader._loaded) == ["c", "b", "a"]
    assert loader.unload("c") == ("a", "b", "c")


@pytest.mark.parametrize(
    ("requires", "says"),
    [("nobody", "which is not there"), ("bad", "which failed: "), ("ring", "which requires it in turn")],
)
def test_a_requirement_that_cannot_be_met(loader: PluginLoader, write: Write, requires: str, says: str) -> None:
    """The error is about the one that requires, and says what is wrong with the other."""
    write("a", "def register(): pass", f"requires: {requires}")
    write("bad", "raise RuntimeError('oh')", "")
    write("ring", "def register(): pass", "requires: a")
    with pytest.raises(PluginError, match=says) as caught:
        loader.load("a")
    assert caught.value.hint


def test_a_disabled_requirement_is_not_loaded_behind_ones_back(loader: PluginLoader, write: Write) -> None:
    """What was disabled stays so until it is enabled or required by name."""
    write("a", "def register(): pass", "requires: b")
    write("b", "def register(): pass", "")
    loader.memory.disable("b")
    assert loader.get("b").state == "disabled"
    with pytest.raises(PluginError, match="which is disabled"):
        loader.load("a")
    assert loader.load("b").state == "loaded"
    assert loader.load("a").state == "loaded"


def test_options_reach_register_and_are_checked(loader: PluginLoader, write: Write) -> None:
    """They are its keyword arguments; other options load it anew, wrong ones say what is right."""
    write("a", "SEEN = []\ndef register(greeting: str = 'hello', times: int = 1): SEEN.append((greeting, times))", "")
    loader.load("a", {"greeting": "hi"})
    assert sys.modules["frameworm_plugins.a"].SEEN == [("hi", 1)]
    loader.load("a")
    assert sys.modules["frameworm_plugins.a"].SEEN == [("hi", 1)]
    loader.load("a", {"times": 2})
    assert sys.modules["frameworm_plugins.a"].SEEN == [("hello", 2)]
    with pytest.raises(PluginError, match="has no option 'greting'") as caught:
        loader.load("a", {"greting": "x"})
    assert caught.value.hint == "greeting"


def test_missing_dependencies_are_said_at_once_with_the_pip_line(loader: PluginLoader, write: Write) -> None:
    """Nothing is imported then."""
    write("a", "raise AssertionError", "dependencies: [no-such-thing>=2, 'torch>=2.0.0', other-thing]")
    with pytest.raises(PluginError, match="it needs what is not installed") as caught:
        loader.load("a")
    assert caught.value.expected == "no-such-thing>=2, other-thing"
    assert "pip install" in (caught.value.hint or "")
    assert sys.executable in (caught.value.hint or "")


def test_a_plugin_for_another_frameworm_is_refused(loader: PluginLoader, write: Write) -> None:
    """The range and the version are named."""
    write("a", "def register(): pass", "frameworm: '>=99'")
    with pytest.raises(PluginError, match="another frameworm") as caught:
        loader.load("a")
    assert caught.value.expected == "frameworm >=99"


@pytest.mark.parametrize("entry_point", ["register", ":register", "plugin:register", "__init__:register", "a:register"])
def test_entry_points_lead_into_the_plugin(loader: PluginLoader, write: Write, entry_point: str) -> None:
    """All these mean the package itself, where it has no such submodule."""
    write("a", DOCUMENT, f"entry_point: '{entry_point}'")
    assert "model my_model" in loader.load("a").registered


def test_nobody_gets_anothers_code(
    loader: PluginLoader, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two plugins say `plugin:register`, and a module that happens to be called so lies about: each is its own."""
    (tmp_path / "stray").mkdir()
    (tmp_path / "stray" / "plugin.py").write_text("def register(): raise AssertionError('a stray')", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path / "stray"))
    code = "from frameworm.core import register_model\ndef register(): register_model('of_{}', object)"
    write("a", code.format("a"), "entry_point: plugin:register")
    write("b", "", "entry_point: plugin:register", plugin=code.format("b"))
    write("c", "", "entry_point: plugin:register")
    assert loader.load("a").registered == ("model of_a",)
    assert loader.load("b").registered == ("model of_b",)
    with pytest.raises(PluginError, match="it has no 'plugin:register'") as caught:
        loader.load("c")
    assert caught.value.got == "nothing at frameworm_plugins.c.plugin:register, frameworm_plugins.c:register"
    assert "plugin" not in sys.modules


def test_a_submodule_comes_first(loader: PluginLoader, write: Write) -> None:
    """`plugin:register` is that of plugin.py, where there is one, and a nested attribute works."""
    write(
        "a",
        "def register(): raise AssertionError",
        "entry_point: plugin:Here.register",
        plugin="""
        class Here:
            @staticmethod
            def register():
                from frameworm.core import register_model
                register_model('from_submodule', object)
    """,
    )
    assert loader.load("a").registered == ("model from_submodule",)


def test_a_submodules_own_import_error_is_told(loader: PluginLoader, write: Write) -> None:
    """It is not mistaken for a submodule that is not there."""
    write("a", "def register(): pass", "entry_point: plugin:register", plugin="import no_such_module_at_all")
    with pytest.raises(PluginError, match="no_such_module_at_all") as caught:
        loader.load("a")
    assert (caught.value.where or "").endswith("plugin.py:1")


def test_registrations_at_import_are_enough_without_a_manifest(loader: PluginLoader, write: Write) -> None:
    """A folder that only decorates is a plugin."""
    write(
        "decorating",
        """
        from frameworm.core import register_metric

        @register_metric('score_of_test')
        def score(targets, predictions):
            return 1.0
    """,
    )
    plugin = loader.load("decorating")
    assert plugin.registered == ("metric score_of_test",)
    assert (plugin.version, plugin.has_manifest) == ("0.0.0", False)


def test_the_manifests_hooks_are_compared_with_what_came(loader: PluginLoader, write: Write) -> None:
    """Both what is missing and what was not said are warnings."""
    write("a", DOCUMENT, "hooks: [metric, on_epoch_end]")
    missing, unsaid = loader.load("a").warnings
    assert "'metric'" in missing
    assert "model my_model" in unsaid


def test_what_comes_later_is_undone_too(loader: PluginLoader, write: Write) -> None:
    """A hook that registers, a plain subscription and a blinker receiver: all are the plugin's."""
    before = residue()
    write(
        "a",
        """
        from bus import default_bus
        from frameworm.core import register_model
        from frameworm.events import EpochBegin
        from frameworm.plugins.hooks import HookRegistry

        def receive(sender, event): ...

        def later():
            register_model('later', object)
            HookRegistry.on('on_epoch_begin')(lambda: None)
            default_bus.subscribe(EpochBegin, print)
            default_bus.signal('epoch_end').connect(receive)

        def register(): ...
    """,
        "",
    )
    loader.load("a")
    sys.modules["frameworm_plugins.a"].later()
    assert loader.get("a").registered == (
        "model later",
        "hook on_epoch_begin",
        "hook on_epoch_begin",
        "blinker receiver",
    )
    loader.unload("a")
    assert residue() == before
    assert not default_bus.signal("epoch_end").receivers


def test_a_hundred_rounds_leave_nothing(loader: PluginLoader, write: Write) -> None:
    """Neither names nor hooks nor modules nor memory."""
    before = residue()
    write("my-plugin", DOCUMENT, "")
    kept = []
    for _ in range(50):
        loader.load("my-plugin")
        loader.reload("my-plugin")
        kept.append(weakref.ref(get_model("my_model")))
        loader.unload("my-plugin")
        assert residue() == before
    gc.collect()
    assert [reference for reference in kept if reference() is not None] == []


def test_a_loaded_plugin_whose_folder_is_gone_is_still_listed(loader: PluginLoader, write: Write) -> None:
    """It can be unloaded by its name."""
    path = write("my-plugin", DOCUMENT, "")
    loader.load("my-plugin")
    for file in path.rglob("*"):
        if file.is_file():
            file.unlink()
    for folder in sorted(path.rglob("*"), reverse=True):
        folder.rmdir()
    path.rmdir()
    assert "my-plugin" in {plugin.name for plugin in loader.list_plugins()}
    assert loader.unload("my-plugin") == ("my-plugin",)
    assert "my-plugin" not in {plugin.name for plugin in loader.list_plugins()}


def test_looking_imports_nothing(loader: PluginLoader, write: Write) -> None:
    """List, get and print read manifests only."""
    write("a", "raise AssertionError", "description: never run")
    assert loader.get("a").state == "available"
    assert "a" in {plugin.name for plugin in loader.list_plugins()}
    loader.print_plugins()
    assert "frameworm_plugins.a" not in sys.modules


def test_print_plugins(loader: PluginLoader, write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """A line each: what it brought, or why it did not come."""
    write("bad", "raise RuntimeError('oh')", "")
    write("good", DOCUMENT, "")
    loader.load_all(Selection())
    capsys.readouterr()
    loader.print_plugins()
    lines = [line.split(maxsplit=3) for line in capsys.readouterr().out.splitlines()]
    assert ["good", "0.0.0", "loaded", "model my_model, hook on_epoch_end"] in lines
    assert any(line[:3] == ["bad", "0.0.0", "failed"] and "oh" in line[3] for line in lines)
