"""The loop: epochs of steps, each with its validation; what was asked for is served between the steps."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from bus import EventBus
from frameworm.config import TrainerConfig
from frameworm.errors import DataError, NonFiniteError
from frameworm.events import EpochBegin, EpochEnd, TrainerHandle, ValidationEnd
from frameworm.training.evaluation import Evaluation
from frameworm.training.feed import Feed
from frameworm.training.means import number
from frameworm.training.progress import Progress, Request, Requests
from frameworm.training.saving import Saving
from frameworm.training.seeding import restore_rng, rng_state
from frameworm.training.step import MicroBatch, Step, micro_batches

log = logging.getLogger("frameworm")


class Loop:
    """Trains from where `progress` is to the last epoch, or until a request ends it.

    `metrics` is the run's own mapping of the latest values, which the loop keeps up to date. Without an `evaluation`
    there is no validation.
    """

    def __init__(
        self,
        source: TrainerHandle,
        bus: EventBus,
        *,
        feed: Feed,
        step: Step,
        evaluation: Evaluation | None,
        saving: Saving,
        progress: Progress,
        requests: Requests,
        metrics: dict[str, float],
        options: TrainerConfig,
    ) -> None:
        self._source = source
        self._bus = bus
        self._feed = feed
        self._step = step
        self._evaluation = evaluation
        self._saving = saving
        self._progress = progress
        self._requests = requests
        self._metrics = metrics
        self._options = options
        self._epoch_rng = rng_state()
        self._halted: Mapping[str, Any] | None = None
        self._metrics_of_weights: dict[str, float] = {}

    def run(self, resumed: Mapping[str, Any] | None = None) -> Request | None:
        """Train, and return the request that ended it: None when all epochs are done.

        `resumed` is the state of the checkpoint that was restored, if one was; without one a run that was stopped goes
        on where it was. Raises what the model, the data or a critical listener raise, `DataError` for an epoch without
        batches and `NonFiniteError`.
        """
        resumed, self._halted = resumed or self._halted, None
        ended = self._serve()
        while not ended and self._progress.completed < self._options.epochs:
            ended = self._epoch(resumed)
            resumed = None
        self._save(ended.reason if ended else "the end")
        self._halted = resumed or self._moment()
        return ended

    def _epoch(self, resumed: Mapping[str, Any] | None) -> Request | None:
        progress = self._progress
        waiting = self._requests.waiting
        for _ in self._step.train(self._begin_epoch(resumed)):
            if waiting and (ended := self._serve()):
                return ended
        metrics = self._end_of_training()
        if self._evaluation is not None and self._validates():
            before = rng_state()
            validated = self._evaluation.run(abandoned=self._requests.end_is_asked)
            if validated is None:
                restore_rng(before)  # all of the validation comes again when the run goes on
                return self._serve()
            metrics |= self._announced(ValidationEnd(self._source, validated))
        self._step.end_epoch(metrics["loss"] if self._evaluation is None else metrics.get("val_loss"))
        progress.completed += 1
        progress.batches = 0
        self._metrics_of_weights = self._announced(EpochEnd(self._source, progress.epoch, metrics))
        return self._serve()

    def _begin_epoch(self, resumed: Mapping[str, Any] | None) -> Iterator[MicroBatch]:
        """Return the epoch's batches, behind those that the checkpoint had seen.

        The random generators go on as they were: at an epoch's beginning from before the data are asked for a new
        order; within an epoch the data first get the generators as they were then, to give the same order again.
        """
        skip = self._progress.batches
        self._progress.epoch = self._progress.completed
        self._metrics_of_weights = {}
        if resumed is not None:
            restore_rng(resumed["rng"])
        self._step.begin_epoch()
        self._bus.publish(EpochBegin(self._source, self._progress.epoch))
        if resumed is not None and skip:
            restore_rng(resumed["epoch_rng"])
        self._epoch_rng = rng_state()
        batches = self._feed.begin(self._progress.epoch, skip)
        if resumed is not None and skip:
            self._step.means.load_state_dict(resumed["means"])
            restore_rng(resumed["rng"])
        return micro_batches(batches, self._options.accumulate, start=skip, total=self._feed.length)

    def _end_of_training(self) -> dict[str, float]:
        """Return the metrics of an epoch's training."""
        means = self._means()
        if not means:
            raise DataError(
                f"epoch {self._progress.epoch} had no batches",
                expected="training data that can be iterated once an epoch",
                hint="a DataLoader or a list; an iterator is used up after one epoch",
            )
        trained = {f"train_{name}": value for name, value in means.items()}
        return {"loss": means["loss"], **trained, "lr": self._step.lr}

    def _means(self) -> dict[str, float]:
        """Return the epoch's means; raises `NonFiniteError`, since on a device not every loss was looked at so far."""
        means = self._step.means.read()
        if not self._step.means.finite:
            raise NonFiniteError(means["loss"], epoch=self._progress.epoch, step=self._progress.step)
        return means

    def _validates(self) -> bool:
        """Whether this epoch is validated: each so-many-th, and the last."""
        epoch = self._progress.epoch + 1
        return epoch % self._options.validate_every == 0 or epoch == self._options.epochs

    def _announced(self, event: ValidationEnd | EpochEnd) -> dict[str, float]:
        """Publish an event with metrics, to which listeners may add, and return them all."""
        self._metrics |= event.metrics
        self._bus.publish(event)
        metrics = numbers(event.metrics)
        self._metrics |= metrics
        return metrics

    def _serve(self) -> Request | None:
        """Do what was asked for; return what ends the run, if anything does."""
        requests = self._requests.take()
        for request in requests:
            if request.event is not None:
                self._bus.publish(request.event)
            elif not request.ends:
                self._save(request.reason)
        return next((request for request in requests if request.ends), None)

    def _save(self, reason: str) -> None:
        if self._saving.is_due():
            self._means()  # what a loss has spoilt must not take the place of a good checkpoint
            self._saving.save(self._moment, metrics=self._metrics_of_weights, reason=reason)

    def _moment(self) -> dict[str, Any]:
        """Return what it takes, besides the weights, to go on from here as if nothing had happened."""
        return {"rng": rng_state(), "epoch_rng": self._epoch_rng, "means": self._step.means.state_dict()}


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics as floats; what a listener added that is no number is left out, with a warning."""
    found = {}
    for name, value in metrics.items():
        try:
            found[name] = number(value)
        except (TypeError, ValueError, RuntimeError):
            log.warning("the metric %r is no number and was left out: %r", name, value)
    return found
