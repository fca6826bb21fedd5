"""One batch: forward, backward and, when the accumulation window is full, the optimizer; with an event at each turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from bus import EventBus
from frameworm.errors import DataError, NonFiniteError
from frameworm.events import (
    BackwardBegin,
    BackwardEnd,
    BatchBegin,
    BatchEnd,
    OptimizerStep,
    OptimizerStepped,
    TrainerHandle,
)
from frameworm.training.contract import LossFunction, scalars, size_of
from frameworm.training.means import Means
from frameworm.training.progress import Progress
from frameworm.training.schedules import Schedule

MicroBatch = tuple[int, Any, int, bool, bool]
"""A batch's place in the epoch; the batch; how many share its step; whether it is the first and the last of them."""


def micro_batches(batches: Iterable[Any], accumulate: int, *, start: int, total: int | None) -> Iterator[MicroBatch]:
    """Cut an epoch's batches from the `start`-th on into windows of `accumulate`; the last one may be smaller.

    Where the `total` is not known, a window is fetched before its first batch is given out: its size divides the loss.
    Raises `DataError` when a `total` that the windows go by turns out to be wrong.
    """
    if accumulate == 1:
        for batch_idx, batch in enumerate(batches, start):
            yield batch_idx, batch, 1, True, True
        return
    if total is None:
        iterator = iter(batches)
        while fetched := list(islice(iterator, accumulate)):
            yield from micro_batches(fetched, accumulate, start=start, total=start + len(fetched))
            start += len(fetched)
        return
    place = window = 0
    for batch_idx, batch in enumerate(batches, start):
        place = (batch_idx - start) % accumulate
        window = min(accumulate, total - batch_idx + place)
        if place >= window:
            raise _miscounted(total, "more")
        yield batch_idx, batch, window, place == 0, place == window - 1
    if place < window - 1:
        raise _miscounted(total, "fewer")


def _miscounted(total: int, how: str) -> DataError:
    return DataError(
        "the training data have another length than they say",
        expected=f"{total} batches in an epoch, since len() says so: a smaller last window is divided by its size",
        got=how,
        hint="the right __len__, or none: then windows are fetched as a whole",
    )


class Step:
    """Trains a model on an epoch's micro-batches.

    `clip_norm` is the largest total 2-norm of the gradients (Pascanu et al. 2013, https://arxiv.org/abs/1211.5063).
    A `schedule` moves after each optimizer step or at the end of each epoch.
    """

    def __init__(
        self,
        source: TrainerHandle,
        bus: EventBus,
        *,
        model: nn.Module,
        loss_function: LossFunction,
        optimizer: Optimizer,
        schedule: Schedule | None,
        clip_norm: float | None,
        progress: Progress,
        new_means: Callable[[], Means],
    ) -> None:
        self.means = new_means()
        """The means of the loss and of what else the model reports, over the epoch so far."""
        self._new_means = new_means
        self._source = source
        self._model = model
        self._loss_function = loss_function
        self._optimizer = optimizer
        self._step_scheduler = schedule.scheduler if schedule and schedule.interval == "step" else None
        self._epoch_scheduler = schedule.scheduler if schedule and schedule.interval == "epoch" else None
        self._clip_norm = clip_norm
        self._progress = progress
        self._batch_begin = bus.channel(BatchBegin)
        self._backward_begin = bus.channel(BackwardBegin)
        self._backward_end = bus.channel(BackwardEnd)
        self._optimizer_step = bus.channel(OptimizerStep)
        self._optimizer_stepped = bus.channel(OptimizerStepped)
        self._batch_end = bus.channel(BatchEnd)

    def begin_epoch(self) -> None:
        """Get ready for an epoch's batches."""
        self.means = self._new_means()
        self._model.train()

    def end_epoch(self, watched: float | None) -> None:
        """Finish an epoch whose batches are all trained; a schedule that waits for a plateau looks at `watched`."""
        if isinstance(self._epoch_scheduler, ReduceLROnPlateau):
            if watched is not None:
                self._epoch_scheduler.step(watched)
        elif self._epoch_scheduler is not None:
            self._epoch_scheduler.step()

    @property
    def lr(self) -> float:
        """The learning rate of the first parameter group."""
        return float(self._optimizer.param_groups[0]["lr"])

    def train(self, micro_batches: Iterable[MicroBatch]) -> Iterator[None]:  # noqa: C901  a step is read in one piece
        """Train on batches that are on their device, and give control back after each optimizer step.

        Between two batches nothing else is half done. Raises `NonFiniteError` before such a loss touches a weight.
        """
        # The step leaves the caches cold, and each look into an object costs several times what it costs otherwise:
        # what every step needs is looked up here.
        source, means, optimizer, loss_function = self._source, self.means, self._optimizer, self._loss_function
        batch_begin, batch_end = self._batch_begin, self._batch_end
        backward_begin, backward_end = self._backward_begin, self._backward_end
        for batch_idx, batch, window, opens, closes in micro_batches:
            if batch_begin.active:
                batch_begin.emit(BatchBegin(source, batch_idx, batch))
            if opens:
                optimizer.zero_grad()  # not later: the forward pass takes over the memory, while it is in the caches
            outputs = loss_function(batch)
            loss = outputs["loss"]
            means.add(loss, scalars(outputs) if len(outputs) > 1 else {}, size_of(batch))
            if not means.finite:
                raise NonFiniteError(loss.item(), epoch=self._progress.epoch, step=self._progress.step)
            part = loss / window if window > 1 else loss
            if backward_begin.active:
                backward_begin.emit(BackwardBegin(source, part))
            try:
                part.backward()
            except RuntimeError:
                loss_function.require_graph(loss)  # if that is why, in words that help
                raise
            if backward_end.active:
                backward_end.emit(BackwardEnd(source))
            if closes:
                self._update(batch_idx)
            if batch_end.active and batch_end.due():
                batch_end.emit(BatchEnd(source, batch_idx, loss.detach()))
            if closes:
                yield

    def _update(self, batch_idx: int) -> None:
        norm = None if self._clip_norm is None else nn.utils.clip_grad_norm_(self._trained(), self._clip_norm)
        if self._optimizer_step.active:
            self._optimizer_step.emit(OptimizerStep(self._source))
        self._optimizer.step()
        if self._step_scheduler is not None:
            self._step_scheduler.step()
        self._progress.step += 1
        self._progress.batches = batch_idx + 1
        if self._optimizer_stepped.active:
            self._optimizer_stepped.emit(OptimizerStepped(self._source, norm))

    def _trained(self) -> list[nn.Parameter]:
        """Return what the optimizer trains by now: a hook may have added a group, or thawed a part of the model."""
        return [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
