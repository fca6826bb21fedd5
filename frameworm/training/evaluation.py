"""A model against validation data: its mean loss, and the metrics that were asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice, zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from bus import EventBus
from frameworm.core import get_metric
from frameworm.errors import DataError, UserError
from frameworm.events import TrainerHandle, ValidationBatchEnd, ValidationBegin
from frameworm.training.contract import JointLoss, LossFunction, Outputs, scalars, size_of
from frameworm.training.distributed.world import ALONE, World, merged
from frameworm.training.ema import MovingAverage
from frameworm.training.feed import Feed
from frameworm.training.means import means_on


class MetricOverData:
    """A metric taken over all batches: streamed, where it has `update`, `compute` and `reset`; else on everything.

    Of several processes rank zero takes it over the batches of all, in their order; but torchmetrics' do by themselves.
    """

    def __init__(self, name: str, metric: Any, world: World = ALONE) -> None:
        self.name = name
        self._metric = metric() if isinstance(metric, type) else metric
        self._world = world
        self._is_joint = world.size > 1 and not hasattr(self._metric, "sync_on_compute")
        self._streams = not self._is_joint and all(
            hasattr(self._metric, method) for method in ("update", "compute", "reset")
        )
        self._kept: list[tuple[Tensor, Tensor]] = []

    def reset(self) -> None:
        """Forget all batches."""
        self._kept = []
        if self._streams:
            self._metric.reset()

    def update(self, real: Tensor, produced: Tensor) -> None:
        """Take in a batch: targets and predictions, or real images and fake ones."""
        if self._streams:
            self._metric.update(real, produced)
        else:
            self._kept.append((real, produced))

    def compute(self) -> float:
        """Return the metric's value. Waits for the device."""
        if self._streams:
            return float(self._metric.compute())
        if self._is_joint:
            return self._jointly(self._world.gathered([(real.cpu(), fake.cpu()) for real, fake in self._kept]))
        real, produced = (torch.cat(parts) for parts in zip(*self._kept, strict=True))
        return float(self._metric(real, produced))

    def _jointly(self, kept: Sequence[Sequence[tuple[Tensor, Tensor]]]) -> float:
        """Return the value over what all processes have kept, in the order in which one alone would have met it."""

        def value() -> float:
            alone = MetricOverData(self.name, self._metric)
            alone.reset()
            for batches in zip_longest(*kept):
                for batch in filter(None, batches):
                    alone.update(*batch)
            return alone.compute()

        return self._world.decided_by_first(value)


class Evaluation:
    """Evaluates a model on batches, in evaluation mode and without gradients, with the `average` of its weights.

    A model with `sample(n)` is generative: metrics get the real images and as many sampled ones. Any other is
    supervised: metrics get targets and predictions, from what `compute_loss` returned under these names, else the
    batch's second part and what the model makes of the first.
    """

    def __init__(
        self,
        source: TrainerHandle,
        bus: EventBus,
        *,
        model: nn.Module,
        loss_function: LossFunction | JointLoss,
        predict: Callable[[Any], Tensor],
        feed: Feed,
        metrics: Sequence[str],
        device: torch.device,
        average: MovingAverage | None = None,
        world: World = ALONE,
    ) -> None:
        self._world = world
        self._source = source
        self._bus = bus
        self._model = model
        self._loss_function = loss_function
        self._predict = predict
        self.feed = feed
        self._metrics = [MetricOverData(name, get_metric(name, where="metrics"), world) for name in metrics]
        self._device = device
        self._weights = average.in_place if average is not None else nullcontext
        self._batch_end = bus.channel(ValidationBatchEnd)

    def run(self, *, abandoned: Callable[[], bool] = lambda: False) -> dict[str, float] | None:
        """Return `val_loss` and `val_<metric>` over all batches; None when it was abandoned half-way.

        Publishes `validation_begin` and `validation_batch_end`; the end is the caller's, who may have more to say.
        """
        with self._evaluating():
            self._bus.publish(ValidationBegin(self._source))
            means = means_on(self._device, look_every=1 << 30)
            for index, batch in enumerate(self.feed.begin()):
                if abandoned():
                    return None
                counts = index != self.feed.counted  # or another process has samples left, and may need this one
                outputs = self._evaluated(batch, counts=counts)
                if not counts:
                    break
                means.add(outputs["loss"], scalars(outputs), size_of(batch))
                if self._batch_end.active:
                    loss = outputs["loss"].detach()
                    self._batch_end.emit(ValidationBatchEnd(self._source, index, loss, batch, outputs))
            found = means.read() if self._world.size == 1 else merged(self._world.gathered(means.state_dict()))
            if not found:
                raise DataError("the validation data have no batches", expected="data that can be iterated each time")
            found |= {metric.name: metric.compute() for metric in self._metrics}
            return {f"val_{name}": value for name, value in found.items()}

    def try_batches(self, count: int = 1, *, abandoned: Callable[[], bool] = lambda: False) -> None:
        """Evaluate the first so many batches and tell nobody; raises what does not fit: model, data or a metric."""
        with self._evaluating():
            for batch in islice(self.feed.begin(), count):
                if abandoned():
                    return
                self._evaluated(batch)

    @contextmanager
    def modes_kept(self) -> Iterator[None]:
        """Have those parts of the model train afterwards that did before."""
        training = [module for module in self._model.modules() if module.training]
        try:
            yield
        finally:
            for module in training:
                module.training = True

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        self._model.eval()
        for metric in self._metrics:
            metric.reset()
        with self._weights(), torch.no_grad():
            yield

    def _evaluated(self, batch: Any, *, counts: bool = True) -> Outputs:
        outputs = self._loss_function(batch)
        if self._metrics:
            real, produced = self._pair(batch, outputs)
            for metric in self._metrics if counts else ():
                metric.update(real, produced)
        return outputs

    def _pair(self, batch: Any, outputs: Outputs) -> tuple[Tensor, Tensor]:
        inputs, targets = parts_of(batch)
        sample: Callable[[int], Tensor] | None = getattr(self._model, "sample", None)
        if sample is not None:
            return inputs, sample(size_of(inputs))
        targets = outputs.get("targets", targets)
        if targets is None:
            names = ", ".join(metric.name for metric in self._metrics)
            raise UserError(
                f"metrics of predictions ({names}) need targets, and this data has none",
                expected='batches (x, y), or "targets" in what compute_loss returns',
                got=f"a batch that is a {type(batch).__name__}",
                where=f"metrics, model {self._loss_function.name!r}",
            )
        predictions = outputs["predictions"] if "predictions" in outputs else self._predict(inputs)
        return targets, predictions


def parts_of(batch: Any) -> tuple[Any, Any]:
    """Return a batch's inputs and its targets, None where it has no such part."""
    if isinstance(batch, tuple | list):
        return batch[0], batch[1] if len(batch) > 1 else None
    if isinstance(batch, Mapping):
        return next(iter(batch.values())), batch.get("y")
    return batch, None
