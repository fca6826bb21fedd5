"""A model against validation data: the right means and metrics, in evaluation mode, and abandoned when asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bus import EventBus
from bus.testing import record
from frameworm.core import register_metric, registries
from frameworm.errors import DataError, UnknownNameError, UserError
from frameworm.events import EpochEnd, ValidationBatchEnd, ValidationBegin, ValidationEnd
from frameworm.models import VAE
from frameworm.training.contract import LossFunction
from frameworm.training.evaluation import Evaluation
from frameworm.training.feed import Feed
from tests.frameworm.training.toys import CLASSES, Batch, a_perceptron, a_trainer, some_batches

CPU = torch.device("cpu")


def an_evaluation(
    model: nn.Module, data: Any, metrics: Sequence[str] = (), *, bus: EventBus | None = None
) -> Evaluation:
    """Return an evaluation on the CPU."""
    return Evaluation(
        a_trainer(),
        bus or EventBus(),
        model=model,
        loss_function=LossFunction(model, "m"),
        predict=model,
        feed=Feed(data, CPU, epochs=2),
        metrics=metrics,
        device=CPU,
    )


def whole(batches: list[Batch]) -> Batch:
    """Return all batches as one."""
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


class Reporting(nn.Module):
    """Classifies by its one layer, counts its forward passes and reports more than a loss."""

    def __init__(self, **outputs: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(6, CLASSES)
        self.outputs = outputs
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        self.passes += 1
        logits: Tensor = self.layer(x)
        return logits

    def compute_loss(self, x: Tensor, y: Tensor) -> dict[str, Any]:
        """Return the loss and what it was made with, computed of the logits."""
        logits = self(x)
        given = {name: make(logits, y) for name, make in self.outputs.items()}
        return {"loss": functional.cross_entropy(logits, y), **given}


def test_the_loss_is_the_mean_over_all_samples() -> None:
    """A smaller last batch counts for less."""
    model = a_perceptron()
    batches = [*some_batches(2, size=5), *some_batches(1, size=2, seed=1)]
    found = an_evaluation(model, batches).run()
    assert found is not None
    assert found["val_loss"] == pytest.approx(model.compute_loss(*whole(batches))["loss"].item(), rel=1e-6)


def test_a_metric_is_taken_over_all_batches() -> None:
    """Streamed or not, it is what it would be on all data at once."""
    model = a_perceptron()
    batches = [*some_batches(2, size=5), *some_batches(1, size=2, seed=1)]
    x, y = whole(batches)
    right = (model(x).argmax(1) == y).float().mean().item()

    def share(targets: Tensor, predictions: Tensor) -> Tensor:
        assert len(targets) == 12
        return (predictions.argmax(1) == targets).float().mean()

    class Share:
        def __call__(self, targets: Tensor, predictions: Tensor) -> float:
            return share(targets, predictions).item()

    register_metric("share", share)
    register_metric("share_class", Share)
    try:
        found = an_evaluation(model, batches, ["accuracy", "share", "share_class"]).run()
    finally:
        registries["metric"].unregister("share")
        registries["metric"].unregister("share_class")
    assert found is not None
    assert found["val_accuracy"] == found["val_share"] == found["val_share_class"] == pytest.approx(right)


def test_each_evaluation_begins_anew() -> None:
    """Metrics forget the one before, also one that was abandoned half-way."""
    model, batches = a_perceptron(), some_batches(3)
    evaluation = an_evaluation(model, batches, ["accuracy"])
    first = evaluation.run()
    answers = iter([False, True])
    assert evaluation.run(abandoned=lambda: next(answers)) is None
    assert evaluation.run() == first


def test_other_scalars_of_the_model_are_validated_as_well() -> None:
    """Under their names."""
    model = Reporting(confidence=lambda logits, y: logits.softmax(1).amax(1).mean())
    found = an_evaluation(model, some_batches()).run()
    assert found is not None
    assert list(found) == ["val_loss", "val_confidence"]


def test_predictions_of_the_loss_spare_a_forward_pass() -> None:
    """Without them the model is called for the metrics."""
    model = Reporting(predictions=lambda logits, y: logits)
    first = an_evaluation(model, some_batches(3), ["accuracy"]).run()
    assert model.passes == 3
    plain = Reporting()
    plain.load_state_dict(model.state_dict())
    assert an_evaluation(plain, some_batches(3), ["accuracy"]).run() == first
    assert plain.passes == 6


def test_a_model_may_say_what_its_targets_are() -> None:
    """As for batches that are no pairs."""
    model = Reporting(predictions=lambda logits, y: logits, targets=lambda logits, y: logits.argmax(1))
    found = an_evaluation(model, [{"x": x, "y": y} for x, y in some_batches()], ["accuracy"]).run()
    assert found is not None
    assert found["val_accuracy"] == 1.0


def test_a_mapping_has_its_targets_under_y() -> None:
    """And its inputs first."""
    model = a_perceptron()
    pairs = some_batches()
    assert an_evaluation(model, [{"x": x, "y": y} for x, y in pairs], ["accuracy"]).run() == (
        an_evaluation(model, pairs, ["accuracy"]).run()
    )


def test_metrics_of_predictions_without_targets_are_an_error() -> None:
    """It says which metrics, which model, and what would do."""

    class Unsupervised(nn.Module):
        def compute_loss(self, x: Tensor) -> dict[str, Tensor]:
            return {"loss": x.mean()}

    with pytest.raises(UserError, match=r"accuracy.*need targets") as caught:
        an_evaluation(Unsupervised(), [torch.ones(4, 2)], ["accuracy"]).run()
    assert "model 'm'" in str(caught.value.where)


def test_a_generative_model_is_measured_by_its_samples() -> None:
    """Against as many real images; with targets in the batches or without."""
    model = VAE({"model": {"size": 2, "hidden": 8, "latent_dim": 2}})
    images = torch.rand(6, 1, 2, 2)
    seen: list[tuple[Tensor, Tensor]] = []

    def brightness(real_images: Tensor, fake_images: Tensor) -> Tensor:
        seen.append((real_images, fake_images))
        return (real_images.mean() - fake_images.mean()).abs()

    register_metric("brightness", brightness)
    try:
        for data in ([images[:4], images[4:]], [(images[:4], torch.zeros(4)), (images[4:], torch.zeros(2))]):
            found = an_evaluation(model, data, ["brightness", "frechet_pixels"]).run()
            assert found is not None
            assert list(found) == ["val_loss", "val_reconstruction", "val_kl", "val_brightness", "val_frechet_pixels"]
    finally:
        registries["metric"].unregister("brightness")
    assert all(torch.equal(real, images) and fake.shape == images.shape for real, fake in seen)


def test_the_model_is_in_evaluation_mode_and_makes_no_graphs() -> None:
    """Already when it begins; training switches back."""
    model = a_perceptron(dropout=0.5)
    trainer = a_trainer(model, some_batches(1), some_batches(1), epochs=2)
    modes: list[tuple[str, bool, bool]] = []

    def look(event: Any) -> None:
        modes.append((event.name, model.training, torch.is_grad_enabled()))

    for name in ("epoch_begin", "batch_end", "validation_begin", "validation_batch_end", "validation_end"):
        trainer.bus.subscribe(name, look)
    trainer.fit()
    epoch = [
        ("epoch_begin", True, True),
        ("batch_end", True, True),
        ("validation_begin", False, False),
        ("validation_batch_end", False, False),
        ("validation_end", False, True),
    ]
    assert modes == epoch * 2


def test_every_batch_is_announced_with_its_loss() -> None:
    """Detached and 0-dim; the end is left to the caller."""
    bus = EventBus()
    model, batches = a_perceptron(), some_batches(2)
    with record(bus) as events:
        an_evaluation(model, batches, bus=bus).run()
    assert [type(event) for event in events] == [ValidationBegin, ValidationBatchEnd, ValidationBatchEnd]
    losses = [model.compute_loss(*batch)["loss"].item() for batch in batches]
    assert [(event.batch_idx, event.loss.item()) for event in events[1:]] == list(enumerate(losses))
    assert not any(event.loss.requires_grad for event in events[1:])


def test_data_without_batches_are_an_error() -> None:
    """Else the metrics that early stopping and the best checkpoint go by would be missing, silently."""
    with pytest.raises(DataError, match="validation data have no batches"):
        an_evaluation(a_perceptron(), []).run()


def test_a_loss_that_is_not_finite_is_reported_as_it_is() -> None:
    """Validation changes no weight: nothing is hidden, nothing stops."""
    x, y = some_batches(1)[0]
    found = an_evaluation(a_perceptron(), [(x * math.nan, y)]).run()
    assert found is not None
    assert math.isnan(found["val_loss"])


def test_metrics_without_validation_data_are_an_error_at_once() -> None:
    """Before anything is trained."""
    with pytest.raises(UserError, match="metrics are taken at validation") as caught:
        a_trainer(metrics=["accuracy"])
    assert caught.value.got == "metrics: accuracy"


def test_an_unknown_metric_is_an_error_at_once() -> None:
    """With the nearest name."""
    with pytest.raises(UnknownNameError) as caught:
        a_trainer(a_perceptron(), some_batches(), some_batches(), metrics=["acuracy"])
    assert caught.value.nearest == "accuracy"


@pytest.mark.parametrize(("every", "validated"), [(1, [0, 1, 2, 3, 4]), (2, [1, 3, 4]), (3, [2, 4]), (9, [4])])
def test_each_so_many_th_epoch_is_validated_and_the_last(every: int, validated: list[int]) -> None:
    """The others have no validation metrics."""
    trainer = a_trainer(a_perceptron(), some_batches(), some_batches(), epochs=5, validate_every=every)
    with record(trainer.bus, ValidationEnd) as validations, record(trainer.bus, EpochEnd) as ends:
        trainer.fit()
    assert [event.epoch for event in ends if "val_loss" in event.metrics] == validated
    assert len(validations) == len(validated)


def test_bf16_is_for_the_metrics_predictions_too() -> None:
    """They are what the model gives in that precision."""
    dtypes: list[torch.dtype] = []

    def dtype(targets: Tensor, predictions: Tensor) -> float:
        dtypes.append(predictions.dtype)
        return 0.0

    register_metric("dtype", dtype)
    try:
        a_trainer(a_perceptron(), some_batches(), some_batches(), metrics=["dtype"], precision="bf16").fit()
    finally:
        registries["metric"].unregister("dtype")
    assert dtypes == [torch.bfloat16]
