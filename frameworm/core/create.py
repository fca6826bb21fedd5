"""Calls factories with options that people wrote, so that a wrong option is an error about that option."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from inspect import Parameter
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from frameworm.config import redact
from frameworm.config.expectations import expectation, show
from frameworm.errors import FramewormError, UserError, nearest

T = TypeVar("T")


def create(
    kind: str,
    name: str,
    factory: Callable[..., T],
    options: Mapping[str, Any],
    *args: Any,
    where: str | None = None,
) -> T:
    """`factory(*args, **options)`, after the options were compared with the factory's signature.

    A UserError says which option is unknown, missing, or not of the annotated type. Annotations that describe plain
    data count, with the limits they carry (`Annotated[int, msgspec.Meta(ge=1)]`); others are left to the factory. If
    the factory refuses the values with a TypeError or ValueError of its own, that error is the UserError's cause.
    `where` is where the options were written; an error of ours out of the factory that names no place gets it, too.
    """
    taken = _parameters(factory, len(args))
    values = options if taken is None else _checked(f"{kind} {name!r}", taken, options, where)
    try:
        return factory(*args, **values)
    except FramewormError as error:
        error.where = error.where or where
        raise
    except (TypeError, ValueError) as error:
        if not options:  # nothing that a person wrote can be the reason
            raise
        got = ", ".join(f"{option}: {value}" for option, value in redact(options).items())
        raise UserError(f"{kind} {name!r} cannot be made: {error}", got=got, where=where) from error


def options_of(factory: Callable[..., Any]) -> set[str]:
    """Return the names of the options that a factory takes by name."""
    return {
        parameter.name for parameter in _parameters(factory, 0) or () if parameter.kind is not parameter.VAR_KEYWORD
    }


def _parameters(factory: Callable[..., Any], positional: int) -> list[Parameter] | None:
    """The parameters of `factory` that remain for options, or None when it does not tell."""
    for eval_str in (True, False):  # annotations may be for type checkers only
        with suppress(Exception):
            parameters = inspect.signature(factory, eval_str=eval_str).parameters.values()
            filled = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][:positional]
            return [p for p in parameters if p.name not in filled and p.kind is not Parameter.VAR_POSITIONAL]
    return None


def _checked(what: str, parameters: list[Parameter], options: Mapping[str, Any], where: str | None) -> dict[str, Any]:
    takes = {p.name: p for p in parameters if p.kind is not Parameter.VAR_KEYWORD}
    takes_any = len(takes) < len(parameters)
    for option in options:
        if option not in takes and not takes_any:
            expected = f"one of {', '.join(takes)}" if takes else "no options"
            hint = nearest(option, takes)
            raise UserError(f"{what} has no option {option!r}", expected=expected, where=where, hint=hint)
    for option, parameter in takes.items():
        if parameter.default is Parameter.empty and option not in options:
            raise UserError(f"{what} needs the option {option!r}", where=where, hint=f"{option}: ...")
    return {
        option: _converted(what, takes[option], value, where) if option in takes else value
        for option, value in options.items()
    }


def _converted(what: str, parameter: Parameter, value: Any, where: str | None) -> Any:
    if parameter.annotation is Parameter.empty or isinstance(parameter.annotation, str):
        return value
    try:
        return msgspec.convert(value, parameter.annotation, dec_hook=_from_text)
    except TypeError:  # not an annotation of plain data
        return value
    except msgspec.ValidationError as error:
        message = f"wrong value for the option {parameter.name!r} of {what}"
        shown = redact({parameter.name: value})[parameter.name]
        got = repr(shown) if isinstance(shown, list) else show(shown)
        raise UserError(message, expected=_expected(parameter.annotation, error), got=got, where=where) from error


def _expected(annotation: Any, error: msgspec.ValidationError) -> str:
    try:
        return expectation(annotation)
    except KeyError:  # a type that the config itself has no words for
        return str(error).removeprefix("Expected ").replace("`", "")


def _from_text(type_: type, value: Any) -> Any:
    return Path(value) if type_ is Path and isinstance(value, str) else value
