"""How a hook gets its arguments: decided once, when it is registered, from its signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, cast

import frameworm.events  # noqa: F401  the hooks are named after what it defines
from bus import Event, event_types, record_fields
from bus.subscription import code_of, is_async, name_of
from frameworm.errors import HookError, nearest

PREFIX = "on_"


def hook_names() -> dict[str, type[Event]]:
    """Return the event type of every hook name (`on_` and the event's name)."""
    return {PREFIX + name: event_type for name, event_type in event_types().items()}


def event_of(hook: str, where: str | None = None) -> type[Event]:
    """Return the event type that a hook name stands for; raises `HookError` with the nearest name."""
    known = hook_names()
    if hook not in known:
        close = nearest(hook, known) or nearest(f"{PREFIX}{hook}", known)
        raise HookError(
            f"unknown hook {hook!r}", where=where, expected=f"one of {', '.join(sorted(known))}", hint=close
        )
    return known[hook]


def bind(fn: Callable[..., Any], event_type: type[Event], *, here: bool = True) -> Callable[[Any], object]:
    """Return a function of one event that calls `fn` with the arguments which its parameters ask for.

    Of a coroutine function that is one, too. Unless the hook is called `here`, on the publishing thread, arguments that
    exist only there are not to be had: a parameter with a default is left to it.

    A parameter that has the name of one of the event's arguments gets that one, also when it has a default. Another
    required parameter gets the argument at its position. A hook may have fewer parameters than there are arguments.

    Raises `HookError` for a required parameter that nothing can fill, with the file and line of the hook.
    """
    try:
        signature = inspect.signature(fn)
    except ValueError:  # a builtin without a signature takes what there is
        return _caller(fn, list(_fields(event_type).values()), {})
    return _caller(fn, *arguments_for(signature, event_type, name_of(fn), place_of(fn), here=here))


def arguments_for(
    signature: inspect.Signature, event_type: type[Event], name: str, where: str, *, here: bool = True
) -> tuple[list[str], dict[str, str]]:
    """Return which fields of the event a hook with that signature gets, in their order and by its parameters' names.

    `here` is as in `bind`. Raises `HookError` about the hook called `name`, which is defined at `where`.
    """
    fields = _fields(event_type)
    absent = () if here else live_arguments(event_type)
    parameters = list(signature.parameters.values())
    taken = {parameter.name for parameter in parameters} & fields.keys()
    positional: list[str] = []
    named: dict[str, str] = {}
    for index, parameter in enumerate(parameters):
        in_line = len(positional) == index  # nothing before it was left to its default
        if parameter.kind is parameter.VAR_POSITIONAL:
            if in_line:
                positional += [fields[argument] for argument in list(fields)[index:] if argument not in taken]
        elif parameter.kind is parameter.VAR_KEYWORD:
            used = {*positional, *named.values(), *(fields[argument] for argument in absent)}
            named |= {argument: field for argument, field in fields.items() if field not in used}
        else:
            argument = _argument_for(parameter, index, list(fields), taken)
            if argument in absent:
                if parameter.default is parameter.empty:
                    raise _absent(name, where, event_type, parameter)
                argument = None
            if argument is None and parameter.default is parameter.empty:
                raise _unfillable(name, where, signature, event_type, parameter)
            if argument is not None and parameter.kind is not parameter.KEYWORD_ONLY and in_line:
                positional.append(fields[argument])
            elif argument is not None and parameter.kind is not parameter.POSITIONAL_ONLY:
                named[parameter.name] = fields[argument]
    return positional, named


def live_arguments(event_type: type[Event]) -> tuple[str, ...]:
    """Return the hook's arguments that exist on the publishing thread only; of the trainer its facts are everywhere."""
    kept = {"source", *(field.name for field in record_fields(event_type))}
    return tuple(argument for argument, field in _fields(event_type).items() if field not in kept)


def _fields(event_type: type[Event]) -> dict[str, str]:
    """Return the field of an event that each of its hook's arguments is, in the document's order."""
    return {argument: event_type.aliases.get(argument, argument) for argument in event_type.arguments}


def _argument_for(parameter: inspect.Parameter, index: int, arguments: list[str], taken: set[str]) -> str | None:
    if parameter.name in arguments:
        return parameter.name
    if parameter.default is not parameter.empty or parameter.kind is parameter.KEYWORD_ONLY:
        return None
    by_position = arguments[index] if index < len(arguments) else None
    return None if by_position in taken else by_position


def _caller(fn: Callable[..., Any], positional: list[str], named: dict[str, str]) -> Callable[[Any], object]:
    """Return `lambda event: fn(event.<field>, ..., <name>=event.<field>, ...)`, or the same as a coroutine function.

    It is compiled from text, as `namedtuple` is: hooks run in every training step, whose own work leaves the caches
    cold, and there what is not called costs least. The words are identifiers, of an event type and of parameters.
    """
    arguments = [f"event.{field}" for field in positional] + [f"{name}=event.{field}" for name, field in named.items()]
    call: Any = eval(f"lambda event: fn({', '.join(arguments)})", {"fn": fn})  # noqa: S307  see above
    if is_async(fn):
        call = _awaiting(call)
    call.__wrapped__ = fn  # as functools.wraps does: names and places are the hook's own
    return cast("Callable[[Any], object]", call)


def _awaiting(call: Callable[[Any], Any]) -> Callable[[Any], object]:
    async def awaited(event: Any) -> None:
        await call(event)

    return awaited


def place_of(fn: Callable[..., Any]) -> str:
    """Return `file:line` of where a hook is defined, or what is known of it."""
    code = code_of(fn)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(fn)


def _absent(name: str, where: str, event_type: type[Event], parameter: inspect.Parameter) -> HookError:
    return HookError(
        f"{name} cannot be called off the publishing thread: its parameter {parameter.name!r} exists only there",
        where=where,
        expected=f"of {PREFIX}{event_type.name} at most {_listed(event_type)}",
        hint=f'dispatch="sync", or a default for {parameter.name!r}',
    )


def _listed(event_type: type[Event]) -> str:
    left = [argument for argument in event_type.arguments if argument not in live_arguments(event_type)]
    return f"({', '.join(left)})"


def _unfillable(
    name: str, where: str, signature: inspect.Signature, event_type: type[Event], parameter: inspect.Parameter
) -> HookError:
    return HookError(
        f"{name} cannot be called as {PREFIX}{event_type.name}: nothing fills its parameter {parameter.name!r}",
        where=where,
        expected=f"({', '.join(event_type.arguments)}) or fewer",
        got=str(signature),
        hint=f"give {parameter.name!r} a default, or leave it out",
    )
