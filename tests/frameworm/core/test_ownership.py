"""Ownership: which plugin's code is calling, and what its ledger holds."""

from __future__ import annotations

import threading
from functools import partial
from types import ModuleType
from typing import Any

import pytest

from frameworm.core import ownership
from frameworm.core.ownership import Ledger, caller, label_of, package_of


def in_module(name: str, code: str) -> ModuleType:
    """Return a module of that name, which is not imported by it, with what `code` defines."""
    module = ModuleType(name)
    module.__dict__["caller"] = caller
    exec(code, module.__dict__)
    return module


@pytest.mark.parametrize(
    ("module", "package"),
    [
        ("frameworm_plugins.my-plugin", "frameworm_plugins.my-plugin"),
        ("frameworm_plugins.my-plugin.deep.down", "frameworm_plugins.my-plugin"),
        ("frameworm_my_plugin", "frameworm_my_plugin"),
        ("frameworm_my_plugin.models", "frameworm_my_plugin"),
        ("frameworm_plugins", None),
        ("frameworm", None),
        ("frameworm.models.cnn", None),
        ("torch.nn", None),
        ("__main__", None),
        (None, None),
    ],
)
def test_a_module_belongs_to_the_plugin_it_is_in(module: Any, package: str | None) -> None:
    """The project's folders and packages named frameworm_* are plugins; everything else is nobody's."""
    assert package_of(module) == package


def test_a_package_of_any_name_is_a_plugin_once_it_has_a_ledger() -> None:
    """An entry point may lead to a package that is named otherwise."""
    assert package_of("colourful.models") is None
    ledger = ownership.ledger("colourful")
    try:
        assert package_of("colourful.models") == "colourful"
        assert ownership.ledger("colourful") is ledger
    finally:
        del ownership._ledgers["colourful"]


def test_labels_are_the_names_that_people_use() -> None:
    """A folder's name, and a package's without its prefix, with dashes."""
    assert label_of("frameworm_plugins.epoch_report") == "epoch-report"
    assert label_of("frameworm_my_plugin") == "my-plugin"


def test_the_innermost_plugin_is_the_caller() -> None:
    """A plugin that calls another is not asked for what that one registers; without any, nobody is."""
    inner = in_module("frameworm_plugins.inner", "def call(): return caller()")
    outer = in_module("frameworm_plugins.outer", "def call(fn): return fn()")
    assert caller() is None
    assert inner.call() is ownership.ledger("frameworm_plugins.inner")
    assert outer.call(inner.call) is ownership.ledger("frameworm_plugins.inner")
    assert outer.call(caller) is ownership.ledger("frameworm_plugins.outer")


def test_whoever_is_run_for_a_plugin_is_on_its_account() -> None:
    """`Ledger.run` counts code that is in no plugin to the one that it runs for, nested loads apart."""
    one, other = Ledger("frameworm_plugins.one"), Ledger("frameworm_plugins.other")
    assert one.run(caller) is one
    assert one.run(lambda: other.run(caller)) is other


def test_a_thread_of_a_plugin_is_the_plugin() -> None:
    """What runs later, on another thread, is attributed by its own code."""
    plugin = in_module("frameworm_plugins.threaded", "found = []\ndef work(): found.append(caller())")
    thread = threading.Thread(target=plugin.work)
    thread.start()
    thread.join()
    assert plugin.found == [ownership.ledger("frameworm_plugins.threaded")]


def test_a_ledger_is_undone_newest_first() -> None:
    """What came last goes first, and twice is once."""
    ledger = Ledger("frameworm_plugins.any")
    there = ["a", "b", "c"]
    gone: list[str] = []
    for name in there:
        ledger.enter(name, partial(gone.append, name), lambda: True)
    assert [entry.what for entry in ledger.entries()] == there
    ledger.undo()
    ledger.undo()
    assert gone == ["c", "b", "a"]
    assert ledger.entries() == []


def test_a_ledger_forgets_what_others_took_back() -> None:
    """An entry that does not count any more is neither listed nor undone."""
    ledger = Ledger("frameworm_plugins.any")
    there = {"a", "b"}
    gone: list[str] = []
    for name in sorted(there):
        ledger.enter(name, partial(gone.append, name), partial(there.__contains__, name))
    there.remove("a")
    assert [str(entry) for entry in ledger.entries()] == ["b"]
    ledger.enter("c", lambda: gone.append("c"), lambda: True)
    ledger.undo()
    assert gone == ["c", "b"]
