"""A run's state, out into checkpoints and back: everything besides the weights that decides how training goes on."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from bus import EventBus
from frameworm.errors import CheckpointError
from frameworm.events import CheckpointSave, CheckpointSaved, TrainerHandle
from frameworm.training.checkpoint import CheckpointStore, load
from frameworm.training.manifest import find_checkpoint
from frameworm.training.progress import Progress

log = logging.getLogger("frameworm")


class Saving:
    """Saves and restores one run. Without a `store` saving does nothing."""

    def __init__(
        self,
        source: TrainerHandle,
        bus: EventBus,
        *,
        store: CheckpointStore | None,
        model: nn.Module,
        optimizer: Optimizer,
        scheduler: LRScheduler | None,
        progress: Progress,
    ) -> None:
        self._source = source
        self._bus = bus
        self.store = store
        self._model = model
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._progress = progress
        self._saved: tuple[Path, dict[str, int]] | None = None

    def is_due(self) -> bool:
        """Whether there is a store, and no checkpoint of this moment in it."""
        return self.store is not None and self._saved != self._place_in(self.store.root)

    def _place_in(self, root: Path) -> tuple[Path, dict[str, int]]:
        return root.resolve(), self._progress.state_dict()

    def save(self, moment: Callable[[], Mapping[str, Any]], *, metrics: Mapping[str, float], reason: str) -> None:
        """Write a checkpoint of this moment, which `is_due` and between two optimizer steps.

        `moment` gives the loop's own state, after the listeners of `checkpoint_save` were called; `metrics` are those
        of these very weights. Publishes `checkpoint_save` before and `checkpoint_saved` after. Raises
        `CheckpointError`.
        """
        assert self.store is not None
        path = str(self.store.path_for(self._progress.step))
        self._bus.publish(CheckpointSave(self._source, path))
        self.store.save(
            model=self._model,
            state={
                "progress": self._progress.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "optimizer_type": type(self._optimizer).__name__,
                "scheduler": self._scheduler.state_dict() if self._scheduler is not None else None,
                "metrics": dict(self._source.metrics),
                "listeners": self._listeners_state(),
                **moment(),
            },
            run=self._source.run_id,
            model_name=self._source.model_name,
            epoch=self._progress.epoch,
            step=self._progress.step,
            metrics=metrics,
            reason=reason,
        )
        self._saved = self._place_in(self.store.root)
        self._bus.publish(CheckpointSaved(self._source, path))

    def restore(self, path: Path) -> dict[str, Any]:
        """Load a checkpoint into the model, the optimizer, the schedule and the listeners, and return its state.

        Raises `CheckpointError` when it does not fit.
        """
        directory = find_checkpoint(path)
        state = load(directory, self._model, model_name=self._source.model_name)
        optimizer = type(self._optimizer).__name__
        saved = state.get("optimizer_type", optimizer)
        if saved != optimizer:  # torch itself would take it, and fail in the first step
            raise CheckpointError(
                "the checkpoint is of another optimizer",
                where=str(path),
                expected=optimizer,
                got=saved,
                hint="the optimizer section of that run's config.yaml",
            )
        try:
            self._optimizer.load_state_dict(state["optimizer"])
            if self._scheduler is not None and state["scheduler"] is not None:
                self._scheduler.load_state_dict(state["scheduler"])
            self._progress.load_state_dict(state["progress"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                "the checkpoint does not fit this optimizer and schedule",
                where=str(path),
                got=f"{type(error).__name__}: {error}",
                hint="the optimizer and scheduler sections of that run's config.yaml",
            ) from error
        self._load_listeners(state["listeners"], str(path))
        self._saved = self._place_in(directory.parent)
        if self._progress.completed >= self._source.epochs:
            done, asked = self._progress.completed, self._source.epochs
            log.warning(
                "nothing is left to train: %s has %d of %d epochs; more trainer.epochs go on", path, done, asked
            )
        return state

    def _stateful(self) -> dict[str, Any]:
        """Return the listeners that have a state, by name: the second one of a name is `name#2`, and so on."""
        found: dict[str, Any] = {}
        for subscription in self._bus.subscriptions():
            owner = subscription.owner
            if hasattr(owner, "load_state_dict") and not any(owner is known for known in found.values()):
                names = itertools.chain([subscription.name], (f"{subscription.name}#{n}" for n in itertools.count(2)))
                found[next(name for name in names if name not in found)] = owner
        return found

    def _listeners_state(self) -> dict[str, Any]:
        states = {}
        for name, owner in self._stateful().items():
            try:
                states[name] = owner.state_dict()
            except Exception as error:
                got = f"{type(error).__name__}: {error}"
                raise CheckpointError(f"{name} does not give its state", got=got) from error
        return states

    def _load_listeners(self, states: Mapping[str, Any], where: str) -> None:
        stateful = self._stateful()
        for name, state in states.items():
            if name not in stateful:
                log.warning("the checkpoint has a state of %s, which does not listen now", name)
                continue
            try:
                stateful[name].load_state_dict(state)
            except Exception as error:
                got = f"{type(error).__name__}: {error}"
                raise CheckpointError(f"{name} does not take its state back", where=where, got=got) from error
