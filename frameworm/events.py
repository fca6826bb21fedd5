"""Every event of a training run. This is the loop that publishes them, each in its place:

    train_begin
    when resuming:
        checkpoint_load
        train_resumed
    for each epoch:
        epoch_begin
        for each batch:
            batch_begin
            when somebody asked to leave it out:
                batch_skipped
            for each optimizer:
                backward_begin
                backward_end
                when its accumulation window is full:
                    optimizer_step
                    optimizer_stepped
            when it is trained:
                batch_end
        when validating:
            validation_begin
            for each validation batch:
                validation_batch_end
            validation_end
        epoch_end
        when somebody asked for something:
            control_requested
        when a checkpoint was asked for:
            checkpoint_save
            checkpoint_saved
    when the latest checkpoint is older than that:
        checkpoint_save
        checkpoint_saved
    when it failed:
        train_failed
    train_end

State comes first: when an event is announced, the trainer's counters already say so. A checkpoint or a validation may
also be asked for within an epoch; each comes after the next `batch_end` that completes the steps of all optimizers,
behind a `control_requested` that says who asked, unless the options did. An epoch that is stopped half-way has no
`epoch_end`; resumed, it begins again and goes on behind the batches that were trained. With `max_steps` reached within
an epoch, `metrics_logged` tells what the epoch came to. A failure leads from wherever it happens straight to
`train_failed`. Else `metrics_logged` comes whenever somebody calls `trainer.log`, `non_finite_found` when a loss or
gradients were not finite and training goes on, `listener_failed` when a listener failed, `listener_recovered` when it
is served again, `hooks_switched` after `HookRegistry.disable` and `enable`, `model_export` and `model_exported` around
an export, which is no part of the loop.
"""  # noqa: D400  the sentence and the loop are one

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from bus import Event, Live, Recorded, Scalar
from frameworm.config import TrainerConfig
from frameworm.facts import RunFacts


class TrainerHandle(RunFacts, Protocol):
    """What a listener in step may use of the trainer besides the facts: to steer, and to look inside."""

    @property
    def model(self) -> Any:
        """The model that is trained, a `torch.nn.Module`."""

    @property
    def optimizer(self) -> Any:
        """Its `torch.optim.Optimizer`; the first one, if it has several."""

    @property
    def options(self) -> TrainerConfig:
        """How it trains: the `trainer` section of the config."""

    @property
    def batches_per_epoch(self) -> int | None:
        """How many batches an epoch has, where the data can tell."""

    @property
    def optimizers(self) -> Mapping[str, Any]:
        """All of its optimizers, by their names; a single one is called `optimizer`."""

    def stop(self, reason: str = "asked to stop", *, by: str | None = None) -> None:
        """Ask to end training after the current optimizer step."""

    def skip_batch(self, reason: str = "asked to skip", *, by: str | None = None) -> None:
        """Ask to leave out the batch that begins, or else the next one."""

    def save_now(self, reason: str = "asked to save", *, by: str | None = None) -> None:
        """Ask for a checkpoint after the current optimizer step."""

    def validate_now(self, reason: str = "asked to validate", *, by: str | None = None) -> None:
        """Ask for a validation after the current optimizer step."""

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Publish metrics of one's own, as `metrics_logged`."""


class TrainingEvent(Event, frozen=True):
    """Base of the events below; `source` is the trainer."""

    name: ClassVar[str] = ""

    source: Live[TrainerHandle]


# The run


class TrainBegin(TrainingEvent, frozen=True):
    """Before training starts; all is built, and on its device."""

    arguments: ClassVar = ("trainer",)

    epochs: int


class TrainResumed(TrainingEvent, frozen=True):
    """The run goes on from a checkpoint."""

    arguments: ClassVar = ("trainer", "checkpoint")

    checkpoint: str


class TrainFailed(TrainingEvent, frozen=True):
    """Training was ended by an error; `train_end` follows. `message` is the error as `Type: text`."""

    arguments: ClassVar = ("trainer", "error")

    error: Live[BaseException]
    message: str


class TrainEnd(TrainingEvent, frozen=True):
    """After training, however it ended: `status` is `finished`, `stopped`, `failed` or `interrupted`."""

    arguments: ClassVar = ("trainer",)
    final: ClassVar = True

    status: str
    reason: str | None
    error: str | None


# Epochs and batches


class EpochBegin(TrainingEvent, frozen=True):
    """Start of an epoch."""

    arguments: ClassVar = ("trainer", "epoch")

    epoch: int


class EpochEnd(TrainingEvent, frozen=True):
    """End of an epoch, after its validation.

    `metrics` has `loss` (mean of the epoch's training loss), `train_*`, `val_*` and `lr`; listeners in step may add
    numbers to it, which later listeners and the record then have too.
    """

    arguments: ClassVar = ("trainer", "epoch", "metrics")
    additive: ClassVar = ("metrics",)

    epoch: int
    metrics: dict[str, float]


class BatchBegin(TrainingEvent, frozen=True):
    """Before a batch, which is on its device already."""

    arguments: ClassVar = ("trainer", "batch_idx", "batch")
    recorded: ClassVar = Recorded.ON_DEMAND

    batch_idx: int
    batch: Live[Any]


class BatchEnd(TrainingEvent, frozen=True):
    """After a batch; `loss` is detached, 0-dim and unscaled."""

    arguments: ClassVar = ("trainer", "batch_idx", "loss")
    recorded: ClassVar = Recorded.SAMPLED

    batch_idx: int
    loss: Scalar


class BatchSkipped(TrainingEvent, frozen=True):
    """A batch was left out since somebody asked for it, and `by` says who: it has no `batch_end`."""

    arguments: ClassVar = ("trainer", "batch_idx", "reason", "by")

    batch_idx: int
    reason: str
    by: str


# Gradients. Of a model with several optimizers, `optimizer` is the name of the one that trains; else it is None


class BackwardBegin(TrainingEvent, frozen=True):
    """Before the backward pass; `loss` is the 0-dim tensor with its graph, divided for accumulation."""

    arguments: ClassVar = ("trainer", "loss", "optimizer")
    recorded: ClassVar = Recorded.ON_DEMAND

    loss: Live[Any]
    optimizer: str | None = None


class BackwardEnd(TrainingEvent, frozen=True):
    """After the backward pass: this batch's gradients have been added to `parameter.grad`, in fp16 scaled."""

    arguments: ClassVar = ("trainer", "optimizer")
    recorded: ClassVar = Recorded.ON_DEMAND

    optimizer: str | None = None


class OptimizerStep(TrainingEvent, frozen=True):
    """Just before `optimizer.step()`, after unscaling and clipping: once per real step, not per batch."""

    arguments: ClassVar = ("trainer", "optimizer")
    recorded: ClassVar = Recorded.ON_DEMAND

    optimizer: str | None = None


class OptimizerStepped(TrainingEvent, frozen=True):
    """After the step. `grad_norm` is the total norm before clipping, None where nobody needed to know it.

    `skipped` says that the step was not taken, because the loss or the gradients were not finite.
    """

    arguments: ClassVar = ("trainer", "grad_norm", "skipped", "optimizer")
    recorded: ClassVar = Recorded.ON_DEMAND

    grad_norm: Scalar | None
    skipped: bool = False
    optimizer: str | None = None


class NonFiniteFound(TrainingEvent, frozen=True):
    """A loss or gradients (`what`) were nan or infinite, and `policy` lets training go on.

    Told at the 1st, 2nd, 4th, 8th ... time: `count` says how often it was.
    """

    arguments: ClassVar = ("trainer", "what", "policy", "count", "optimizer")

    what: str
    policy: str
    count: int
    optimizer: str | None = None


# Validation


class ValidationBegin(TrainingEvent, frozen=True):
    """Before validation; the model is in evaluation mode."""

    arguments: ClassVar = ("trainer",)


class ValidationBatchEnd(TrainingEvent, frozen=True):
    """After a batch of validation; `loss` is detached and 0-dim, `outputs` are what `compute_loss` returned."""

    arguments: ClassVar = ("trainer", "batch_idx", "loss", "batch", "outputs")
    recorded: ClassVar = Recorded.ON_DEMAND

    batch_idx: int
    loss: Scalar
    batch: Live[Any]
    outputs: Live[Mapping[str, Any]]


class ValidationEnd(TrainingEvent, frozen=True):
    """After validation; `metrics` are the `val_*` ones, to which listeners in step may add.

    `asked` tells one that somebody asked for from those that come by themselves.
    """

    arguments: ClassVar = ("trainer", "metrics", "asked")
    additive: ClassVar = ("metrics",)

    metrics: dict[str, float]
    asked: bool = False


# Checkpoints and export


class CheckpointSave(TrainingEvent, frozen=True):
    """Before a checkpoint is written; `path` is where it will be."""

    arguments: ClassVar = ("trainer", "path")

    path: str


class CheckpointSaved(TrainingEvent, frozen=True):
    """A checkpoint is complete and durable."""

    arguments: ClassVar = ("trainer", "path")

    path: str


class CheckpointLoad(TrainingEvent, frozen=True):
    """After a checkpoint was loaded; `checkpoint` is its state other than the weights, `path` where it lies."""

    arguments: ClassVar = ("trainer", "checkpoint")

    checkpoint: Live[dict[str, Any]]
    path: str


class ModelExport(TrainingEvent, frozen=True):
    """Before a model is written in one format; a listener in step that raises `StopTraining` refuses it."""

    arguments: ClassVar = ("model", "exporter", "format")

    model: Live[Any]
    exporter: Live[Any]
    format: str


class ModelExported(TrainingEvent, frozen=True):
    """A model was exported to `path`."""

    arguments: ClassVar = ("trainer", "path", "format")

    path: str
    format: str


# What else is worth knowing


class MetricsLogged(TrainingEvent, frozen=True):
    """Somebody logged metrics of their own through `trainer.log`."""

    arguments: ClassVar = ("trainer", "metrics")

    metrics: Mapping[str, float]


class ControlRequested(TrainingEvent, frozen=True):
    """The loop serves what was asked of it: `verb` is stop, interrupt, save or validate, `by` says who asked."""

    arguments: ClassVar = ("trainer", "verb", "reason", "by")

    verb: str
    reason: str
    by: str


class ListenerFailed(TrainingEvent, frozen=True):
    """A listener raised. Told at its 1st, 2nd, 4th, 8th ... failure: `count` says how many there were.

    `during` is the name of the event that it failed on.
    """

    arguments: ClassVar = ("trainer", "listener", "during", "error")

    listener: str
    during: str
    error: str
    count: int


class HooksSwitched(TrainingEvent, frozen=True):
    """The hooks of `HookRegistry` and the callbacks were silenced or are called again."""

    arguments: ClassVar = ("trainer", "enabled")

    enabled: bool


class ListenerRecovered(TrainingEvent, frozen=True):
    """A listener that was out of service is served again."""

    arguments: ClassVar = ("trainer", "listener")

    listener: str
