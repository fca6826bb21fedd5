"""One batch: forward, backward and, when the accumulation window is full, the optimizer; with an event at each turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from bus import EventBus
from frameworm.events import (
    BackwardBegin,
    BackwardEnd,
    BatchBegin,
    BatchEnd,
    BatchSkipped,
    OptimizerStep,
    OptimizerStepped,
    TrainerHandle,
)
from frameworm.training.contract import joined, scalars, size_of
from frameworm.training.ema import MovingAverage
from frameworm.training.means import Means
from frameworm.training.nonfinite import NonFinite
from frameworm.training.optimization import Optimization
from frameworm.training.progress import Progress, Requests
from frameworm.training.windows import MicroBatch, Place


class Step:
    """Trains a model on an epoch's micro-batches with each of its `optimizations`, one after the other.

    The `average` of the weights moves with each batch in which there was a step.
    """

    def __init__(
        self,
        source: TrainerHandle,
        bus: EventBus,
        *,
        model: nn.Module,
        optimizations: Sequence[Optimization],
        average: MovingAverage | None,
        non_finite: NonFinite,
        progress: Progress,
        requests: Requests,
        new_means: Callable[[], Means],
    ) -> None:
        self._new_means = new_means
        self._source = source
        self._bus = bus
        self._model = model
        self._optimizations = optimizations
        self._average = average
        self._non_finite = non_finite
        self._progress = progress
        self._requests = requests
        self._batch_begin = bus.channel(BatchBegin)
        self._backward_begin = bus.channel(BackwardBegin)
        self._backward_end = bus.channel(BackwardEnd)
        self._optimizer_step = bus.channel(OptimizerStep)
        self._optimizer_stepped = bus.channel(OptimizerStepped)
        self._batch_end = bus.channel(BatchEnd)
        self._counted_at = self._moved_at = -1  # the batches that were counted as a step, and that changed the weights
        self._left_out = 0  # steps of this epoch
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Get ready for an epoch's batches."""
        for part in self._optimizations:
            part.means = self._new_means()
        self._counted_at = self._moved_at = -1
        self._left_out = 0
        self._model.train()

    def end_epoch(self) -> None:
        """Finish an epoch whose batches are all trained."""
        for part in self._optimizations:
            part.end_epoch()

    def watch(self, value: float) -> None:
        """Show the schedules that wait for a plateau what they watch."""
        for part in self._optimizations:
            part.watch(value)

    @property
    def lrs(self) -> dict[str, float]:
        """The learning rate of each optimizer's first parameter group; `lr` is the first optimizer's."""
        first, *_ = parts = self._optimizations
        return {"lr": first.lr} | {f"{part.name}_lr": part.lr for part in parts if part.name is not None}

    def means(self) -> dict[str, float]:
        """Return the epoch's means so far, the loss's under `loss`; empty before the first batch. Waits for the device.

        Raises `NonFiniteError` if that is what is done about a loss that is not finite: not each was looked at so far.
        """
        found = {part.name: part.means.read() for part in self._optimizations}
        for part in self._optimizations:
            if not part.means.finite:
                self._act_on_loss(part, found[part.name]["loss"])
        return joined(found)

    @property
    def left_out(self) -> dict[str, float]:
        """How many steps of the epoch were left out, where that can happen, as a metric."""
        may = self._non_finite.skips or any(part.scaler for part in self._optimizations)
        return {"skipped_steps": float(self._left_out)} if may else {}

    def train(self, micro_batches: Iterable[MicroBatch]) -> Iterator[None]:  # noqa: C901, PLR0912  read in one piece
        """Train on batches that are on their device, and give control back where every window is closed.

        Between two batches nothing else is half done. Raises `NonFiniteError` before such a loss touches a weight.
        """
        # The step leaves the caches cold, and each look into an object costs several times what it costs otherwise:
        # what every step needs is looked up here.
        source, progress, skips, average = self._source, self._progress, self._requests.skips, self._average
        batch_begin, batch_end = self._batch_begin, self._batch_end
        backward_begin, backward_end = self._backward_begin, self._backward_end
        parts = [
            (part, part.name, part.optimizer.zero_grad, part.loss_function, part.means, part.backward)
            for part in self._optimizations
        ]
        for batch_idx, batch, places, closed in micro_batches:
            if batch_begin.active:
                batch_begin.emit(BatchBegin(source, batch_idx, batch))
            if skips:
                self._skip(batch_idx, places)
            else:
                total: Any = None
                for (part, name, zero_grad, loss_function, means, backward), place in zip(parts, places, strict=True):
                    window, opens, closes = place
                    if opens:
                        zero_grad()  # not later: the forward pass takes over the memory, while it is in the caches
                    outputs = loss_function(batch)
                    loss = outputs["loss"]
                    means.add(loss, scalars(outputs) if len(outputs) > 1 else {}, size_of(batch))
                    if not means.finite:
                        self._act_on_loss(part, loss.item())
                    share = loss / window if window > 1 else loss
                    if backward_begin.active:
                        backward_begin.emit(BackwardBegin(source, share, name))
                    try:
                        backward(share)
                    except RuntimeError:
                        loss_function.require_graph(loss)  # if that is why, in words that help
                        raise
                    if backward_end.active:
                        backward_end.emit(BackwardEnd(source, name))
                    if closes:
                        self._update(part, batch_idx)
                    total = loss if total is None else total.detach() + loss.detach()
                if average is not None and self._moved_at == batch_idx:
                    average.update()
                if batch_end.active and batch_end.due():
                    batch_end.emit(BatchEnd(source, batch_idx, total.detach()))
            if closed:
                progress.batches = batch_idx + 1
                yield

    def _update(self, part: Optimization, batch_idx: int) -> None:
        norm, stepped = None, False
        if part.spoilt:
            part.spoilt = False
        else:
            norm = part.prepare()
            # Where the loss is scaled, gradients that are not finite belong to finding the scale.
            if norm is None or part.scaler is not None or self._non_finite.admits(norm, part.name):
                if self._optimizer_step.active:
                    self._optimizer_step.emit(OptimizerStep(self._source, part.name))
                stepped = part.step()
        part.advance(stepped=stepped)
        if self._counted_at != batch_idx:
            self._counted_at = batch_idx
            self._progress.step += 1
        if stepped:
            self._moved_at = batch_idx
        else:
            self._left_out += 1
        if self._optimizer_stepped.active:
            self._optimizer_stepped.emit(OptimizerStepped(self._source, norm, not stepped, part.name))

    def _skip(self, batch_idx: int, places: Sequence[Place]) -> None:
        """Leave a batch out; it keeps its place in the windows, whose other batches still count as much as planned."""
        request = self._requests.skips.popleft()
        for part, (_, opens, closes) in zip(self._optimizations, places, strict=True):
            if opens:
                part.optimizer.zero_grad()
            if closes and any(parameter.grad is not None for parameter in part.trained()):
                self._update(part, batch_idx)
        if self._average is not None and self._moved_at == batch_idx:
            self._average.update()
        self._bus.publish(BatchSkipped(self._source, batch_idx, request.reason, request.by))

    def _act_on_loss(self, part: Optimization, value: float) -> None:
        self._non_finite.loss(value, part.name)
        part.means.finite = True  # this one is done with
        part.spoilt = self._non_finite.skips

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on within an epoch."""
        names = [part.name or "" for part in self._optimizations]
        means = [part.means.state_dict() for part in self._optimizations]
        return {"means": dict(zip(names, means, strict=True)), "left_out": self._left_out}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        for part in self._optimizations:
            part.means.load_state_dict(state["means"][part.name or ""])
        self._left_out = int(state["left_out"])
