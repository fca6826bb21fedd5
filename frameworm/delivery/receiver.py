"""A listener of the process lane come to life: from its plain description to what takes typed events."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

from bus import Event, event_types
from bus.subscription import is_async
from frameworm import config
from frameworm.core import create, get_callback
from frameworm.core.registry import load
from frameworm.delivery.listener import ProcessListener
from frameworm.errors import UnknownNameError, UserError
from frameworm.plugins.binding import PREFIX, bind, event_of, place_of
from frameworm.plugins.lanes import refused_coroutine


class Receiver:
    """Takes events of some names, in lists where it is `batched`, else one at a time; may have a small state."""

    def __init__(
        self, calls: Mapping[str, Callable[[Any], object]], batches: Callable[[Any], object] | None, obj: Any
    ) -> None:
        self.names = frozenset(calls)
        """The names of the events that it wants."""
        self.batched = batches is not None
        self._calls = calls
        self._batches = batches
        self._obj = obj

    def deliver(self, events: list[Event]) -> None:
        """Hand over events, of which there is one unless it is batched; raises what the listener raises."""
        if self._batches is not None:
            self._batches(events)
            return
        for event in events:
            self._calls[event.name](event)

    def state(self) -> dict[str, Any] | None:
        """Return the listener's state, None where it keeps none."""
        save = getattr(self._obj, "state_dict", None)
        return dict(save()) if callable(save) else None

    def restore(self, state: Mapping[str, Any]) -> None:
        """Give the listener the state that it had."""
        load_state = getattr(self._obj, "load_state_dict", None)
        if callable(load_state):
            load_state(dict(state))


def make_receiver(listener: ProcessListener) -> Receiver:
    """Make the listener; what is needed for that is imported now, plugins have to be loaded before.

    Raises UserError for what does not exist or cannot listen, HookError for a hook that cannot be called off the
    publishing thread, and whatever the listener's own code raises.
    """
    target = _target(listener.target)
    if listener.event is not None:
        return Receiver({listener.event: _bound(target, PREFIX + listener.event)}, None, target)
    options = config.resolve(listener.options, f"the options of {listener.name!r}")
    return receiver_for(create("callback", listener.target, target, options, where=listener.name), listener)


def receiver_for(obj: Any, listener: ProcessListener) -> Receiver:
    """Return what hands events to a listener that is made already; raises UserError and HookError as above."""
    deliver = getattr(obj, "deliver", None)
    if callable(deliver):
        if is_async(deliver):
            raise refused_coroutine(f"deliver of {listener.target}", place_of(deliver))
        return Receiver(dict.fromkeys(_wanted(obj, listener), deliver), deliver, obj)
    calls = {event_of(hook).name: _bound(fn, hook) for hook, fn in _hooks(obj)}
    if not calls:
        raise UserError(
            f"callback {listener.target!r} cannot listen",
            expected="an object with methods such as on_epoch_end, or with deliver(events)",
            got=type(obj).__name__,
            where=listener.name,
        )
    return Receiver(calls, None, obj)


def _target(target: str) -> Callable[..., Any]:
    if ":" not in target:
        return get_callback(target)
    module, _, qualname = target.partition(":")
    first, *inner = qualname.split(".")
    made: Callable[..., Any] = reduce(getattr, inner, load(f"{module}:{first}"))
    return made


def _hooks(obj: Any) -> list[tuple[str, Callable[..., Any]]]:
    members = [(name, getattr(obj, name)) for name in dir(type(obj)) if name.startswith(PREFIX)]
    return [(name, member) for name, member in members if callable(member)]


def _bound(fn: Callable[..., Any], hook: str) -> Callable[[Any], object]:
    if is_async(fn):
        raise refused_coroutine(hook, place_of(fn))
    return bind(fn, event_of(hook, where=place_of(fn)), here=False)


def _wanted(obj: Any, listener: ProcessListener) -> tuple[str, ...]:
    """Return the names in the attribute `events` of a listener that takes batches."""
    names = getattr(obj, "events", None)
    if not isinstance(names, tuple | list | set | frozenset) or not names:
        raise UserError(
            f"callback {listener.target!r} does not say which events it wants",
            expected='the names of events, as in events = ("epoch_end", "train_end")',
            got=repr(names),
            where=listener.name,
        )
    known = event_types()
    for name in names:
        if name not in known:
            raise UnknownNameError("event", name, known, where=listener.name)
    return tuple(names)
