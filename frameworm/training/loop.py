"""The loop: epochs of steps, each with its validation; what was asked for is served between the steps."""

from __future__ import annotations

import logging
import math
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bus import EventBus
from frameworm.config import TrainerConfig
from frameworm.errors import DataError
from frameworm.events import ControlRequested, EpochBegin, EpochEnd, MetricsLogged, TrainerHandle, ValidationEnd
from frameworm.training.distributed.world import ALONE, World
from frameworm.training.evaluation import Evaluation
from frameworm.training.feed import Feed
from frameworm.training.limits import watched
from frameworm.training.means import number
from frameworm.training.progress import Progress, Request, Requests
from frameworm.training.saving import Saving
from frameworm.training.seeding import isolated_rng, restore_rng, rng_state
from frameworm.training.step import Step
from frameworm.training.times import Times
from frameworm.training.windows import MicroBatch, micro_batches

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
        accumulate: Sequence[int],
        times: Times,
        world: World = ALONE,
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
        self._accumulate = accumulate
        self._times = times
        self._world = world
        self._watched = watched(options, progress, requests)
        self._epoch_rng = self._rng()
        self._halted: Mapping[str, Any] | None = None
        self._judged: tuple[int, dict[str, float]] = (-1, {})  # after which step, with which metrics

    def run(self, resumed: Mapping[str, Any] | None = None) -> Request | None:
        """Train, and return the request that ended it: None when all epochs or steps are done.

        `resumed` is the state of the checkpoint that was restored, if one was; without one a run that was stopped goes
        on where it was. Raises what the model, the data or a critical listener raise, `DataError` for an epoch without
        batches and `NonFiniteError`.
        """
        resumed, self._halted = resumed or self._halted, None
        self._watched = watched(self._options, self._progress, self._requests)
        if resumed is None:
            self._try_validation()
        ended = self._met()
        while not ended and not self._is_complete():
            ended = self._epoch(resumed)
            resumed = None
        if ended and ended.verb == "finish":
            ended = self._finish()
        self._save(ended.reason if ended else "the end")
        self._saving.settle()
        self._halted = resumed or self._moment()
        return ended

    def _is_complete(self) -> bool:
        steps = self._options.max_steps
        return self._progress.completed >= self._options.epochs or (steps is not None and self._progress.step >= steps)

    def _epoch(self, resumed: Mapping[str, Any] | None) -> Request | None:
        progress = self._progress
        waiting = self._requests.waiting
        for _ in self._watched(self._step.train(self._begin_epoch(resumed))):
            if waiting and (ended := self._serve()):
                if ended.verb == "finish" and progress.batches == self._feed.length:
                    break  # it is the epoch's end as well
                return ended
        metrics = self._end_of_training()
        if self._evaluation is None:
            self._step.watch(metrics["loss"])
        elif self._validates():
            validated = self._validate(self._evaluation)
            if validated is None:
                return self._serve()
            metrics |= validated
        self._step.end_epoch()
        progress.completed += 1
        progress.batches = 0
        self._judge(self._announced(EpochEnd(self._source, progress.epoch, metrics)))
        return self._met()

    def _begin_epoch(self, resumed: Mapping[str, Any] | None) -> Iterator[MicroBatch]:
        """Return the epoch's batches, behind those that the checkpoint had seen.

        The random generators go on as they were: at an epoch's beginning from before the data are asked for a new
        order; within an epoch the data first get the generators as they were then, to give the same order again.
        """
        skip = self._progress.batches
        self._progress.epoch = self._progress.completed
        if resumed is not None:
            self._restore_rng(resumed["rng"])
        self._step.begin_epoch()
        self._bus.publish(EpochBegin(self._source, self._progress.epoch))
        if resumed is not None and skip:
            self._restore_rng(resumed["epoch_rng"])
        self._epoch_rng = self._rng()
        batches = self._feed.begin(self._progress.epoch, skip)
        if resumed is not None and skip:
            self._step.load_state_dict(resumed["step"])
            self._restore_rng(resumed["rng"])
        return micro_batches(self._times.waits(batches), self._accumulate, start=skip, total=self._feed.length)

    def _rng(self) -> dict[str, Any]:
        """Return the state of the global generators and of the data's own."""
        return {**rng_state(), "data": self._feed.state_dict()}

    def _restore_rng(self, state: Mapping[str, Any]) -> None:
        restore_rng(state)
        self._feed.load_state_dict(state["data"])

    def _end_of_training(self) -> dict[str, float]:
        """Return the metrics of an epoch's training."""
        means = self._means()
        if not means and not self._progress.batches:
            raise DataError(
                f"epoch {self._progress.epoch} had no batches",
                expected="training data that can be iterated once an epoch",
                hint="a DataLoader or a list; an iterator is used up after one epoch",
            )
        means = means or {"loss": math.nan}  # every batch was left out
        trained = {f"train_{name}": value for name, value in means.items()}
        return {"loss": means["loss"], **trained, **self._step.left_out, **self._step.lrs}

    def _means(self) -> dict[str, float]:
        """Return the means of an epoch so far, over all processes."""
        own = self._step.means()
        return own if self._world.size == 1 else self._step.joined_means(self._world)

    def _finish(self) -> Request | None:
        """End within an epoch, after the last step that was asked for, as an epoch ends, but for its `epoch_end`."""
        metrics = self._end_of_training()
        self._metrics |= metrics
        self._bus.publish(MetricsLogged(self._source, metrics))
        if self._evaluation is not None and self._progress.validated != self._progress.step:
            self._validate(self._evaluation)
        return self._met()

    # Validation

    def _try_validation(self) -> None:
        """Try some batches of validation before training, and leave the random generators be."""
        if self._evaluation is not None and self._options.sanity_batches:
            with isolated_rng():
                self._evaluation.try_batches(self._options.sanity_batches, abandoned=self._requests.abandons)

    def _validates(self) -> bool:
        """Whether this epoch is validated: each so-many-th and the last; with a rhythm of steps, the last weights."""
        epoch = self._progress.epoch + 1
        steps = self._options.max_steps
        is_last = epoch == self._options.epochs or (steps is not None and self._progress.step >= steps)
        if self._options.validate_every_steps is None:
            return epoch % self._options.validate_every == 0 or is_last
        return is_last and self._progress.validated != self._progress.step

    def _validate(self, evaluation: Evaluation, *, asked: bool = False) -> dict[str, float] | None:
        """Validate and tell of it; return the metrics, None if an end was asked for meanwhile.

        It is then as if nothing had been: all of the validation comes again when the run goes on. One that somebody
        asked for leaves no trace in the training: neither in the random generators nor in a schedule.
        """
        before = rng_state()
        validated = self._times.timed("validation", evaluation.run)(abandoned=self._requests.abandons)
        if validated is None or asked:
            restore_rng(before)
        if validated is None:
            return None
        if not asked:
            self._progress.validated = self._progress.step
        metrics = self._announced(ValidationEnd(self._source, validated, asked))
        if not asked and "val_loss" in metrics:
            self._step.watch(metrics["val_loss"])
        self._judge(metrics)
        return metrics

    def _judge(self, metrics: dict[str, float]) -> None:
        self._judged = self._progress.step, metrics

    def _announced(self, event: ValidationEnd | EpochEnd) -> dict[str, float]:
        """Publish an event with metrics, to which listeners may add, and return them all.

        The listeners of the other processes find what those of the first one have added; at the end all know it all.
        """
        world = self._world
        if not world.is_first:
            event.metrics.update(world.from_first({}))
        self._metrics |= event.metrics
        self._bus.publish(event)
        metrics = numbers(event.metrics)
        if world.is_first:
            world.from_first(metrics)
        metrics = dict(ChainMap(*world.gathered(metrics)))
        self._metrics |= metrics
        return metrics

    # What was asked for

    def _met(self) -> Request | None:
        """Serve what was asked for in any of the processes."""
        self._requests.meet()
        return self._serve()

    def _serve(self) -> Request | None:
        """Do what was asked for: first validate, then save; return what ends the run, if anything does."""
        requests = self._requests.take()
        for request in requests:
            if request.event is not None:
                self._bus.publish(request.event)
            elif request.by:
                self._bus.publish(ControlRequested(self._source, request.verb, request.reason, request.by))
        for request in requests:
            if request.verb == "settle":
                self._saving.settle(request.reason)
        ended = next((request for request in requests if request.ends), None)
        validations = [request for request in requests if request.verb == "validate"]
        if validations and not ended and not self._validate_between(asked=all(one.by for one in validations)):
            return self._serve()  # what ended the validation ends the run
        if saves := [request for request in requests if request.verb == "save"]:
            self._save(saves[0].reason)
        if not ended and self._requests.end_is_asked():
            return self._serve()  # no step more for those who heard of this
        return ended

    def _validate_between(self, *, asked: bool) -> bool:
        """Validate between two steps, after which the model trains on as it did; False if an end was asked for."""
        if self._evaluation is None:
            log.warning("there is nothing to validate on: the run has no validation data")
            return True
        with self._evaluation.modes_kept():
            return self._validate(self._evaluation, asked=asked) is not None

    def _save(self, reason: str) -> None:
        if self._saving.is_due():
            self._step.means()  # what a loss has spoilt must not take the place of a good checkpoint
            step, metrics = self._judged
            metrics = metrics if step == self._progress.step else {}
            self._times.timed("checkpoint", self._saving.save)(self._moment, metrics=metrics, reason=reason)

    def _moment(self) -> dict[str, Any]:
        """Return what it takes, besides the weights, to go on from here as if nothing had happened."""
        return {"rng": self._rng(), "epoch_rng": self._epoch_rng, "step": self._step.state_dict()}


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics as floats; what a listener added that is no number is left out, with a warning."""
    found = {}
    for name, value in metrics.items():
        try:
            found[name] = number(value)
        except (TypeError, ValueError, RuntimeError):
            log.warning("the metric %r is no number and was left out: %r", name, value)
    return found
