"""What trackers share: the points that an event gives, each of them once, and a config as flat parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple, Self

import msgspec

from bus import Event
from frameworm.events import BatchEnd, EpochEnd, MetricsLogged
from frameworm.facts import RunView

BATCH_LOSS = "batch_loss"
"""The key of a batch's loss: `loss` is an epoch's mean."""


class Point(NamedTuple):
    """A value of a metric after `step` optimizer steps; `time` is when it was published, in UTC."""

    key: str
    value: float
    step: int
    time: datetime


def points(event: Event) -> list[Point]:
    """Return the points of an event off the publishing thread; one without numbers has none.

    All of them are at the run's global step: a batch's loss as `batch_loss`, an epoch's metrics at the step at which
    the epoch ended, with `epoch` (from 0) beside them, and what `trainer.log` was given.
    """
    view: RunView = event.source
    match event:
        case BatchEnd(loss=loss):
            values: Mapping[str, Any] = {BATCH_LOSS: loss}
        case EpochEnd(epoch=epoch, metrics=metrics):
            values = {"epoch": epoch, **metrics}
        case MetricsLogged(metrics=metrics):
            values = metrics
        case _:
            values = {}
    return [Point(key, float(value), view.step, view.time) for key, value in values.items()]


class HighWater(msgspec.Struct):
    """How far a tracker has come with a run, so that it stores every (key, step) once.

    Events come again after an error or a crash: those up to record `seq` are done. Steps come again when a run is
    resumed from an older checkpoint: a key goes on above the step that `earlier` attempts had reached. Within an
    attempt a key may have several values at a step, but a batch's loss only the first of the batches of that step.
    """

    run: str = ""
    attempt: int = 0
    seq: int = 0
    reached: dict[str, int] = {}
    earlier: dict[str, int] = {}

    def copy(self) -> Self:
        """Return a copy to go on with, while this one stays as it is."""
        return type(self)(self.run, self.attempt, self.seq, dict(self.reached), self.earlier)

    def take(self, view: RunView, points: Iterable[Point]) -> list[Point]:
        """Return those of an event's points that are not stored yet, and count them as stored; another run begins anew.

        `view` is the event's source. Of what is no point, nothing is said: beginnings and ends can be told again.
        """
        if view.run_id != self.run:
            self.run, self.attempt, self.seq, self.reached = view.run_id, 0, 0, {}
        if view.attempt > self.attempt:
            self.attempt, self.earlier = view.attempt, dict(self.reached)
        if 0 < view.seq <= self.seq:
            return []
        self.seq = max(self.seq, view.seq)
        taken = []
        for point in points:
            done = self.reached if point.key == BATCH_LOSS else self.earlier
            if point.step > done.get(point.key, -1):
                taken.append(point)
                self.reached[point.key] = max(point.step, self.reached.get(point.key, -1))
        return taken

    def raise_to(self, reached: Mapping[str, int]) -> None:
        """Take it that an earlier attempt has come to these steps at least."""
        self.reached |= {key: max(step, self.reached.get(key, -1)) for key, step in reached.items()}
        self.earlier = dict(self.reached)

    def state_dict(self) -> dict[str, Any]:
        """Return what `of` needs, for JSON."""
        return msgspec.structs.asdict(self)

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Self:
        """Return the mark of a saved state; other keys in it are somebody else's."""
        return msgspec.convert(dict(state), cls)


def flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Return the values of a config as text, each under the path to it: `optimizer.lr`, `callbacks.0.mlflow.uri`."""
    for key, value in tree.items():
        path = f"{above}{key}"
        if isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
            yield from flat({str(index): item for index, item in enumerate(value)}, f"{path}.")
        elif isinstance(value, Mapping):
            yield from flat(value, f"{path}.")
        else:
            yield path, str(value)
