"""The listeners that a config names, each in its lane: registered on the trainer's bus, or described for the relay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from bus import EventBus, Recorded, event_types
from frameworm.config import Config, Named, conceal
from frameworm.core import create, get_callback, options_of
from frameworm.delivery.listener import ProcessListener, RelayPlan
from frameworm.delivery.receiver import receiver_for
from frameworm.errors import FramewormError, UserError
from frameworm.plugins.hooks import CallbackHook
from frameworm.plugins.lanes import process_hooks, split
from frameworm.plugins.selection import Selection


def register_callbacks(config: Config, bus: EventBus) -> tuple[ProcessListener, ...]:
    """Make the config's callbacks and register them on `bus`; return those of the process lane, and all hooks there.

    Raises `UserError` for one that cannot be made, or cannot listen where it is asked to.
    """
    made: list[ProcessListener] = []
    for index, callback in enumerate(config.callbacks):
        where = config.where(f"callbacks.{index}")
        written = config.stored["callbacks"][index][callback.name]
        listener = _register(callback, written, bus, where)
        if listener is not None:
            made.append(listener)
    hooks = [
        ProcessListener(hook.name, hook.target, event=hook.event, every={hook.event: hook.every})
        for hook in process_hooks
    ]
    return _apart([*made, *hooks])


def conceal_options(listeners: Sequence[ProcessListener], plugins: Selection) -> tuple[RelayPlan, dict[str, str]]:
    """Return listeners and plugins whose secrets are references to the environment, and the variables for that."""
    written = {
        "listeners": {listener.name: listener.options for listener in listeners},
        "plugins": {name: dict(options) for name, options in plugins.options.items()},
    }
    concealed, secrets = conceal(written)
    made = tuple(
        msgspec.structs.replace(listener, options=concealed["listeners"][listener.name]) for listener in listeners
    )
    return RelayPlan(made, msgspec.structs.replace(plugins, options=concealed["plugins"])), secrets


def _register(callback: Named, written: Mapping[str, Any], bus: EventBus, where: str) -> ProcessListener | None:
    """Register a callback, or return how the relay makes it: with its options as they were written."""
    factory = get_callback(callback.name, where=where)
    taken = options_of(factory)
    own, said = split(callback.options, taken)
    made = create("callback", callback.name, factory, own, where=where)
    try:
        if isinstance(made, CallbackHook):
            if made.lane(said.get("dispatch")) == "process":
                return _described(callback.name, made, split(written, taken)[0], said)
            made.register(bus, **{"ranks": "zero", **said})  # of several processes the first: one account of the run
            return None
    except FramewormError as error:
        error.where = error.where or where
        raise
    except ValueError as error:  # the bus knows no places in configs
        raise UserError(f"callback {callback.name!r} cannot listen: {error}", where=where) from error
    if not callable(getattr(made, "register", None)):
        raise UserError(
            f"callback {callback.name!r} cannot listen",
            expected="an object with register(bus), such as a CallbackHook",
            got=type(made).__name__,
            where=where,
        )
    if said:
        raise UserError(
            f"callback {callback.name!r} takes no {next(iter(said))!r}",
            expected="such options for a CallbackHook",
            got=type(made).__name__,
            where=where,
        )
    made.register(bus)
    return None


def _described(name: str, made: CallbackHook, options: dict[str, Any], said: Mapping[str, Any]) -> ProcessListener:
    """Return what the relay makes the callback from; raises `HookError` for hooks that it cannot call."""
    refused = sorted(set(said) - {"dispatch", "timeout"})
    if refused:
        raise UserError(
            f"{refused[0]!r} means nothing in the process lane, which reads the run's record",
            expected="of options for all callbacks only dispatch and timeout",
            got=refused[0],
        )
    listener = ProcessListener(name, name, options)
    timeout = said.get("timeout", listener.timeout)
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0:
        raise UserError(
            f"wrong value for the timeout of callback {name!r}",
            expected="a number of seconds, above 0",
            got=repr(timeout),
        )
    types = event_types()
    wanted = receiver_for(made, listener).names
    every = {event: 1 for event in sorted(wanted) if types[event].recorded is Recorded.ON_DEMAND}
    return msgspec.structs.replace(listener, every=every, timeout=float(timeout))


def _apart(listeners: Iterable[ProcessListener]) -> tuple[ProcessListener, ...]:
    """Give listeners of one name different ones: `mlflow`, `mlflow#2`."""
    found: dict[str, ProcessListener] = {}
    for listener in listeners:
        name, number = listener.name, 1
        while name in found:
            number += 1
            name = f"{listener.name}#{number}"
        found[name] = msgspec.structs.replace(listener, name=name)
    return tuple(found.values())
