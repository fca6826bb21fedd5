"""One step: the same numbers as a hand-written loop, and every event of it in its place."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau, StepLR

from bus.testing import record
from frameworm.config import Named
from frameworm.errors import ModelContractError, NonFiniteError
from frameworm.events import BackwardBegin, BackwardEnd, BatchEnd, EpochEnd, OptimizerStep, OptimizerStepped
from frameworm.training.schedules import Schedule
from tests.frameworm.training.toys import (
    Batch,
    Scripted,
    a_perceptron,
    a_trainer,
    adamw,
    as_on_a_device,
    same,
    sgd,
    some_batches,
    train_by_hand,
    weights,
)

Make = Callable[[nn.Module], Optimizer]


class Stream:
    """Batches that do not say how many they are."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)


def assert_as_by_hand(
    make: Make, options: dict[str, Any], *, data: Any = None, schedule: Callable[[Optimizer], LRScheduler] | None = None
) -> None:
    """Train 3 epochs of 5 batches with dropout, by hand and with the trainer, and compare every bit."""
    batches = some_batches(5)
    model = a_perceptron(dropout=0.3)
    optimizer = make(model)
    scheduler = schedule(optimizer) if schedule else None
    expected = train_by_hand(model, batches, optimizer, epochs=3, scheduler=scheduler, **options)

    other = a_perceptron(dropout=0.3)
    optimizer = make(other)
    scheduler = schedule(optimizer) if schedule else None
    data = batches if data is None else data
    trainer = a_trainer(other, data, optimizer=optimizer, scheduler=scheduler, epochs=3, **options)
    with record(trainer.bus, BatchEnd) as ends:
        trainer.fit()

    assert [float(event.loss) for event in ends] == expected
    assert same(weights(other), weights(model))


# The same numbers as by hand


@pytest.mark.parametrize("make", [adamw, sgd])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate": 2},
        {"accumulate": 5},
        {"accumulate": 8},
        {"clip_norm": 0.1},
        {"clip_value": 0.01},
        {"clip_norm": 0.1, "clip_value": 0.01},
        {"precision": "bf16"},
        {"precision": "fp16"},
        {"accumulate": 3, "clip_norm": 0.1, "precision": "bf16"},
        {"accumulate": 3, "clip_norm": 0.1, "clip_value": 0.01, "precision": "fp16"},
    ],
    ids=str,
)
def test_losses_and_weights_are_those_of_a_hand_written_loop(make: Make, options: dict[str, Any]) -> None:
    """Bit for bit, the last and smaller accumulation window included."""
    assert_as_by_hand(make, options)


@pytest.mark.parametrize("make", [adamw, sgd])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_schedule_by_the_step_moves_as_by_hand(make: Make, accumulate: int) -> None:
    """It moves once for each optimizer step."""
    steps = 3 * math.ceil(5 / accumulate)
    assert_as_by_hand(make, {"accumulate": accumulate}, schedule=lambda optimizer: OneCycleLR(optimizer, 0.1, steps))
    assert_as_by_hand(make, {"accumulate": accumulate}, schedule=lambda optimizer: LambdaLR(optimizer, [_falling]))


def _falling(step: int) -> float:
    return 0.9**step


@pytest.mark.parametrize("make", [adamw, sgd])
def test_data_without_a_length_accumulate_as_by_hand(make: Make) -> None:
    """The last window is divided by its own size, though nobody knew it before."""
    assert_as_by_hand(make, {"accumulate": 2}, data=Stream(some_batches(5)))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_trainers_own_optimizer_is_torchs(accumulate: int) -> None:
    """An optimizer by name trains as the fused one that torch has."""
    model, other = a_perceptron(), a_perceptron()
    train_by_hand(model, some_batches(5), torch.optim.AdamW(model.parameters(), fused=True), accumulate=accumulate)
    a_trainer(other, some_batches(5), optimizer="adamw", accumulate=accumulate).fit()
    assert same(weights(other), weights(model))


# Events and state


def test_state_comes_before_the_event() -> None:
    """When a batch's end is announced, its step counts already; within a window it does not yet."""
    trainer = a_trainer(train_data=some_batches(3), accumulate=2)
    seen: list[tuple[str, int]] = []
    for event_type in (OptimizerStep, OptimizerStepped, BatchEnd):
        trainer.bus.subscribe(event_type, lambda event: seen.append((event.name, event.source.step)))
    trainer.fit()
    assert seen == [
        ("batch_end", 0),
        ("optimizer_step", 0),
        ("optimizer_stepped", 1),
        ("batch_end", 1),
        ("optimizer_step", 1),
        ("optimizer_stepped", 2),
        ("batch_end", 2),
    ]


def test_the_loss_has_its_graph_before_the_backward_pass_only() -> None:
    """It is divided for accumulation then; at the batch's end it is detached and whole."""
    trainer = a_trainer(train_data=some_batches(2), accumulate=2)
    begun: list[Tensor] = []
    trainer.bus.subscribe(BackwardBegin, lambda event: begun.append(event.loss))
    with record(trainer.bus, BatchEnd) as ends:
        trainer.fit()
    assert all(loss.requires_grad and loss.shape == () for loss in begun)
    assert all(not event.loss.requires_grad and event.loss.shape == () for event in ends)
    assert [loss.item() * 2 for loss in begun] == [event.loss.item() for event in ends]


def test_gradients_are_there_from_the_backward_pass_to_the_batchs_end() -> None:
    """A listener that logs gradients sees those of its batch, and what the optimizer is about to use after clipping."""
    trainer = a_trainer(train_data=some_batches(2), clip_norm=0.01, optimizer="sgd")
    parameters = list(trainer.model.parameters())
    norms: dict[str, list[float]] = {"backward_end": [], "optimizer_step": [], "batch_end": []}

    def look(event: Any) -> None:
        grads = [parameter.grad for parameter in parameters]
        norms[event.name].append(float(nn.utils.get_total_norm([grad for grad in grads if grad is not None])))

    for event_type in (BackwardEnd, OptimizerStep, BatchEnd):
        trainer.bus.subscribe(event_type, look)
    with record(trainer.bus, OptimizerStepped) as stepped:
        trainer.fit()
    assert norms["backward_end"] == pytest.approx([float(event.grad_norm) for event in stepped])
    assert norms["optimizer_step"] == pytest.approx([0.01, 0.01], rel=1e-4)
    assert norms["batch_end"] == norms["optimizer_step"]


def test_without_clipping_nobody_computes_a_norm() -> None:
    """Then the event says so."""
    trainer = a_trainer()
    with record(trainer.bus, OptimizerStepped) as stepped:
        trainer.fit()
    assert [(event.grad_norm, event.skipped) for event in stepped] == [(None, False)] * 3


def test_clipping_is_of_what_the_optimizer_trains() -> None:
    """A part that it does not train has gradients that grow for ever, and would shrink all others."""
    model = a_perceptron()
    head = model.layers[3]
    trainer = a_trainer(model, some_batches(3), optimizer=SGD(head.parameters(), lr=0.1), clip_norm=0.01)
    norms: list[float] = []

    @trainer.bus.on(OptimizerStep)
    def look(_event: OptimizerStep) -> None:
        norms.append(float(nn.utils.get_total_norm([p.grad for p in head.parameters() if p.grad is not None])))

    trainer.fit()
    assert norms == pytest.approx([0.01] * 3, rel=1e-4)


def test_a_part_that_a_hook_thaws_is_clipped_with_the_rest() -> None:
    """Parameters are looked up when they are needed, not when the trainer was made."""
    model = a_perceptron()
    model.layers[0].requires_grad_(requires_grad=False)
    trainer = a_trainer(model, some_batches(2), optimizer=sgd(model), clip_norm=0.01)
    before = weights(model)

    @trainer.bus.on(OptimizerStepped)
    def thaw(event: OptimizerStepped) -> None:
        model.layers[0].requires_grad_(requires_grad=True)

    totals: list[float] = []

    @trainer.bus.on(OptimizerStep)
    def look(_event: OptimizerStep) -> None:
        totals.append(float(nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])))

    trainer.fit()
    assert totals == pytest.approx([0.01] * 2, rel=1e-4)
    assert not torch.equal(weights(model)["layers.0.weight"], before["layers.0.weight"])


# Schedules that move with the epochs


def test_a_schedule_by_the_epoch_moves_when_the_epoch_is_done() -> None:
    """The epoch's metrics have the rate that it was trained with; its end finds the next one."""
    model = a_perceptron()
    optimizer = sgd(model)
    schedule = Schedule(StepLR(optimizer, 1, gamma=0.1), "epoch")
    trainer = a_trainer(model, optimizer=optimizer, scheduler=schedule, epochs=3)
    rates: list[tuple[float, float]] = []

    @trainer.bus.on(EpochEnd)
    def look(event: EpochEnd) -> None:
        rates.append((event.metrics["lr"], optimizer.param_groups[0]["lr"]))

    trainer.fit()
    assert rates == [pytest.approx((0.1 * 0.1**n, 0.1 * 0.1 ** (n + 1))) for n in range(3)]


class Watching(ReduceLROnPlateau):
    """Remembers what it was told."""

    def __init__(self, optimizer: Optimizer) -> None:
        super().__init__(optimizer)
        self.watched: list[float] = []

    def step(self, metrics: Any, epoch: Any = None) -> None:  # type: ignore[override]  # as torch itself does
        """Remember."""
        self.watched.append(metrics)
        super().step(metrics, epoch)


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_plateau_is_one_of_the_validations_loss(wrapped: bool) -> None:  # noqa: FBT001  two ways of one behaviour
    """Where there is validation, epochs without it do not count."""
    model = a_perceptron()
    optimizer = sgd(model)
    plateau = Watching(optimizer)
    trainer = a_trainer(
        model,
        some_batches(),
        some_batches(seed=1),
        optimizer=optimizer,
        scheduler=Schedule(plateau, "epoch") if wrapped else plateau,
        epochs=4,
        validate_every=2,
    )
    with record(trainer.bus, EpochEnd) as ends:
        trainer.fit()
    assert plateau.watched == [event.metrics["val_loss"] for event in ends if "val_loss" in event.metrics]
    assert len(plateau.watched) == 2


def test_without_validation_a_plateau_is_one_of_the_training_loss() -> None:
    """There is no other."""
    model = a_perceptron()
    optimizer = sgd(model)
    plateau = Watching(optimizer)
    trainer = a_trainer(model, optimizer=optimizer, scheduler=plateau, epochs=2)
    with record(trainer.bus, EpochEnd) as ends:
        trainer.fit()
    assert plateau.watched == [event.metrics["loss"] for event in ends]


def test_a_plateau_by_name_is_watched_too() -> None:
    """Its options are torch's."""
    scheduler = Named("reduce_lr_on_plateau", {"factor": 0.5, "patience": 0, "threshold": 0.9, "eps": 0.0})
    trainer = a_trainer(optimizer=Named("sgd", {"lr": 1e-3}), scheduler=scheduler, epochs=3)
    trainer.fit()
    assert trainer.optimizer.param_groups[0]["lr"] == 1e-3 * 0.5**2


# What goes wrong


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loss_that_is_not_finite_touches_no_weight(poison: float, accumulate: int) -> None:
    """The error says where; the weights are those of the last good step."""
    model = a_perceptron()
    batches = some_batches(4)
    batches[3] = (torch.full_like(batches[3][0], poison), batches[3][1])
    trainer = a_trainer(model, batches, accumulate=accumulate, epochs=2)
    good: list[dict[str, Tensor]] = []
    trainer.bus.subscribe(OptimizerStepped, lambda _event: good.append(weights(model)))
    with pytest.raises(NonFiniteError) as caught:
        trainer.fit()
    assert (caught.value.epoch, caught.value.step) == (0, 3 // accumulate)
    assert not math.isfinite(caught.value.value)
    assert same(weights(model), good[-1])
    assert trainer.status == "failed"


def test_a_loss_without_a_graph_is_the_models_fault() -> None:
    """The error names the model instead of torch's element 0."""
    model = Scripted(lambda model, batch: {"loss": model.weight.detach() * 2})
    with pytest.raises(ModelContractError, match="does not depend on its parameters") as caught:
        a_trainer(model).fit()
    assert caught.value.model == "Scripted"


def test_another_error_in_the_backward_pass_stays_itself() -> None:
    """It is torch's, and torch knows best."""

    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(_context: Any, value: Tensor) -> Tensor:
            return value.clone()

        @staticmethod
        def backward(_context: Any, _gradient: Tensor) -> Tensor:
            raise RuntimeError("backward broke")

    model = Scripted(lambda model, batch: {"loss": Broken.apply(model.weight)})  # type: ignore[no-untyped-call]
    with pytest.raises(RuntimeError, match="backward broke"):
        a_trainer(model).fit()


# Nothing waits for a device

WAITS = ("item", "__bool__", "__float__", "__int__", "__index__", "tolist", "numpy", "cpu")


@pytest.mark.parametrize(
    "options",
    [{}, {"accumulate": 2}, {"clip_norm": 0.1}, {"check_gradients": True}, {"clip_value": 0.1, "ema": 0.9}],
    ids=str,
)
def test_a_step_asks_a_device_for_nothing_but_once_in_log_every(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """All methods of a tensor that wait for its device are counted, in steps that sum up as they do on a device."""
    as_on_a_device(monkeypatch)
    model = a_perceptron()
    trainer = a_trainer(model, some_batches(6), optimizer=adamw(model), scheduler="cosine", log_every=4, **options)
    waited: list[tuple[str, int]] = []
    training = True

    def counting(name: str) -> Callable[..., Any]:
        method = getattr(Tensor, name)

        def call(tensor: Tensor, *args: Any) -> Any:
            if training:
                waited.append((name, last[0]))
            return method(tensor, *args)

        return call

    for name in WAITS:
        monkeypatch.setattr(Tensor, name, counting(name))
    last = [-1]

    @trainer.bus.on(BatchEnd)
    def batch_end(event: BatchEnd) -> None:
        nonlocal training
        last[0] = event.batch_idx
        training = event.batch_idx < 5

    trainer.fit()
    assert set(waited) == {("item", 2)}
    assert len(waited) == 1 + bool(options.keys() & {"clip_norm", "check_gradients"})
