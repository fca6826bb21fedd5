"""What the tests of a plugin need: plugins apart from the rest of the process, a bus that remembers, a tiny trainer."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from bus import Event, EventBus, default_bus, event_types
from frameworm import app, config
from frameworm.core import ownership, registries
from frameworm.core.ownership import NAMESPACE, package_of
from frameworm.plugins import loader as loaders
from frameworm.plugins.hooks import HookRegistry
from frameworm.plugins.loader import Plugin, PluginLoader
from frameworm.plugins.selection import Selection
from frameworm.training.trainer import Trainer

SYNTHETIC: Mapping[str, Any] = {"name": "synthetic", "samples": 40, "inputs": 10, "targets": 5, "batch_size": 8}
MLP: Mapping[str, Any] = {"name": "mlp", "inputs": 10, "outputs": 5, "loss": "mse"}


class RecordingBus(EventBus):
    """A bus below the default bus that remembers what was published on it, in `events`, in order."""

    def __init__(self) -> None:
        super().__init__(default_bus)
        self.events: list[Event] = []
        for event_type in event_types().values():
            self.subscribe(event_type, self.events.append, name="recording")

    def names(self) -> list[str]:
        """Return the names of the events that were published."""
        return [event.name for event in self.events]


def tiny_trainer(
    model: str | Mapping[str, Any] = MLP,
    *,
    data: Mapping[str, Any] = SYNTHETIC,
    metrics: Sequence[str] = (),
    callbacks: Sequence[Any] = (),
    epochs: int = 1,
    bus: EventBus | None = None,
    **trainer: Any,
) -> Trainer:
    """Return a trainer that needs a second or less: of a model by its name, or with its options, on the CPU.

    `data`, `metrics` and `callbacks` are written as in a config, `trainer` are further keys of that section. Without
    `data` there are 40 samples of 10 numbers, with 5 targets. No plugins are loaded, nothing is kept. Raises
    `UserError`.
    """
    made = config.parse(
        {
            "model": {"name": model} if isinstance(model, str) else dict(model),
            "data": dict(data),
            "metrics": list(metrics),
            "callbacks": list(callbacks),
            "trainer": {"epochs": epochs, "device": "cpu", **trainer},
        }
    )
    return app.build(made, bus=bus, plugins=Selection(others=False))


@contextmanager
def isolated_plugins(root: Path | None = None) -> Iterator[PluginLoader]:
    """Give a loader of its own, of the project at `root`, where no plugin is loaded and no hook is registered.

    Meanwhile it is also the one of `get_plugin_loader` and `load_plugins`. At the end its plugins are unloaded, and
    what was there before is there again.
    """
    with ExitStack() as undo:
        undo.enter_context(_without_plugins())
        fresh, before = PluginLoader(root), loaders.get_plugin_loader()
        loaders.use(fresh)
        undo.callback(loaders.use, before)
        try:
            yield fresh
        finally:
            for plugin in reversed(fresh.loaded()):
                fresh.unload(plugin.key)


def assert_unloads_cleanly(path: Path) -> Plugin:
    """Load the plugin in the folder at `path` and unload it; return how it was while it was loaded.

    Raises AssertionError if anything of it is left then, and `PluginError` if it cannot be loaded.
    """
    with isolated_plugins() as plugins:
        before = _traces()
        plugin = plugins.load(path)
        plugins.unload(plugin.key)
        left = _traces() - before
    if left:
        raise AssertionError(f"plugin {plugin.name!r} leaves behind: {', '.join(sorted(left))}")
    return plugin


def _traces() -> set[str]:
    """Return what a plugin could leave in the process."""
    names = {f"{kind} {name}" for kind, registry in registries.items() for name in registry.names()}
    hooks = {f"hook {entry!r}" for entry in default_bus.subscriptions()}
    return names | hooks | {f"module {name}" for name in sys.modules if package_of(name)}


def _modules() -> dict[str, ModuleType]:
    return {name: module for name, module in sys.modules.items() if package_of(name) or name == NAMESPACE}


@contextmanager
def _without_plugins() -> Iterator[None]:
    """Put aside what plugins have registered and imported, and all hooks, and bring them back at the end."""
    path, modules = list(sys.path), _modules()
    paused = [entry for entry in default_bus.subscriptions() if entry.state == "active"]
    with ExitStack() as undo:
        for registry in registries.values():
            undo.enter_context(registry.without_plugins())
        undo.enter_context(ownership.fresh_ledgers())
        undo.enter_context(HookRegistry.without_hooks())
        for name in modules:
            del sys.modules[name]
        for entry in paused:
            entry.pause()
        try:
            yield
        finally:
            for entry in paused:
                entry.resume()
            for name in _modules():
                del sys.modules[name]
            sys.modules.update(modules)
            sys.path[:] = path
