"""Losses and gradients that are not finite, under each policy: the run ends, the step is left out, or neither."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bus.testing import record
from frameworm import app
from frameworm.config import parse
from frameworm.delivery.journal import journal_path
from frameworm.errors import NonFiniteError
from frameworm.events import BackwardEnd, EpochEnd, NonFiniteFound, OptimizerStep, OptimizerStepped
from frameworm.training.trainer import Trainer
from tests.frameworm.training.toys import (
    Batch,
    a_perceptron,
    a_trainer,
    as_on_a_device,
    same,
    sgd,
    some_batches,
    train_by_hand,
    weights,
)


def spoilt_batches(count: int = 6, spoilt: int = 2, poison: float = math.nan) -> list[Batch]:
    """Return batches, of which one makes the loss nan."""
    batches = some_batches(count)
    batches[spoilt] = (batches[spoilt][0] * poison, batches[spoilt][1])
    return batches


def with_a_spoilt_gradient(trainer: Trainer, at: int = 2, poison: float = math.inf) -> Trainer:
    """Have the backward pass of one batch give a gradient that is not finite."""
    seen = [0]

    @trainer.bus.on(BackwardEnd)
    def spoil(event: BackwardEnd) -> None:
        if seen[0] == at:
            next(iter(event.source.model.parameters())).grad[0, 0] = poison
        seen[0] += 1

    return trainer


def finite(model: Any) -> bool:
    """Whether all weights are."""
    return all(bool(value.isfinite().all()) for value in weights(model).values())


# skip_step


@pytest.mark.parametrize(("accumulate", "left_out"), [(1, [2]), (2, [2, 3]), (3, [0, 1, 2])])
def test_a_spoilt_loss_has_its_step_left_out(accumulate: int, left_out: list[int]) -> None:
    """The whole window's: the weights are those of training without those batches, the means those of the others."""
    model, other = a_perceptron(), a_perceptron()
    batches = spoilt_batches()
    losses = train_by_hand(
        model,
        [batch for index, batch in enumerate(batches) if index not in left_out],
        sgd(model),
        accumulate=accumulate,
    )
    trainer = a_trainer(other, batches, optimizer=sgd(other), accumulate=accumulate, non_finite="skip_step")
    with record(trainer.bus, OptimizerStepped, NonFiniteFound, EpochEnd) as events:
        result = trainer.fit()
    assert same(weights(other), weights(model))
    skipped = [event.skipped for event in events if isinstance(event, OptimizerStepped)]
    assert skipped.index(True) == 2 // accumulate
    assert skipped.count(True) == 1
    assert (result.steps, result.metrics["skipped_steps"]) == (6 // accumulate, 1)
    (found,) = [event for event in events if isinstance(event, NonFiniteFound)]
    assert (found.what, found.policy, found.count, found.optimizer) == ("loss", "skip_step", 1, None)
    assert math.isfinite(result.metrics["loss"])
    if accumulate == 1:
        assert result.metrics["loss"] == pytest.approx(sum(losses) / len(losses))


@pytest.mark.parametrize("options", [{"clip_norm": 1.0}, {"check_gradients": True}], ids=str)
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_spoilt_gradient_has_its_step_left_out(options: dict[str, Any], poison: float) -> None:
    """Found by the norm, which clipping computes anyway; there is no step then, and no event before it."""
    batches = some_batches(6)
    model, other = a_perceptron(), a_perceptron()
    clip = options.get("clip_norm")
    train_by_hand(model, batches[:2] + batches[3:], sgd(model), clip_norm=clip)
    trainer = a_trainer(other, batches, optimizer=sgd(other), non_finite="skip_step", **options)
    with record(trainer.bus, OptimizerStep) as steps, record(trainer.bus, NonFiniteFound) as found:
        result = with_a_spoilt_gradient(trainer, poison=poison).fit()
    assert same(weights(other), weights(model))
    assert len(steps) == 5
    assert (result.steps, result.metrics["skipped_steps"]) == (6, 1)
    assert [(event.what, event.count) for event in found] == [("gradients", 1)]


def test_an_epoch_whose_losses_are_all_spoilt_has_a_loss_that_is_nan() -> None:
    """It is no mean of nothing, and no epoch without batches."""
    batches = [(x * math.nan, y) for x, y in some_batches(3)]
    model = a_perceptron()
    before = weights(model)
    result = a_trainer(model, batches, non_finite="skip_step").fit()
    assert math.isnan(result.metrics["loss"])
    assert result.metrics["skipped_steps"] == 3
    assert same(weights(model), before)


# ignore


def test_what_is_ignored_is_told_ever_more_seldom_and_stays_in_the_mean() -> None:
    """Training goes on with it; nothing hides it."""
    batches = [(x * math.nan, y) for x, y in some_batches(9)]
    model = a_perceptron()
    trainer = a_trainer(model, batches, non_finite="ignore", optimizer=sgd(model))
    with record(trainer.bus, NonFiniteFound) as found:
        result = trainer.fit()
    assert [event.count for event in found] == [1, 2, 4, 8]
    assert result.status == "finished"
    assert math.isnan(result.metrics["loss"])
    assert "skipped_steps" not in result.metrics
    assert not finite(model)


def test_gradients_are_looked_at_only_where_they_were_asked_for() -> None:
    """Without clipping and without `check_gradients` the weights are spoilt, and the next loss tells."""
    trainer = with_a_spoilt_gradient(a_trainer(train_data=some_batches(6)), poison=math.nan)
    with pytest.raises(NonFiniteError) as caught:
        trainer.fit()
    assert (caught.value.what, caught.value.step) == ("loss", 3)


# raise


@pytest.mark.parametrize("options", [{"clip_norm": 1.0}, {"check_gradients": True}], ids=str)
def test_a_spoilt_gradient_ends_the_run_before_it_touches_a_weight(options: dict[str, Any]) -> None:
    """The error says that it were the gradients."""
    model = a_perceptron()
    trainer = with_a_spoilt_gradient(a_trainer(model, some_batches(6), **options))
    with pytest.raises(NonFiniteError, match=r"the norm of the gradients is (inf|nan) in epoch 0, after 2 steps"):
        trainer.fit()
    assert finite(model)


def test_on_a_device_gradients_are_looked_at_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum of the norms tells, as late as `log_every`."""
    as_on_a_device(monkeypatch)
    trainer = a_trainer(train_data=some_batches(9), clip_norm=1.0, log_every=4, optimizer="sgd")

    @trainer.bus.on(OptimizerStep)
    def mend(event: OptimizerStep) -> None:
        for parameter in event.source.model.parameters():
            parameter.grad.zero_()  # so that the loss stays finite, and only the norm can tell

    with pytest.raises(NonFiniteError) as caught:
        with_a_spoilt_gradient(trainer, at=5).fit()
    assert (caught.value.what, caught.value.step) == ("gradients", 7)


# fp16


def test_the_scaler_finds_its_scale_without_anybody_being_alarmed() -> None:
    """Steps that it leaves out are counted as skipped; they are no finding, under whichever policy."""
    model = a_perceptron()
    trainer = a_trainer(
        model, some_batches(6), precision="fp16", clip_norm=1.0, scheduler="linear", optimizer=sgd(model)
    )
    before: list[dict[str, Tensor]] = []
    after: list[dict[str, Tensor]] = []
    trainer.bus.subscribe(OptimizerStep, lambda _event: before.append(weights(model)))
    trainer.bus.subscribe(OptimizerStepped, lambda event: after.append(weights(model)) if event.skipped else None)
    with record(trainer.bus, OptimizerStepped, NonFiniteFound) as events:
        result = with_a_spoilt_gradient(trainer, at=0).fit()
    assert [event.skipped for event in events] == [True] + [False] * 5
    assert same(after[0], before[0])
    assert (result.steps, result.metrics["skipped_steps"], result.status) == (6, 1, "finished")


# The record


def test_the_log_shows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a run that is kept, as valid JSON, with what the policy was."""
    monkeypatch.chdir(tmp_path)
    config = parse(
        "data: {name: synthetic, batch_size: 8, samples: 64, inputs: 3, targets: 1}\n"
        "model: {name: mlp, inputs: 3, outputs: 1, loss: mse}\n"
        "trainer: {epochs: 1, device: cpu, non_finite: skip_step}\n"
    )
    with app.session(config) as trainer:
        compute_loss: Any = trainer.model.compute_loss
        calls = [0]

        def spoilt(x: Tensor, y: Tensor) -> dict[str, Tensor]:
            calls[0] += 1
            outputs: dict[str, Tensor] = compute_loss(x * math.nan if calls[0] == 3 else x, y)
            return outputs

        trainer._optimizations[0].loss_function._compute_loss = spoilt
        directory = trainer.run.directory
        trainer.fit()
    assert directory is not None
    lines = [json.loads(line) for line in journal_path(directory).read_text("utf-8").splitlines()]
    (found,) = [line for line in lines if line["event"] == "non_finite_found"]
    assert (found["what"], found["policy"], found["step"]) == ("loss", "skip_step", 2)
    assert torch.isfinite(torch.tensor(trainer.metrics["loss"]))
