"""The trainer: what one holds of a run, to start it, to steer it and to look at it."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from bus import Event, EventBus, default_bus
from bus.beside import beside
from frameworm.config import Named, OptimizerConfig, TrainerConfig
from frameworm.errors import DataError, NonFiniteError, UserError
from frameworm.events import (
    CheckpointLoad,
    MetricsLogged,
    TrainBegin,
    TrainEnd,
    TrainFailed,
    TrainingEvent,
    TrainResumed,
)
from frameworm.facts import RunView
from frameworm.training.asking import caller
from frameworm.training.configuring import joint_loss, optimizations_for
from frameworm.training.device import resolve_device
from frameworm.training.distributed.agreeing import requests_of
from frameworm.training.distributed.sharing import require_own_part
from frameworm.training.distributed.strategies import strategy_for
from frameworm.training.distributed.world import to_train_in
from frameworm.training.ema import MovingAverage
from frameworm.training.ending import Drain, drain, patience
from frameworm.training.evaluation import Evaluation
from frameworm.training.feed import Feed, first_batches
from frameworm.training.hearing import hearing_of_listeners
from frameworm.training.interrupts import interrupts
from frameworm.training.loop import Loop
from frameworm.training.matching import freeze
from frameworm.training.means import means_on, number
from frameworm.training.nonfinite import NonFinite
from frameworm.training.precision import Precision
from frameworm.training.progress import Progress, Request
from frameworm.training.recomputing import checkpoint_activations
from frameworm.training.run import RunInfo, Status, TrainResult
from frameworm.training.saving import Saving, Stateful
from frameworm.training.schedules import Schedule
from frameworm.training.seeding import deterministic, isolated_rng
from frameworm.training.step import Step
from frameworm.training.store import CheckpointStore
from frameworm.training.times import Times
from frameworm.training.windows import steps_in


class Trainer:
    """Trains `model` on batches and publishes every event of it on `bus`.

        trainer = Trainer(model, train_loader, val_loader, metrics=["accuracy"])
        result = trainer.fit()

    - `model`: an `nn.Module` with `compute_loss(x, y=None) -> {"loss": 0-dim tensor, ...}`. With several optimizers it
      has `configure_optimizers() -> {name: ...}` too, and is asked for `compute_loss(x, y=None, *, optimizer=name)`.
    - `train_data`, `val_data`: iterables of batches that can be iterated once an epoch, `DataLoader`s or lists.
    - `optimizer`: a torch optimizer over the model's parameters, or the name of one, alone or with options.
    - `scheduler`: the name of a schedule, alone or with options; or a torch scheduler, stepped with the optimizer,
      in a `Schedule` also with the epochs.
    - `optimizers`: what is different for each of several, by its name.
    - `metrics`: names of registered metrics, taken at every validation.
    - `options`: epochs, device, precision, accumulation, clipping and more: see `TrainerConfig`.
    - `bus`: where events are published; by default a bus of its own that also serves the process-wide listeners.
    - `run`, `checkpoints`: the run's identity, and where its checkpoints go, if anywhere.

    Raises `UserError` and `ModelContractError` for what cannot be trained.
    """

    def __init__(
        self,
        model: nn.Module,
        train_data: Iterable[Any],
        val_data: Iterable[Any] | None = None,
        *,
        optimizer: Optimizer | Named | str = "adamw",
        scheduler: Schedule | LRScheduler | Named | str | None = None,
        optimizers: Mapping[str, OptimizerConfig] | None = None,
        metrics: Sequence[str] = (),
        options: TrainerConfig | None = None,
        bus: EventBus | None = None,
        run: RunInfo | None = None,
        checkpoints: CheckpointStore | None = None,
    ) -> None:
        self._world = world = to_train_in()
        self.options = options = options or TrainerConfig()
        self.bus = bus = bus if bus is not None else EventBus(parent=default_bus)
        self.run = run or RunInfo()
        self.rank = world.rank
        self.device = resolve_device(options.device)
        self.model = model.to(self.device)
        freeze(model, options.freeze)
        checkpoint_activations(model, options.checkpoint_activations)
        strategy = strategy_for(options, model, world, self.device)
        self.metrics: dict[str, float] = {}
        self.status: Status = "ready"
        self.error: str | None = None
        self.times = Times()
        """Where the time goes."""
        self._progress = progress = Progress()
        self._requests = requests = requests_of(world)
        self._signal: signal.Signals | None = None
        self.seq_of: Callable[[Event], int] = lambda _event: 0
        """Says the number of an event's record, while it is published; 0 where it has none."""
        self.drains: list[Drain] = [self.bus.drain]
        """What is waited for when training has ended."""
        self._resumed: tuple[str, dict[str, Any]] | None = None
        require_own_part(train_data, world)
        if options.overfit_batches is not None:
            train_data = first_batches(train_data, options.overfit_batches)
            val_data = train_data if val_data is not None else None
        self._feed = Feed(
            train_data,
            self.device,
            epochs=self.epochs,
            limit=options.limit_train_batches,
            times=self.times,
            world=world,
        )
        precision = Precision(options.precision, self.device)
        self._optimizations = optimizations = optimizations_for(
            model,
            self.model_name,
            optimizer=optimizer,
            scheduler=scheduler,
            optimizers=optimizers or {},
            options=options,
            precision=precision,
            batches=self._feed.length,
            strategy=strategy,
        )
        self._loss_function = joint_loss(optimizations)
        average = None if options.ema is None else MovingAverage(model, options.ema)
        non_finite = NonFinite(
            self,
            bus,
            options.non_finite,
            progress=progress,
            at_once=self.device.type == "cpu",
            look_every=options.log_every,
        )
        step = Step(
            self,
            bus,
            model=model,
            optimizations=optimizations,
            average=average,
            non_finite=non_finite,
            progress=progress,
            requests=requests,
            new_means=partial(means_on, self.device, options.log_every, leave_out=non_finite.skips),
            times=self.times,
            world=world,
            strategy=strategy,
        )
        self._evaluation = self._evaluation_on(val_data, metrics, precision, average)
        self._feeds = [self._feed] + ([] if self._evaluation is None else [self._evaluation.feed])
        parts: dict[str, Stateful] = {"non_finite": non_finite}
        parts |= {f"optimizer {part.name}" if part.name else "optimizer": part for part in optimizations}
        if average is not None:
            parts["ema"] = average
        self._saving = Saving(
            self,
            bus,
            store=checkpoints,
            model=model,
            parts=parts,
            progress=progress,
            requests=requests,
            world=world,
        )
        self._loop = Loop(
            self,
            bus,
            feed=self._feed,
            step=step,
            evaluation=self._evaluation,
            saving=self._saving,
            progress=progress,
            requests=requests,
            metrics=self.metrics,
            options=options,
            accumulate=[part.accumulate for part in optimizations],
            times=self.times,
            world=world,
        )

    def _evaluation_on(
        self,
        data: Iterable[Any] | None,
        metrics: Sequence[str],
        precision: Precision,
        average: MovingAverage | None,
    ) -> Evaluation | None:
        if data is not None:
            return Evaluation(
                self,
                self.bus,
                model=self.model,
                loss_function=self._loss_function,
                predict=precision.wrap(self.model),
                feed=Feed(
                    data, self.device, epochs=self.epochs, limit=self.options.limit_val_batches, world=self._world
                ),
                metrics=metrics,
                device=self.device,
                average=average,
                world=self._world,
            )
        if metrics:
            raise UserError(
                "metrics are taken at validation, and there are no data for it",
                got=f"metrics: {', '.join(metrics)}",
                where="metrics",
                hint="validation data, or no metrics",
            )
        return None

    # Facts

    @property
    def run_id(self) -> str:
        """The run's id; empty for a run that is not kept."""
        return self.run.id

    @property
    def name(self) -> str:
        """The run's name."""
        return self.run.name

    @property
    def run_dir(self) -> Path | None:
        """Where the run is kept, if it is."""
        return self.run.directory

    @property
    def attempt(self) -> int:
        """How many times this run was started, from 1."""
        return self.run.attempt

    @property
    def config(self) -> Mapping[str, Any]:
        """The resolved configuration, secrets redacted."""
        return self.run.config

    @property
    def model_name(self) -> str:
        """The name under which the model was registered, or its class's."""
        return self.run.model or type(self.model).__name__

    @property
    def epoch(self) -> int:
        """The current epoch, from 0."""
        return self._progress.epoch

    @property
    def epochs(self) -> int:
        """How many epochs are asked for."""
        return self.options.epochs

    @property
    def step(self) -> int:
        """Optimizer steps done since the run began."""
        return self._progress.step

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer; the first one of several."""
        return self._optimizations[0].optimizer

    @property
    def optimizers(self) -> dict[str, Optimizer]:
        """All of them by their names; a single one is called `optimizer`."""
        return {part.name or "optimizer": part.optimizer for part in self._optimizations}

    @property
    def checkpoints(self) -> CheckpointStore | None:
        """Where checkpoints go; without it none are saved."""
        return self._saving.store

    @checkpoints.setter
    def checkpoints(self, store: CheckpointStore | None) -> None:
        self._saving.store = store

    def position(self) -> tuple[int, int]:
        """Return the epoch and the step, in one look: the record of every event has them."""
        progress = self._progress
        return progress.epoch, progress.step

    @property
    def batches_per_epoch(self) -> int | None:
        """How many batches an epoch has, where the data can tell."""
        return self._feed.length

    @property
    def steps_per_epoch(self) -> int | None:
        """How many optimizer steps an epoch has, where the data can tell."""
        batches = self._feed.length
        return None if batches is None else steps_in(batches, [part.accumulate for part in self._optimizations])

    def detached(self, event: Event) -> RunView:
        """Return the facts as they are at an event, for listeners that are served on other threads and later."""
        progress = self._progress
        return RunView(
            self.run.id,
            self.run.name,
            self.run.directory,
            self.run.config,
            self.model_name,
            self.rank,
            self.run.attempt,
            self.options.epochs,
            progress.epoch,
            progress.step,
            dict(self.metrics),
            self.status,
            self.error,
            datetime.now(UTC),
            self.seq_of(event),
        )

    # Control: from any hook or thread; what is asked for is served between optimizer steps, and recorded with who asked

    def stop(self, reason: str = "asked to stop", *, by: str | None = None) -> None:
        """Ask to end training after the current optimizer step; the run counts as stopped.

        `by` says who asks, here and below; by default it is the code that calls, "" stands for the options themselves.
        """
        self._requests.file("stop", reason, by=caller(1) if by is None else by)

    def skip_batch(self, reason: str = "asked to skip", *, by: str | None = None) -> None:
        """Ask to leave out the batch that begins, if a hook on `batch_begin` asks; else the next one.

        It keeps its place in its accumulation window, whose other batches count as much as they would with it.
        """
        self._requests.file("skip", reason, by=caller(1) if by is None else by)

    def save_now(self, reason: str = "asked to save", *, by: str | None = None) -> None:
        """Ask for a checkpoint after the current optimizer step."""
        self._requests.file("save", reason, by=caller(1) if by is None else by)

    def save_checkpoint(self) -> None:
        """Refuse: a checkpoint is a state between two steps, and only the loop knows when that is."""
        raise RuntimeError(
            "a checkpoint cannot be written from here: a step may be half done. trainer.save_now() asks for one, which "
            "is written between two steps"
        )

    def validate_now(self, reason: str = "asked to validate", *, by: str | None = None) -> None:
        """Ask for a validation after the current optimizer step; training goes on as if there had been none."""
        self._requests.file("validate", reason, by=caller(1) if by is None else by)

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Publish metrics of one's own (numbers or 0-dim tensors, which are read now) as `metrics_logged`."""
        values = {name: number(value) for name, value in metrics.items()}
        self.metrics |= values
        self.bus.publish(MetricsLogged(self, values))

    # The run

    def resume(self, path: Path) -> None:
        """Load a checkpoint (or a run's latest one), from which `fit` then goes on.

        Call it when the listeners that keep a state are registered. Raises `CheckpointError`.
        """
        if self.status == "running":
            raise RuntimeError("this trainer is running: what it would resume from has to be loaded before")
        state = self._saving.restore(path)
        self._progress.epoch = min(self._progress.completed, self.epochs - 1)
        self.metrics |= state["metrics"]
        self._resumed = (str(path), state)

    def try_batch(self) -> float:
        """Try the first batch of training and of validation; return the loss, and leave the random generators be.

        Raises what a run would raise on them: `ModelContractError`, `NonFiniteError`, or what does not fit a metric.
        """
        with isolated_rng():
            if self._evaluation is not None:
                self._evaluation.try_batches()
            self.model.train()
            batch = next(self._feed.begin(), None)
            if batch is None:
                raise DataError("the training data have no batches")
            loss = self._loss_function(batch)["loss"]
            self._loss_function.require_graph(loss)
            value = number(loss)
            if not math.isfinite(value):
                raise NonFiniteError(value, epoch=self.epoch, step=self.step)
            return value

    def fit(self) -> TrainResult:
        """Train until the last epoch is done, or somebody asks to stop.

        However it ends, `train_end` is published once, and `status` is true by then. What made the run fail is
        raised. After a first Ctrl-C the step is finished and a checkpoint saved, then `KeyboardInterrupt` is raised;
        likewise `SystemExit` with code 143 after a SIGTERM. Listeners that are behind then are waited for.
        """
        if self.status == "running":
            raise RuntimeError("this trainer is running already")
        self.status, self.error, self._signal = "running", None, None
        with ExitStack() as stack:
            stack.callback(self._saving.close)
            self._world.begin()
            stack.enter_context(hearing_of_listeners(self, self.bus, self._requests))
            stack.enter_context(interrupts(self._interrupt))
            for feed in self._feeds:
                stack.enter_context(feed.lasting())
            try:
                with deterministic(self.options.deterministic):
                    ended = self._run()
            except BaseException as error:
                failed = self._world.blamed(error)
                self._end_with(failed)
                if failed is error:
                    raise
                raise failed from error
            if ended is not None and ended.verb == "interrupt" and ended.reason in signal.Signals.__members__:
                self._signal = signal.Signals[ended.reason]  # which another process may have got
            self.status = "finished" if ended is None else "stopped" if ended.verb == "stop" else "interrupted"
            reason = None if ended is None else ended.reason
            self._world.end()
            self.bus.publish(TrainEnd(self, self.status, reason, None))
            self._drain()
        self._leave_as_signalled()
        return TrainResult(
            self.status, reason, dict(self.metrics), self._progress.completed, self.step, self.run.directory
        )

    async def fit_async(self) -> TrainResult:
        """Train on a thread of its own, as `fit` does, beside the event loop that awaits it.

        Cancelled, it ends the run as an interrupt does, after the current step and with a checkpoint, and the
        cancellation goes on when that is done.
        """
        return await beside(
            self.fit, stop=partial(self._requests.file, "interrupt", "cancelled", by="the task that awaited it")
        )

    def _run(self) -> Request | None:
        self.bus.publish(TrainBegin(self, self.epochs))
        self._saving.check_space(2 + (self.options.ema is not None))  # as Adam has them, and the average
        path, state = self._resumed or ("", None)
        self._resumed = None
        if state is not None:
            self.bus.publish(CheckpointLoad(self, state, path))
            self.bus.publish(TrainResumed(self, path))
        return self._loop.run(state)

    def _end_with(self, error: BaseException) -> None:
        """Tell of the error that ended the run; what listeners raise on hearing of it becomes a note on it."""
        text = f"{type(error).__name__}: {error}"
        try:
            self._saving.settle(together=False)
        except BaseException as trouble:
            error.add_note(f"and the checkpoint before was not written: {trouble}")
        if isinstance(error, Exception):
            self.status, self.error, reason = "failed", text, text
            events: list[TrainingEvent] = [TrainFailed(self, error, text)]
        else:
            self.status, reason = "interrupted", type(error).__name__
            events = []
        for event in [*events, TrainEnd(self, self.status, reason, self.error)]:
            try:
                self.bus.publish(event)
            except BaseException as trouble:
                error.add_note(f"and on {event.name} a listener raised {type(trouble).__name__}: {trouble}")
        try:
            self._drain(failed=True)
        except BaseException as trouble:
            error.add_note(f"and waiting for listeners ended with {type(trouble).__name__}: {trouble}")

    def _drain(self, *, failed: bool = False) -> None:
        """Wait for the listeners that are behind; a signal shortens that."""
        usual = self.options.drain_timeout
        drain(self.drains, lambda: patience(self._signal, failed=failed, usual=usual))

    def _interrupt(self, number: signal.Signals) -> None:
        if number is signal.SIGUSR1:
            self._requests.file("save", number.name, by=f"signal {number.name}")
            return
        self._signal = number
        self._requests.file("interrupt", number.name, by=f"signal {number.name}")

    def _leave_as_signalled(self) -> None:
        if self._signal is signal.SIGINT:
            raise KeyboardInterrupt
        if self._signal is not None:
            raise SystemExit(128 + self._signal)
