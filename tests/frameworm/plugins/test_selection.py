"""What is loaded, by whose word: the command before the environment before the config before the memory."""

from __future__ import annotations

import pytest

from frameworm.config import PluginsConfig
from frameworm.plugins.selection import Selection, select

CONFIG = PluginsConfig(disable=("loud", "My_Other"), options={"my_plugin": {"size": 3}, "loud": {}})


def test_by_default_everything_is_loaded() -> None:
    """Nothing is required, nothing is left out."""
    selection = select(environ={})
    assert selection == Selection()
    assert selection.wants("anything")


def test_what_was_disabled_by_hand_stays_so_until_it_is_named() -> None:
    """The memory leaves out, a config or a command that names a plugin wins over it."""
    assert not select(remembered=["old", "my-plugin"], environ={}).wants("old")
    assert select(CONFIG, remembered=["my-plugin"], environ={}).wants("my-plugin")
    assert select(named=["old"], remembered=["old"], environ={}).wants("old")


def test_the_config_disables_requires_and_gives_options() -> None:
    """A plugin that it names must be there, unless it is disabled in the same breath."""
    selection = select(CONFIG, environ={})
    assert selection.required == ("my-plugin",)
    assert selection.disabled == {"loud", "my-other"}
    assert selection.options["my-plugin"] == {"size": 3}
    assert [key for key in ("loud", "my-other", "my-plugin", "else") if selection.wants(key)] == ["my-plugin", "else"]


@pytest.mark.parametrize(("value", "required"), [("a, B_c,a", ("a", "b-c")), ("", ()), (" , ", ())])
def test_the_variable_is_the_whole_list(value: str, required: tuple[str, ...]) -> None:
    """Empty it means none; what the config says of a listed plugin's options holds."""
    selection = select(CONFIG, environ={"FRAMEWORM_PLUGINS": value})
    assert (selection.required, selection.others) == (required, False)
    assert not selection.wants("else")
    assert selection.options["my-plugin"] == {"size": 3}


def test_a_command_adds_to_whatever_else_is_loaded() -> None:
    """`--plugin` requires one more; with `--no-plugins` there is nothing else, whatever the variable says."""
    assert select(named=["x"], environ={"FRAMEWORM_PLUGINS": "a"}).required == ("x", "a")
    assert select(CONFIG, named=["x"], environ={}).required == ("x", "my-plugin")
    alone = select(CONFIG, named=["X"], none=True, environ={"FRAMEWORM_PLUGINS": "a"})
    assert (alone.required, alone.others) == (("x",), False)
    assert select(CONFIG, none=True, environ={}).required == ()
