"""Registries: names, owners, conflicts, and what is imported when."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from frameworm.core import Registry, get_model, register_model, registries
from frameworm.core.builtins import BUILTINS
from frameworm.core.registry import load
from frameworm.errors import DuplicateNameError, UnknownNameError, UserError


class Thing:
    """Something to register."""


class Other:
    """Something else to register."""


@pytest.fixture
def registry() -> Registry:
    """A registry with one name that ships."""
    return Registry("thing", {"ordered": "collections:OrderedDict"})


def test_register_in_both_forms_returns_the_object(registry: Registry) -> None:
    """Direct and decorator form are one function; both give back the very object, its type known to mypy."""
    direct: type[Thing] = registry.register("direct", Thing)

    @registry.register("decorated")
    def decorated(size: int) -> list[Thing]:
        return [Thing()] * size

    function: Callable[[int], list[Thing]] = decorated
    assert direct is Thing
    assert registry.get("direct") is Thing
    assert registry.get("decorated") is function
    assert registry.names() == ("decorated", "direct", "ordered")


def test_the_documents_functions_are_the_registries() -> None:
    """`register_model` and `get_model` work on the registry of models."""

    @register_model("test_model")
    class Model:
        """A model without anything."""

    try:
        assert get_model("test_model") is Model
        assert registries["model"].entry("test_model").obj is Model
    finally:
        registries["model"].unregister("test_model")
    assert "test_model" not in registries["model"].names()


def test_an_entry_says_who_registered_it_and_where(registry: Registry) -> None:
    """The owner is the module that called, the place its file and line."""
    registry.register("thing", Thing)
    line = sys._getframe().f_lineno - 1
    entry = registry.entry("thing")
    assert (entry.obj, entry.owner, entry.place) == (Thing, __name__, f"{__file__}:{line}")


def test_a_second_owner_is_refused_and_both_are_named(registry: Registry) -> None:
    """Two definitions of one name: the error has both modules and both places, and the first stays."""
    registry.register("thing", Thing)
    with pytest.raises(DuplicateNameError) as caught:
        registry.register("thing", Other)
    error = caught.value
    assert error.first.startswith(f"{__name__} ({__file__}:")
    assert error.second.startswith(f"{__name__} ({__file__}:")
    assert error.first != error.second
    assert registry.get("thing") is Thing


def test_a_name_that_ships_is_taken(registry: Registry) -> None:
    """A built-in has an owner, too."""
    with pytest.raises(DuplicateNameError) as caught:
        registry.register("ordered", Thing)
    assert caught.value.first == "frameworm (collections:OrderedDict)"


def test_overrides_are_undone_in_layers(registry: Registry) -> None:
    """`unregister` brings back what was overridden, down to the built-in, which stays."""
    shipped = registry.get("ordered")
    registry.register("ordered", Thing, override=True)
    registry.register("ordered", Other, override=True)
    assert registry.get("ordered") is Other
    registry.unregister("ordered")
    assert registry.get("ordered") is Thing
    registry.unregister("ordered")
    assert registry.get("ordered") is shipped
    with pytest.raises(UnknownNameError):
        registry.unregister("ordered")


def _import_as(name: str, file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[name]
    return module


def test_one_file_reached_by_two_paths_is_no_conflict(tmp_path: Path) -> None:
    """The same definition, imported twice under two names and through a link, replaces itself."""
    file = tmp_path / "plugin.py"
    file.write_text(
        "from frameworm.core import registries\n@registries['model'].register('test_twice')\nclass Model:\n    pass\n"
    )
    link = tmp_path / "link.py"
    link.symlink_to(file)
    _import_as("first_path", file)
    second = _import_as("second_path", link)
    try:
        assert get_model("test_twice") is second.Model
    finally:
        registries["model"].unregister("test_twice")
    assert "test_twice" not in registries["model"].names()


def test_lambdas_are_not_mistaken_for_each_other(registry: Registry) -> None:
    """Only the very same object is the same lambda."""
    first = registry.register("thing", lambda: 1)
    registry.register("thing", first)
    with pytest.raises(DuplicateNameError):
        registry.register("thing", lambda: 2)


def test_a_callable_object_can_be_registered(registry: Registry) -> None:
    """An instance with `__call__` has no name of its own, and needs none."""

    class Metric:
        def __call__(self) -> float:
            return 1.0

    metric = registry.register("metric", Metric())
    assert registry.get("metric") is metric
    registry.register("metric", metric)
    with pytest.raises(DuplicateNameError):
        registry.register("metric", Metric())


def test_an_unknown_name_offers_the_nearest(registry: Registry) -> None:
    """The error lists what is known, says what is near, and where the name was written."""
    registry.register("transformer", Thing)
    with pytest.raises(UnknownNameError) as caught:
        registry.get("transfomer", where="config.yaml:3")
    assert caught.value.known == ("ordered", "transformer")
    assert caught.value.nearest == "transformer"
    assert caught.value.where == "config.yaml:3"


def test_a_decorator_without_parentheses_says_what_to_write(registry: Registry) -> None:
    """`@register_thing` alone would give the class as the name."""
    register: Callable[..., Any] = registry.register
    with pytest.raises(UserError, match=r'@register_thing\("a_name"\)'):
        register(Thing)


def test_only_what_can_be_called_is_registered(registry: Registry) -> None:
    """A value that is neither class nor function is refused, with the place."""
    register: Callable[..., Any] = registry.register
    with pytest.raises(UserError, match=r"thing 'thing' cannot be called(.|\n)*test_registry\.py"):
        register("thing", 3)


def test_an_import_path_is_a_name_in_every_registry(registry: Registry) -> None:
    """What is not registered can be named by module and attribute."""
    assert registry.get("pathlib:Path") is Path


@pytest.mark.parametrize(
    ("path", "message"),
    [("no_such_module:Thing", "no_such_module"), ("pathlib:Paht", "try: *Path"), ("pathlib:", "has no ''")],
)
def test_a_wrong_import_path_says_which_half(path: str, message: str) -> None:
    """Neither a missing module nor a missing attribute ends in a traceback."""
    with pytest.raises(UserError, match=message):
        load(path, where="callbacks.0")


@pytest.mark.parametrize("kind", BUILTINS)
def test_everything_that_ships_is_there(kind: str) -> None:
    """Every entry of the table can be imported."""
    for name in BUILTINS[kind]:
        assert callable(registries[kind].get(name))


def test_the_registries_do_not_import_torch() -> None:
    """Importing core, listing its names and registering a model leave torch and numpy alone."""
    code = (
        "import sys; from frameworm.core import register_model, registries; register_model('m', object)\n"
        "assert 'cnn' in registries['model'].names()\n"
        "assert not {'torch', 'numpy'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
