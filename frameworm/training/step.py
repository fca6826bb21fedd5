"""One batch: forward, backward and, when the accumulation window is full, the optimizer; with an event at each turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

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
from frameworm.training.distributed.strategies import Strategy
from frameworm.training.distributed.world import ALONE, World, merged
from frameworm.training.ema import MovingAverage
from frameworm.training.means import Means
from frameworm.training.nonfinite import NonFinite
from frameworm.training.optimization import Optimization
from frameworm.training.progress import Progress, Requests
from frameworm.training.times import Times
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
        times: Times,
        world: World = ALONE,
        strategy: Strategy | None = None,
    ) -> None:
        self._world = world
        self._strategy = strategy
        self._new_means = new_means
        self._times = times
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
        self._moved = False  # whether the batch's steps changed the weights, of which there is an average
        self._left_out = 0  # steps of this epoch
        self._updates = [self._update_of(part) for part in optimizations]
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Get ready for an epoch's batches."""
        for part in self._optimizations:
            part.means = self._new_means()
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

    def joined_means(self, world: World) -> dict[str, float]:
        """Return the epoch's means so far over all processes of `world`, in each of which this is called."""
        return joined({part.name: merged(world.gathered(part.means.state_dict())) for part in self._optimizations})

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
        stride = self._times.stride
        parts, timed_parts = self._looked_up(timed=False), self._looked_up(timed=True)
        take_average = self._take_average
        timed_average = self._times.timed("optimizer", take_average)
        strategy = self._strategy
        in_hand = -1  # which of them was looked up last
        for batch_idx, batch, places, closed in micro_batches:
            timing = not batch_idx % stride
            if batch_begin.active:
                batch_begin.emit(BatchBegin(source, batch_idx, batch))
            if skips:
                self._skip(batch_idx, places)
            else:
                total: Any = None
                for which, window, opens, closes, counts in places:
                    if which != in_hand or timing:
                        in_hand = -1 if timing else which
                        look_up = timed_parts if timing else parts
                        part, name, zero_grad, loss_function, means, backward, update = look_up[which]
                    if opens:
                        zero_grad()  # not later: the forward pass takes over the memory, while it is in the caches
                    if strategy is not None:
                        strategy.closes(closes)
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
                        part.loss_function.require_graph(loss)  # if that is why, in words that help
                        raise
                    if backward_end.active:
                        backward_end.emit(BackwardEnd(source, name))
                    if closes:
                        update(counts)
                    total = loss if total is None else total.detach() + loss.detach()
                if average is not None:
                    (timed_average if timing else take_average)(average)
                if batch_end.active and batch_end.due():
                    batch_end.emit(BatchEnd(source, batch_idx, total.detach()))
            if closed:
                progress.batches = batch_idx + 1
                yield

    def _looked_up(self, *, timed: bool) -> list[tuple[Any, ...]]:
        """Return, of each optimization, what a step needs of it: as it is, or with its time taken."""
        time = self._times.timed if timed else lambda _phase, function: function
        return [
            (
                part,
                part.name,
                part.optimizer.zero_grad,
                time("forward", part.loss_function),
                part.means,
                time("backward", part.backward),
                time("optimizer", update),
            )
            for part, update in zip(self._optimizations, self._updates, strict=True)
        ]

    def _update_of(self, part: Optimization) -> Callable[[bool], None]:
        """Return what ends a window: the step, if there is to be one; its argument says whether the step counts."""
        source, progress, averages = self._source, self._progress, self._average is not None
        optimizer_step, optimizer_stepped = self._optimizer_step, self._optimizer_stepped
        name, optimizer, scaler, advance = part.name, part.optimizer, part.scaler, part.advance
        admitted = self._admitted if part.prepare is not None or self._non_finite.skips else None

        def update(counts: bool) -> None:  # noqa: FBT001  it is called in each step
            norm, stepped = (None, True) if admitted is None else admitted(part)
            if stepped:
                if optimizer_step.active:
                    optimizer_step.emit(OptimizerStep(source, name))
                if scaler is None:
                    optimizer.step()
                else:
                    stepped = part.scaled_step(scaler)
            if advance is not None:
                advance(stepped)
            if counts:
                progress.step += 1
            if not stepped:
                self._left_out += 1
            elif averages:
                self._moved = True
            if optimizer_stepped.active:
                optimizer_stepped.emit(OptimizerStepped(source, norm, not stepped, name))

        return update

    def _admitted(self, part: Optimization) -> tuple[Tensor | None, bool]:
        """Return the norm of the gradients, where it is known, and whether a step may be taken with them."""
        if self._non_finite.skips:
            spoilt, part.spoilt = self._world.any(part.spoilt), False
            if spoilt:
                return None, False
        norm = part.prepare() if part.prepare is not None else None
        # Where the loss is scaled, gradients that are not finite belong to finding the scale.
        return norm, norm is None or part.scaler is not None or self._non_finite.admits(norm, part.name)

    def _take_average(self, average: MovingAverage) -> None:
        if self._moved:
            self._moved = False
            average.update()

    def _skip(self, batch_idx: int, places: Sequence[Place]) -> None:
        """Leave a batch out; it keeps its place in the windows, whose other batches still count as much as planned."""
        request = self._requests.skips.popleft()
        counts = True
        for part, update, (_, _, opens, closes, _) in zip(self._optimizations, self._updates, places, strict=True):
            if opens:
                part.optimizer.zero_grad()
            if closes and any(parameter.grad is not None for parameter in part.trained()):
                if self._strategy is not None:
                    self._strategy.average(part.trained())
                update(counts)
                counts = False
        if self._average is not None:
            self._take_average(self._average)
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
