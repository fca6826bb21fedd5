"""The plugin loads, does its work in a run, and leaves nothing behind."""

from pathlib import Path

from frameworm.testing import assert_unloads_cleanly, isolated_plugins, tiny_trainer

import frameworm_my_plugin

FOLDER = Path(frameworm_my_plugin.__file__).parent


def test_it_loads_and_unloads():
    """What it registers is what its metadata announce."""
    plugin = assert_unloads_cleanly(FOLDER)
    assert plugin.registered == ("model my_plugin",)
    assert plugin.warnings == ()


def test_it_works_in_a_run():
    """A run of one epoch, on little data."""
    with isolated_plugins() as plugins:
        plugins.load(FOLDER)
        result = tiny_trainer(
            model="my_plugin",
        ).fit()
    assert result.status == "finished"
