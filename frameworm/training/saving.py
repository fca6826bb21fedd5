"""A run's state, out into checkpoints and back: everything besides the weights that decides how training goes on."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from bus import EventBus
from frameworm.errors import CheckpointError
from frameworm.events import CheckpointSave, CheckpointSaved, TrainerHandle
from frameworm.training.checkpoint import load, manifest_of, packed
from frameworm.training.distributed.shards import FOLDER, write_shards
from frameworm.training.distributed.world import ALONE, World
from frameworm.training.manifest import find_checkpoint
from frameworm.training.progress import Progress, Requests
from frameworm.training.seeding import rng_state
from frameworm.training.store import CheckpointStore
from frameworm.training.writer import Writer

log = logging.getLogger("frameworm")

_OF_A_RANK = ("rng", "epoch_rng", "step", "listeners")
"""What each of several processes has for itself."""


class Stateful(Protocol):
    """A part of the training with a state of its own."""

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on, in plain containers, numbers, text and tensors."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""


class Saving:
    """Saves and restores one run: the `model`, the `parts` that train it, by their names, and its listeners.

    Without a `store` saving does nothing. A checkpoint that is written in the background is told of when `settle` is
    called, which one of the `requests` then asks for.
    """

    def __init__(
        self,
        source: TrainerHandle,
        bus: EventBus,
        *,
        store: CheckpointStore | None,
        model: nn.Module,
        parts: Mapping[str, Stateful],
        progress: Progress,
        requests: Requests,
        world: World = ALONE,
    ) -> None:
        self._world = world
        self._source = source
        self._bus = bus
        self.store = store
        self._model = model
        self._parts = parts
        self._progress = progress
        self._requests = requests
        self._writer: Writer | None = None
        self._writing: Future[Path] | None = None
        self._path: Path | None = None  # where a checkpoint is being written, by rank zero
        self._saved: tuple[Path, dict[str, int]] | None = None

    def is_due(self) -> bool:
        """Whether there is a store, and no checkpoint of this moment in it."""
        return self.store is not None and self._saved != self._place_in(self.store.root)

    def check_space(self, moments: float) -> None:
        """Raise `CheckpointError` unless the disk has room for the checkpoints that are kept.

        Before the first step nobody knows what the optimizers will remember: `moments` numbers for each weight.
        """
        if self.store is not None and self._world.is_first:
            tensors = (value for value in self._model.state_dict().values() if isinstance(value, Tensor))
            self.store.check_space(int((1 + moments) * sum(tensor.nbytes for tensor in tensors)))

    def _place_in(self, root: Path) -> tuple[Path, dict[str, int]]:
        return root.resolve(), self._progress.state_dict()

    def save(self, moment: Callable[[], Mapping[str, Any]], *, metrics: Mapping[str, float], reason: str) -> None:
        """Write a checkpoint of this moment, which `is_due` and between two optimizer steps, or begin to.

        `moment` gives the loop's own state, after the listeners of `checkpoint_save` were called; `metrics` are those
        of these very weights. Publishes `checkpoint_save` before and, when it is durable, `checkpoint_saved`. Raises
        `CheckpointError`.
        """
        assert self.store is not None
        self.settle()
        store, source, progress, world = self.store, self._source, self._progress, self._world
        path = world.decided_by_first(lambda: store.path_for(progress.step))
        self._bus.publish(CheckpointSave(source, str(path)))
        state = {
            "progress": progress.state_dict(),
            "parts": {name: part.state_dict() for name, part in self._parts.items()},
            "metrics": dict(source.metrics),
            "listeners": self._listeners_state(),
            **moment(),
        }
        if world.size > 1:
            own = {name: state[name] for name in _OF_A_RANK}
            state["ranks"] = world.gathered(None if world.is_first else own)[1:]
        self._saved = self._place_in(store.root)
        self._path = path
        files, shards = packed(self._model, state)
        background = store.background and not shards  # those are written by all, each from its own memory

        def write_shared(folder: Path = Path()) -> None:
            write_shards(shards, world.from_first(folder) / FOLDER, group=world.group)

        if world.is_first:
            manifest = manifest_of(
                run=source.run_id,
                model_name=source.model_name,
                epoch=progress.epoch,
                step=progress.step,
                metrics=metrics,
                reason=reason,
            )
            if background:
                self._writing = self._writer_of(store).write(manifest, files)
                self._writing.add_done_callback(lambda _: self._requests.file("settle", str(path)))
            else:
                contents = {name: file.pieces() for name, file in files.items()}
                store.write(manifest, contents, write_shared if shards else None)
        elif shards:
            write_shared()
        if not background:
            self.settle()

    def _writer_of(self, store: CheckpointStore) -> Writer:
        if self._writer is None or self._writer.store is not store:
            self.close()
            self._writer = Writer(store)
        return self._writer

    def settle(self, which: str = "", *, together: bool = True) -> None:
        """Wait for the checkpoint that is being written, if one is, and tell of it; raises its `CheckpointError`.

        `which` names the one that is meant. All processes tell of it when it is durable; the first one alone, when they
        do not end `together`.
        """
        if self._path is None or which not in ("", str(self._path)):
            return
        path, self._path = self._path, None
        writing, self._writing = self._writing, None
        if writing is not None:
            if self._writer is not None:
                self._writer.hurry()
            writing.result()
        if not which and together:
            self._world.from_first(None)
        if together or self._world.is_first:
            self._bus.publish(CheckpointSaved(self._source, str(path)))

    def close(self) -> None:
        """Let the process that writes end, when it has written what it has."""
        if self._writer is not None:
            self._writer.close()
        self._writer = None

    def restore(self, path: Path) -> dict[str, Any]:
        """Load a checkpoint into the model, the parts that train it and the listeners, and return its state.

        Raises `CheckpointError` when it does not fit.
        """
        directory = find_checkpoint(path)
        state = load(directory, self._model, model_name=self._source.model_name)
        if missing := [key for key in ("parts", "progress", "listeners", "metrics") if key not in state]:
            raise CheckpointError(
                "the checkpoint does not fit: it has weights, but no state of a training run",
                where=str(path),
                expected=", ".join(missing),
                got=", ".join(map(str, state)) or "nothing",
                hint="--init-from, to begin a run with its weights",
            )
        self._load_parts(state["parts"], str(path))
        self._progress.load_state_dict(state["progress"])
        self._take_own(state, str(path))
        self._load_listeners(state["listeners"], str(path))
        self._saved = self._place_in(directory.parent)
        if self._progress.completed >= self._source.epochs and self._world.is_first:
            done, asked = self._progress.completed, self._source.epochs
            log.warning(
                "nothing is left to train: %s has %d of %d epochs; more trainer.epochs go on", path, done, asked
            )
        return state

    def _take_own(self, state: dict[str, Any], where: str) -> None:
        """Replace what is rank zero's in `state` by what is this process's own.

        From another number of processes it goes on at the same place in the data, but not with the same batches.
        """
        world, others = self._world, state.pop("ranks", ())
        before = len(others) + 1
        if before == world.size:
            state.update(others[world.rank - 1] if world.rank else {})
            return
        if world.is_first:
            log.warning(
                "%s was saved by %d process(es), and goes on in %d: not with the same batches, so not exactly",
                where,
                before,
                world.size,
            )
        self._progress.batches = self._progress.batches * before // world.size
        if world.rank:
            state["rng"] = {**rng_state(), "data": state["rng"]["data"]}
            state["epoch_rng"] = {**rng_state(), "data": state["epoch_rng"]["data"]}

    def _load_parts(self, states: Mapping[str, Any], where: str) -> None:
        for name in states.keys() ^ self._parts.keys():
            has, lacks = ("the checkpoint", "this run") if name in states else ("this run", "the checkpoint")
            log.warning("%s has a part %r that %s has not: it does not go on as it was", has, name, lacks)
        for name, part in self._parts.items():
            if name not in states:
                continue
            try:
                part.load_state_dict(states[name])
            except CheckpointError as error:
                error.where = where
                raise
            except (KeyError, TypeError, ValueError) as error:
                raise CheckpointError(
                    f"the checkpoint does not fit this run's {name}",
                    where=where,
                    got=f"{type(error).__name__}: {error}",
                    hint="the optimizer and scheduler sections of that run's config.yaml",
                ) from error

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
