"""Which lane a listener is served in, and what may be said of it besides: the same for hooks, callbacks and configs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import msgspec

from bus import Event, Recorded
from bus.subscription import is_async
from frameworm.core import ownership
from frameworm.errors import HookError, nearest

Dispatch = Literal["sync", "async", "process"]
Ranks = Literal["all", "zero"]

OPTIONS = ("dispatch", "priority", "ranks", "queue_size", "overflow", "timeout", "retries")
"""What a config may say of any callback beside the callback's own options."""


class ProcessHook(msgspec.Struct, frozen=True):
    """A hook function for the process lane: `target` is its import path; `event` is recorded every so many times."""

    name: str
    target: str
    event: str
    every: int = 1


process_hooks: list[ProcessHook] = []
"""Those that are registered in this process; the relay makes them anew from their import paths."""


def lane_of(
    name: str, asked: Dispatch | None, own: Dispatch | None, module: str | None, where: str | None = None
) -> Dispatch | None:
    """Return the lane: what was asked for, else what the plugin's manifest says, else what the listener says itself.

    `module` is where the code of the listener called `name` is. None means that its function decides. Raises
    `HookError`.
    """
    package = ownership.package_of(module)
    said = asked or (ownership.ledger(package).dispatch if package else None) or own
    choices = get_args(Dispatch)
    if said is not None and said not in choices:
        raise HookError(
            f"there is no such lane for {name}",
            where=where,
            expected=f"dispatch of {', '.join(choices)}",
            got=repr(said),
            hint=nearest(str(said), choices),
        )
    return said  # type: ignore[return-value]  # a ledger has what a manifest's check has let through


def add_process_hook(
    fn: Callable[..., Any], name: str, event_type: type[Event], *, every: int, options: Mapping[str, Any], where: str
) -> None:
    """Register a function for the process lane, which has no `options`.

    Raises `HookError` for one that another process cannot import, and for options that mean nothing there.
    """
    if options or (every != 1 and event_type.recorded is Recorded.ALWAYS):
        raise HookError(
            f"{name} cannot have such options in the process lane, which reads the run's record",
            where=where,
            expected="only every, where it says how often the event is recorded at least",
            got=", ".join(options) or f"every={every} for on_{event_type.name}, which is always recorded",
        )
    if is_async(fn):
        raise refused_coroutine(name, where)
    module, qualname = getattr(fn, "__module__", None), getattr(fn, "__qualname__", "<no name>")
    if module in (None, "__main__") or "<" in qualname:
        raise HookError(
            f"{name} cannot be served in the process lane: another process has to import it by its name",
            where=where,
            expected="a function of a module, or a callback that the config makes",
            got="a function inside of another" if "<locals>" in qualname else f"{module}:{qualname}",
            hint='move it out to the module, or dispatch="async"',
        )
    event = event_type.name
    hook = ProcessHook(name, f"{module}:{qualname}", event, every)
    process_hooks.append(hook)
    ledger = ownership.caller()
    if ledger is not None:
        ledger.enter(
            f"hook on_{event}",
            lambda: process_hooks.remove(hook) if hook in process_hooks else None,
            lambda: hook in process_hooks,
        )


def refused_coroutine(name: str, where: str | None) -> HookError:
    """Return the error about a coroutine function where there is no event loop to await it."""
    return HookError(
        f"{name} is a coroutine function, and there is no event loop in this lane",
        where=where,
        expected="a plain function",
        hint='dispatch="async"',
    )


def split(options: Mapping[str, Any], own: set[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a callback's own options, and those of its lane; a name that it has itself is its own."""
    lane = {name: value for name, value in options.items() if name in OPTIONS and name not in own}
    return {name: value for name, value in options.items() if name not in lane}, lane
