"""Factories are called with options that fit, or the error is about the option that does not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
from msgspec import Meta

from frameworm.core import create
from frameworm.errors import DataError, UserError

if TYPE_CHECKING:
    from collections.abc import Sized


def factory(
    first: object,
    width: Annotated[int, Meta(ge=1)],
    rate: float = 0.1,
    *,
    betas: tuple[float, ...] = (),
    mode: Literal["min", "max"] = "min",
    path: Path = Path(),
    anything: Any = None,
) -> dict[str, Any]:
    """Give back what was given."""
    return locals()


def test_options_reach_the_factory_as_its_annotations_say() -> None:
    """A list becomes the tuple, a whole number the float and a text the path that the signature asks for."""
    options = {"width": 3, "rate": 1, "betas": [1, 0.5], "path": "a/b", "anything": [1]}
    made = create("thing", "it", factory, options, "argument")
    assert made["first"] == "argument"
    assert made["betas"] == (1.0, 0.5)
    assert isinstance(made["rate"], float)
    assert made["path"] == Path("a/b")
    assert made["anything"] == [1]


def test_an_unknown_option_offers_the_nearest() -> None:
    """What the factory takes is listed, without what it gets anyway."""
    with pytest.raises(UserError) as caught:
        create("thing", "it", factory, {"widht": 3}, "argument", where="config.yaml:7")
    error = caught.value
    assert str(error).splitlines()[0] == "thing 'it' has no option 'widht'"
    assert (error.hint, error.where) == ("width", "config.yaml:7")
    assert error.expected == "one of width, rate, betas, mode, path, anything"


def test_an_argument_is_not_an_option() -> None:
    """An option cannot replace what the caller gives."""
    with pytest.raises(UserError, match="no option 'first'"):
        create("thing", "it", factory, {"width": 1, "first": 2}, "argument")


def test_a_missing_option_is_named() -> None:
    """A parameter without a default must be given."""
    with pytest.raises(UserError, match="thing 'it' needs the option 'width'"):
        create("thing", "it", factory, {}, "argument")


@pytest.mark.parametrize(
    ("option", "value", "expected", "got"),
    [
        ("width", 0, "a whole number, at least 1", "0"),
        ("width", True, "a whole number, at least 1", "true"),
        ("width", "wide", "a whole number, at least 1", "the text 'wide'"),
        ("rate", "fast", "a number", "the text 'fast'"),
        ("mode", "mean", "max or min", "the text 'mean'"),
        ("betas", ["a"], "a list, each item a number", "['a']"),
        ("path", 3, "Path, got int", "3"),
    ],
)
def test_a_wrong_value_names_its_option(option: str, value: object, expected: str, got: str) -> None:
    """The error says which option, what it takes and what it got."""
    with pytest.raises(UserError) as caught:
        create("thing", "it", factory, {"width": 3, option: value}, "argument")
    error = caught.value
    assert error.message == f"wrong value for the option {option!r} of thing 'it'"
    assert (error.expected, error.got) == (expected, got)


def test_a_factory_that_takes_any_option_gets_any() -> None:
    """`**options` switches the check of names off, not that of the named ones."""

    def lenient(width: int = 1, **options: object) -> tuple[int, dict[str, object]]:
        return width, options

    assert create("thing", "it", lenient, {"width": 2, "colour": "red"}) == (2, {"colour": "red"})
    with pytest.raises(UserError, match="'width'"):
        create("thing", "it", lenient, {"width": "x"})


def test_a_factory_without_a_signature_is_called_as_it_is() -> None:
    """Some built-in types do not tell what they take."""
    assert create("thing", "it", dict, {"a": 1}) == {"a": 1}


def test_annotations_for_type_checkers_are_not_checked() -> None:
    """A name that exists for the type checker only does no harm; option names are checked all the same."""

    def guarded(thing: Sized = ()) -> Sized:
        return thing

    assert create("thing", "it", guarded, {"thing": [1]}) == [1]
    with pytest.raises(UserError, match="no option 'thin'"):
        create("thing", "it", guarded, {"thin": 1})


def test_what_a_partial_has_fixed_is_not_missing() -> None:
    """A partial is a factory with fewer required options."""
    assert create("thing", "it", partial(factory, width=5), {}, "argument")["width"] == 5


@pytest.mark.parametrize("error", [TypeError("unsupported"), ValueError("negative rate")])
def test_a_factorys_refusal_of_the_values_is_the_cause(error: Exception) -> None:
    """The error shows the options, without secrets, and keeps the traceback."""

    def picky(**_options: object) -> None:
        raise error

    with pytest.raises(UserError) as caught:
        create("thing", "it", picky, {"rate": -1, "password": "hunter2"}, where="config.yaml:7")
    assert caught.value.__cause__ is error
    assert caught.value.message == f"thing 'it' cannot be made: {error}"
    assert caught.value.got == "rate: -1, password: ***"


def test_an_error_without_options_is_the_factorys_own() -> None:
    """Nobody wrote anything wrong, so it is no UserError."""

    def broken() -> None:
        raise TypeError("a bug")

    with pytest.raises(TypeError, match="a bug"):
        create("thing", "it", broken, {})


def test_an_error_of_ours_learns_its_place() -> None:
    """A UserError out of a factory passes; where it has no place, it gets the options'."""

    def failing(where: str | None) -> Callable[..., None]:
        def make() -> None:
            raise DataError("wrong", where=where)

        return make

    with pytest.raises(DataError) as caught:
        create("thing", "it", failing(None), {}, where="config.yaml:7")
    assert caught.value.where == "config.yaml:7"
    with pytest.raises(DataError) as caught:
        create("thing", "it", failing("data.csv:3"), {}, where="config.yaml:7")
    assert caught.value.where == "data.csv:3"


def test_secrets_are_not_shown() -> None:
    """A wrong value under a key that looks like a secret is not repeated."""

    def login(password: int = 0) -> int:
        return password

    with pytest.raises(UserError) as caught:
        create("thing", "it", login, {"password": "hunter2"})
    assert "hunter2" not in str(caught.value)
