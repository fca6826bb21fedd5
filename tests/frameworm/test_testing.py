"""The tools for plugins' own tests: what they keep apart, what they remember, and what they do not let pass."""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import dedent

import pytest

from bus import EventBus, default_bus
from frameworm.core import get_model, registries
from frameworm.plugins.hooks import CallbackHook, HookRegistry
from frameworm.plugins.loader import get_plugin_loader, load_plugins
from frameworm.testing import RecordingBus, assert_unloads_cleanly, isolated_plugins, tiny_trainer

CODE = """
    from frameworm.core import register_model
    from frameworm.plugins.hooks import HookRegistry

    def register():
        register_model("apart", dict)

        @HookRegistry.on("on_epoch_end")
        def hook(trainer): ...
"""


class Ends(CallbackHook):
    """Hears the end of trainings."""

    def on_train_end(self) -> None:
        """Do nothing."""


def elsewhere(step: int) -> None:
    """Can be imported in another process."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A plugin's folder in a project."""
    path = tmp_path / "frameworm_plugins" / "apart"
    path.mkdir(parents=True)
    (path / "__init__.py").write_text(dedent(CODE), encoding="utf-8")
    return path


def test_plugins_are_apart(folder: Path, tmp_path: Path) -> None:
    """What was loaded before is not there inside, what is loaded inside is not there afterwards."""
    path = list(sys.path)
    outer = get_plugin_loader()
    outer.load("epoch-report")
    callback, module = registries["callback"].entry("epoch_report"), sys.modules["frameworm_plugins.epoch_report"]
    heard: list[str] = []
    HookRegistry.on("on_epoch_end")(lambda: heard.append("outer"))
    (subscription,) = default_bus.subscriptions()
    with isolated_plugins(tmp_path) as plugins:
        assert get_plugin_loader() is plugins
        assert "epoch_report" not in registries["callback"].names()
        assert load_plugins(["apart"])
        assert plugins.get("apart").state == "loaded"
        tiny_trainer().fit()
        assert get_model("apart") is dict
        assert plugins.load("epoch-report").state == "loaded"
        assert sys.modules["frameworm_plugins.epoch_report"] is not module
    assert heard == []
    assert "apart" not in registries["model"].names()
    assert registries["callback"].entry("epoch_report") is callback
    assert sys.modules["frameworm_plugins.epoch_report"] is module
    assert get_plugin_loader() is outer
    assert sys.path == path
    assert (default_bus.subscriptions(), subscription.state) == ([subscription], "active")
    subscription.cancel()


def test_hooks_from_outside_are_not_listed(tmp_path: Path) -> None:
    """Neither those of all trainers nor of one that is still about; what comes and goes inside does not take them."""
    other = EventBus(default_bus)
    HookRegistry.on("on_batch_end", dispatch="process")(elsewhere)
    with Ends().register(), Ends().register(other):
        outside = HookRegistry.list_hooks()
        assert len(outside["on_train_end"]) == 2
        with isolated_plugins(tmp_path):
            assert HookRegistry.list_hooks() == {}
            with HookRegistry.disable(), Ends().register():
                assert set(HookRegistry.list_hooks()) == {"on_train_end"}
        assert HookRegistry.list_hooks() == outside


def test_a_test_that_fails_inside_leaves_nothing_either(folder: Path, tmp_path: Path) -> None:
    """The error goes on its way."""

    def fail() -> None:
        with isolated_plugins(tmp_path) as plugins:
            plugins.load(folder)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert "apart" not in registries["model"].names()
    assert default_bus.subscriptions() == []


def test_a_clean_plugin_is_told_as_it_was(folder: Path) -> None:
    """With what it had registered."""
    assert assert_unloads_cleanly(folder).registered == ("model apart", "hook on_epoch_end")
    assert "frameworm_plugins.apart" not in sys.modules


def test_what_is_left_behind_is_named(folder: Path) -> None:
    """Here a registration that is kept from the ledger."""
    (folder / "__init__.py").write_text(
        "import frameworm.core as core\n"
        "from frameworm.core.registry import Entry\n"
        "def register(): core.registries['model']._add('left', Entry(dict, 'me', 'here:1', 1), override=False)\n",
        encoding="utf-8",
    )
    with pytest.raises(AssertionError, match="'apart' leaves behind: model left"):
        assert_unloads_cleanly(folder)
    assert "left" not in registries["model"].names()


def test_a_tiny_trainer_trains() -> None:
    """By default a model on synthetic data; names and options as in a config."""
    with RecordingBus() as bus:
        result = tiny_trainer(metrics=["mae"], callbacks=["early_stopping"], epochs=2, bus=bus, accumulate=2).fit()
        assert result.status == "finished"
        assert "val_mae" in result.metrics
        assert bus.names()[0] == "train_begin"
        assert bus.names()[-1] == "train_end"
        assert bus.names().count("optimizer_step") == 4
        assert [event.name for event in bus.events] == bus.names()
