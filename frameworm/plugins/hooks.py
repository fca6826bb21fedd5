"""Hooks by name, as plugins write them: single functions (`HookRegistry.on`) and objects with several (`CallbackHook`).

Both subscribe to the process-wide default bus, which every trainer's bus inherits from, and are called with the
arguments of the document's hook reference.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar, cast, get_args
from weakref import WeakSet

from bus import Event, EventBus, PlainReceiver, Subscription, default_bus
from bus.detach import detacher, landed
from bus.subscription import is_async, name_of
from frameworm.core import ownership
from frameworm.errors import HookError
from frameworm.events import HooksSwitched
from frameworm.plugins.binding import PREFIX, bind, event_of, place_of
from frameworm.plugins.lanes import Dispatch, Ranks, add_process_hook, lane_of, process_hooks, refused_coroutine

F = TypeVar("F", bound=Callable[..., Any])

BATCH = 512
"""How many events a callback with `deliver` gets at once, at most."""


class HookRegistry:
    """The hooks of this process; used at class level, there is nothing to make."""

    _subscriptions: ClassVar[WeakSet[Subscription[Any]]] = WeakSet()  # the buses hold them; here they are only known
    _disabled: ClassVar[int] = 0

    @classmethod
    def on(
        cls,
        hook: str,
        priority: float = 50,
        *,
        dispatch: Dispatch | None = None,
        every: int = 1,
        ranks: Ranks = "all",
        **options: Any,
    ) -> Callable[[F], F]:
        """Register the decorated function for a hook, and give it back unchanged.

            @HookRegistry.on("on_epoch_end")
            def report(trainer, epoch, metrics): ...

        Lower priorities run first, equal ones in the order of registration. `every` calls it for every so-many-th
        event only; `ranks="zero"` in the first of several processes only.

        `dispatch` says where: `sync`, in step with the training; `async`, on a thread of its own (what coroutine
        functions get anyhow, on an event loop); `process`, in a process of its own, from the run's record. `options`
        are those of the async lane: see `EventBus.subscribe`.

        Raises `HookError` when the name is not a hook's, or the function's parameters do not fit.
        """
        if not isinstance(hook, str):
            raise HookError(
                "@HookRegistry.on needs the name of a hook",
                where=place_of(hook),
                hint='@HookRegistry.on("on_epoch_end")',
            )

        def register(fn: F) -> F:
            where = place_of(fn)
            lane = lane_of(_name(fn), dispatch, None, getattr(fn, "__module__", None), where)
            if lane == "process":
                _check_ranks(ranks, where)
                event_type = event_of(hook, where)
                bind(fn, event_type, here=False)
                add_process_hook(fn, _name(fn), event_type, every=every, options=options, where=where)
            else:
                cls._subscribe(default_bus, hook, fn, lane=lane, priority=priority, every=every, ranks=ranks, **options)
            return fn

        return register

    @classmethod
    def list_hooks(cls) -> dict[str, list[str]]:
        """Return who is registered, by hook, in the order of calling: `plugin:name (priority)` each.

        Of code that is in no plugin, its module stands in the plugin's place.
        """
        hooks: dict[str, list[str]] = {}
        for subscription in cls._alive():
            entry = f"{subscription.name} ({subscription.priority:g})"
            hooks.setdefault(PREFIX + subscription.event_type.name, []).append(entry)
        for hook in process_hooks:
            hooks.setdefault(PREFIX + hook.event, []).append(f"{hook.name} (process)")
        return hooks

    @classmethod
    def disable(cls) -> AbstractContextManager[None]:
        """Silence all hooks and callbacks until `enable`; in a `with`, until its end.

        Publishes `hooks_switched` on the default bus, which is how a run's record has it.
        """
        cls._disabled += 1
        if cls._disabled == 1:
            cls._switch(enabled=False)
        return cls._enabled_again()

    @classmethod
    def enable(cls) -> None:
        """Call hooks and callbacks again, after `disable`; without one it does nothing."""
        if cls._disabled:
            cls._disabled = 0
            cls._switch(enabled=True)

    @classmethod
    def is_enabled(cls) -> bool:
        """Whether hooks and callbacks are called."""
        return not cls._disabled

    @classmethod
    @contextmanager
    def without_hooks(cls) -> Iterator[None]:
        """Know of no hooks, and bring those back at the end that were known; the buses go on calling them."""
        before, elsewhere = cls._subscriptions, list(process_hooks)
        cls._subscriptions = WeakSet()
        process_hooks.clear()
        try:
            yield
        finally:
            cls._subscriptions = before
            process_hooks[:] = elsewhere

    @classmethod
    def _switch(cls, *, enabled: bool) -> None:
        for subscription in cls._alive():
            (subscription.resume if enabled else subscription.pause)()
        default_bus.publish(HooksSwitched(cast("Any", None), enabled))  # it concerns all trainers, and is of none

    @classmethod
    @contextmanager
    def _enabled_again(cls) -> Iterator[None]:
        try:
            yield
        finally:
            if cls._disabled > 1:
                cls._disabled -= 1
            else:
                cls.enable()

    @classmethod
    def _alive(cls) -> list[Subscription[Any]]:
        alive = [entry for entry in cls._subscriptions if entry.state != "cancelled"]
        return sorted(alive, key=lambda entry: entry.rank)

    @classmethod
    def _subscribe(
        cls,
        bus: EventBus,
        hook: str,
        fn: Callable[..., Any],
        *,
        lane: Dispatch | None = None,
        ranks: Ranks = "all",
        batched: bool = False,
        **options: Any,
    ) -> Subscription[Any]:
        """Subscribe a hook; one that is `batched` takes a list of events."""
        _check_ranks(ranks, place_of(fn))
        event_type = event_of(hook, where=place_of(fn))
        here = lane == "sync" or (lane is None and not is_async(fn))
        if here and is_async(fn):
            raise refused_coroutine(_name(fn), place_of(fn))
        if not batched:
            call = bind(fn, event_type, here=here)
        elif here:
            call = _one_by_one(fn, event_type)
        else:
            call, options = fn, {**options, "batch": BATCH}
        options.setdefault("name", _name(fn))
        call = call if ranks == "all" else _on_rank_zero(call, batched=batched and not here)
        if not here:
            options["dispatch"] = "async"
        subscription = bus.subscribe(event_type, call, **options)
        if cls._disabled:
            subscription.pause()
        cls._subscriptions.add(subscription)
        return subscription


def _name(fn: Callable[..., Any]) -> str:
    """Return `plugin:qualname` for what a plugin defines, `module:qualname` for the rest."""
    module, _, qualname = name_of(fn).partition(":")
    package = ownership.package_of(module)
    return f"{ownership.label_of(package)}:{qualname}" if package and qualname else name_of(fn)


def _enter(listener: Subscription[Any] | PlainReceiver) -> None:
    """Write a listener that a plugin brings, by whatever way, into the plugin's ledger."""
    ledger = ownership.caller()
    if ledger is None:
        return
    held = weakref.ref(listener)  # what its bus has dropped need not be taken back

    def cancel() -> None:
        if (listener := held()) is not None:
            listener.cancel()

    def counts() -> bool:
        return (listener := held()) is not None and listener.state != "cancelled"

    what = f"hook {PREFIX}{listener.event_type.name}" if isinstance(listener, Subscription) else "blinker receiver"
    ledger.enter(what, cancel, counts)


default_bus.on_subscribe = _enter  # every trainer's bus is below it


def _check_ranks(ranks: object, where: str) -> None:
    if ranks not in get_args(Ranks):
        raise HookError(f"ranks must be 'all' or 'zero', got {ranks!r}", where=where)


def _on_rank_zero(call: Callable[[Any], Any], *, batched: bool) -> Callable[[Any], object]:
    """Return a listener that lets through what is published on rank zero; all of a batch is from one rank."""

    def wanted(event: Any) -> bool:
        source = event[0].source if batched else event.source
        return bool(source.rank == 0)

    if not is_async(call):
        return wraps(call)(lambda event: call(event) if wanted(event) else None)

    @wraps(call)
    async def called(event: Any) -> None:
        if wanted(event):
            await call(event)

    return called


def _one_by_one(fn: Callable[[list[Any]], object], event_type: type[Event]) -> Callable[[Any], object]:
    """Return a listener in step that gives `fn` each event as the other lanes would, in a list of its own."""
    detach = detacher(event_type)
    return wraps(fn)(lambda event: fn([landed(detach(event))]))


class CallbackHook:
    """Base of callbacks: define methods named like the hooks you need, then `register()` an instance.

        class Best(CallbackHook):
            def on_epoch_end(self, trainer, epoch, metrics): ...

        Best().register()

    It keeps no state of its own, so a subclass need not call `super().__init__()`. An instance that has
    `state_dict()` and `load_state_dict(state)` has its state saved in checkpoints, under its name, and restored.

    Instead of such methods it may have `deliver(events)` and name the events that it wants in `events`: it gets lists
    of them, in order, each with the facts of the run as its `source`.
    """

    dispatch: ClassVar[Dispatch | None] = None
    """The lane in which it wants to be served; None: coroutine functions in the async lane, all others in step."""
    events: ClassVar[tuple[str, ...]] = ()
    """Of a callback with `deliver(events)`, the names of the events that it wants."""

    def register(
        self,
        bus: EventBus | None = None,
        *,
        priority: float = 50,
        ranks: Ranks = "all",
        name: str | None = None,
        dispatch: Dispatch | None = None,
        **options: Any,
    ) -> Self:
        """Register the callback's hooks on the default bus, or on `bus`; where it is registered, nothing changes.

        `dispatch` and `options` are as in `HookRegistry.on`. Raises `HookError` for a method `on_...` that is no hook,
        or whose parameters do not fit; nothing is registered then. In a `with`, the callback is unregistered at its
        end.
        """
        bus = bus or default_bus
        lane = self.lane(dispatch)
        if lane == "process":
            raise HookError(
                f"{_name(type(self))} cannot be registered for the process lane: it is made in that process",
                where=place_of(type(self)),
                expected="the run's config to name it, under callbacks",
                hint='callbacks: [{name: {option: value}}], or dispatch="async" here',
            )
        if any(entry.owner is self for entry in bus.subscriptions()):
            return self
        name = _free_name(bus, name or _name(type(self)))
        made: list[Subscription[Any]] = []
        options |= {"priority": priority, "ranks": ranks, "name": name, "owner": self}
        batched = callable(getattr(self, "deliver", None))
        try:
            for hook, fn in self._hooks():
                made.append(HookRegistry._subscribe(bus, hook, fn, lane=lane, batched=batched, **options))
        except BaseException:
            for subscription in made:
                subscription.cancel()
            raise
        return self

    def unregister(self) -> None:
        """Undo `register`, wherever it was; not registered is no error."""
        for subscription in self._registered():
            subscription.cancel()

    def __enter__(self) -> Self:
        return self if self._registered() else self.register()

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.unregister()

    def lane(self, asked: Dispatch | None = None) -> Dispatch | None:
        """Return the lane that it is served in, where it is `asked` to be in one or not; raises `HookError`."""
        return lane_of(_name(type(self)), asked, self.dispatch, type(self).__module__)

    def _hooks(self) -> list[tuple[str, Callable[..., Any]]]:
        """Return what to call for which hook; `on_epoch_end = None` takes an inherited one out."""
        members = [(name, getattr(self, name)) for name in dir(type(self)) if name.startswith(PREFIX)]
        hooks = [(name, member) for name, member in members if callable(member)]
        deliver = getattr(self, "deliver", None)
        if not callable(deliver):
            return hooks
        if hooks or not self.events:
            raise HookError(
                f"{_name(type(self))} has `deliver`, and {'hooks besides' if hooks else 'no events for it'}",
                where=place_of(type(self)),
                expected="the names of the events in `events`, and no methods named like hooks",
                got=", ".join(name for name, _ in hooks) or "events = ()",
            )
        return [(PREFIX + event, deliver) for event in self.events]

    def _registered(self) -> list[Subscription[Any]]:
        return [entry for entry in HookRegistry._alive() if entry.owner is self]


def _free_name(bus: EventBus, name: str) -> str:
    """Return `name`, or `name#2` and so on where others on the bus have it: accounts and saved state keep apart."""
    used = {subscription.name for subscription in bus.subscriptions()}
    names = itertools.chain([name], (f"{name}#{number}" for number in itertools.count(2)))
    return next(candidate for candidate in names if candidate not in used)
