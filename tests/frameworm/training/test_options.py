"""The loop's options: each changes what it says and nothing else, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

from bus.testing import record
from frameworm.config import Named
from frameworm.errors import DataError
from frameworm.events import (
    EpochEnd,
    MetricsLogged,
    OptimizerStepped,
    ValidationBatchEnd,
    ValidationBegin,
    ValidationEnd,
)
from frameworm.training.feed import Feed
from frameworm.training.seeding import isolated_rng
from frameworm.training.store import CheckpointStore
from frameworm.training.trainer import Trainer
from tests.frameworm.training.toys import (
    Perceptron,
    a_perceptron,
    a_trainer,
    same,
    sgd,
    some_batches,
    train_by_hand,
    weights,
)

CPU = torch.device("cpu")


def by_hand(model: Perceptron, **options: Any) -> None:
    """Train 3 epochs of 5 batches."""
    train_by_hand(model, some_batches(5), sgd(model), epochs=3, **options)


def trained(model: Perceptron, val_data: Any = None, **options: Any) -> Trainer:
    """Return a trainer that has done the same."""
    trainer = a_trainer(model, some_batches(5), val_data, optimizer=sgd(model), **{"epochs": 3, **options})
    trainer.fit()
    return trainer


# The average of the weights


def test_the_average_is_torchs() -> None:
    """What validation computes with is what `AveragedModel` has, and training does not notice it."""
    model, other = a_perceptron(0.3), a_perceptron(0.3)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8))  # type: ignore[no-untyped-call]
    torch.manual_seed(1)
    by_hand(model, average=average)

    validated: list[dict[str, Tensor]] = []
    torch.manual_seed(1)
    trainer = a_trainer(other, some_batches(5), some_batches(1), optimizer=sgd(other), epochs=3, ema=0.8)
    trainer.bus.subscribe(ValidationBegin, lambda _event: validated.append(weights(other)))
    trainer.fit()
    assert same(weights(other), weights(model))
    assert same(validated[-1], weights(average.module))
    assert not same(validated[-1], weights(model))


def test_the_weights_are_back_when_validation_fails() -> None:
    """A run that goes on after it must not go on with the average."""
    model = a_perceptron()
    before: list[dict[str, Tensor]] = []
    trainer = a_trainer(model, some_batches(3), [(torch.zeros(2, 1), torch.zeros(2))], ema=0.5)
    trainer.bus.subscribe(OptimizerStepped, lambda _event: before.append(weights(model)))
    with pytest.raises(RuntimeError, match="shapes"):
        trainer.fit()
    assert same(weights(model), before[-1])


def test_a_model_on_which_nothing_was_trained_is_its_own_average() -> None:
    """Before the first step there is nothing to average."""
    model = a_perceptron()
    assert trained(model, some_batches(1), ema=0.9, sanity_batches=1).status == "finished"


# When it ends


@pytest.mark.parametrize("accumulate", [1, 2])
def test_it_ends_after_so_many_steps(accumulate: int) -> None:
    """In the middle of an epoch, which is told of, validated and saved; and the schedule ends there, too."""
    trainer = a_trainer(
        a_perceptron(),
        some_batches(5),
        some_batches(1),
        epochs=9,
        max_steps=4,
        accumulate=accumulate,
        scheduler=Named("linear", {}),
    )
    with record(trainer.bus, EpochEnd, ValidationEnd, MetricsLogged) as events:
        result = trainer.fit()
    assert (result.status, result.reason, result.steps, trainer.optimizer.param_groups[0]["lr"]) == (
        "finished",
        None,
        4,
        0.0,
    )
    whole = 4 * accumulate // 5
    assert [event.name for event in events] == ["validation_end", "epoch_end"] * whole + [
        "metrics_logged",
        "validation_end",
    ]
    assert result.metrics["val_loss"] == events[-1].metrics["val_loss"]


def test_the_weights_after_so_many_steps_are_those_by_hand() -> None:
    """No step more and none less."""
    model, other = a_perceptron(), a_perceptron()
    train_by_hand(model, some_batches(5) + some_batches(5)[:2], sgd(model))
    trained(other, max_steps=7)
    assert same(weights(other), weights(model))


def test_steps_that_end_with_an_epoch_end_it() -> None:
    """It is a whole epoch then, with its end and its validation, once."""
    trainer = a_trainer(train_data=some_batches(5), val_data=some_batches(1), epochs=9, max_steps=10, validate_every=5)
    with record(trainer.bus, EpochEnd, ValidationEnd) as events:
        result = trainer.fit()
    assert [event.name for event in events] == ["epoch_end", "validation_end", "epoch_end"]
    assert (result.epochs, result.steps, result.status) == (2, 10, "finished")


def test_a_run_that_has_its_steps_does_nothing_more(tmp_path: Path) -> None:
    """Resumed, it is finished at once; with more of them it goes on in the middle of the epoch."""
    store = CheckpointStore(tmp_path, monitor=None)
    a_trainer(train_data=some_batches(5), epochs=9, max_steps=7, checkpoints=store).fit()
    trainer = a_trainer(train_data=some_batches(5), epochs=9, max_steps=7)
    trainer.resume(tmp_path)
    assert trainer.fit().steps == 7
    trainer = a_trainer(a_perceptron(seed=3), some_batches(5), epochs=9, max_steps=12)
    trainer.resume(tmp_path)
    trainer.fit()
    straight = a_trainer(train_data=some_batches(5), epochs=9, max_steps=12)
    straight.fit()
    assert same(weights(trainer.model), weights(straight.model))


def test_it_ends_after_so_much_time() -> None:
    """Between two steps, as stopped, since more was asked for."""
    result = a_trainer(train_data=some_batches(5), epochs=10**6, max_time=0.05).fit()
    assert (result.status, result.reason) == ("stopped", "trainer.max_time: 0.05 s")
    assert result.steps > 0


# When it validates


def test_validation_by_the_steps_changes_nothing_in_the_training() -> None:
    """Dropout is on again after it, and the last weights are validated."""
    model, other = a_perceptron(0.3), a_perceptron(0.3)
    torch.manual_seed(1)
    by_hand(model)
    torch.manual_seed(1)
    trainer = a_trainer(other, some_batches(5), some_batches(2), optimizer=sgd(other), epochs=3, validate_every_steps=4)
    at: list[tuple[int, bool]] = []
    trainer.bus.subscribe(ValidationEnd, lambda event: at.append((event.source.step, event.asked)))
    trainer.fit()
    assert at == [(4, False), (8, False), (12, False), (15, False)]
    assert same(weights(other), weights(model))


def test_parts_in_evaluation_mode_stay_in_it() -> None:
    """A hook that has put them there is not undone by a validation between two steps."""
    model = a_perceptron()
    trainer = a_trainer(model, some_batches(5), some_batches(1), validate_every_steps=2)
    modes: list[tuple[bool, bool]] = []

    @trainer.bus.on(OptimizerStepped)
    def look(event: OptimizerStepped) -> None:
        if event.source.step == 1:
            model.layers[2].eval()
        modes.append((model.training, model.layers[2].training))

    trainer.fit()
    assert modes == [(True, False)] * 5


def test_a_plateau_is_one_of_all_validations() -> None:
    """By the steps, they come more than once an epoch."""
    model = a_perceptron()
    optimizer = sgd(model)
    plateau = ReduceLROnPlateau(optimizer, patience=100)
    trainer = a_trainer(
        model, some_batches(6), some_batches(1), optimizer=optimizer, scheduler=plateau, validate_every_steps=2
    )
    trainer.fit()
    assert plateau.last_epoch == 3


def test_validation_is_tried_before_training_and_leaves_no_trace(tmp_path: Path) -> None:
    """What is wrong with it shows before an epoch is lost; nobody hears of it, and the generators are as they were."""
    model, other = a_perceptron(0.3), a_perceptron(0.3)
    torch.manual_seed(1)
    by_hand(model)

    class Drawing:
        """Batches that draw from the global generator."""

        def __init__(self) -> None:
            self.given = 0

        def __iter__(self) -> Iterator[Any]:
            for batch in some_batches(4):
                torch.randn(3)
                self.given += 1
                yield batch

    data = Drawing()
    torch.manual_seed(1)
    trainer = a_trainer(
        other, some_batches(5), data, optimizer=sgd(other), epochs=3, sanity_batches=2, validate_every=3
    )
    with record(trainer.bus, ValidationBegin, ValidationBatchEnd, ValidationEnd) as events:
        trainer.fit()
    assert data.given == 2 + 4
    assert len(events) == 1 + 4 + 1
    assert same(weights(other), weights(model))

    trainer = a_trainer(a_perceptron(), some_batches(5), [(torch.zeros(2, 1), torch.zeros(2))], sanity_batches=1)
    with pytest.raises(RuntimeError, match="shapes"):
        trainer.fit()
    assert (trainer.step, trainer.status) == (0, "failed")


# Of which batches


@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_epoch_may_have_fewer_batches(accumulate: int) -> None:
    """The limit is the epoch's length, also for its last window and for a schedule."""
    model, other = a_perceptron(), a_perceptron()
    train_by_hand(model, some_batches(5)[:3], sgd(model), epochs=3, accumulate=accumulate)
    limits = {"limit_train_batches": 3, "limit_val_batches": 2}
    trainer = a_trainer(
        other, some_batches(5), some_batches(4), optimizer=sgd(other), epochs=3, accumulate=accumulate, **limits
    )
    with record(trainer.bus, ValidationBatchEnd) as validated:
        trainer.fit()
    assert same(weights(other), weights(model))
    assert (trainer.batches_per_epoch, len(validated)) == (3, 3 * 2)


def test_fewer_batches_of_a_loader_with_workers_and_of_a_stream() -> None:
    """Workers that have fetched ahead are no trouble; a limit above the length means nothing."""
    x = torch.arange(24.0).reshape(12, 2)
    loader = DataLoader(TensorDataset(x), batch_size=2, num_workers=2)
    assert [batch[0][0, 0].item() for batch in Feed(loader, CPU, limit=2).begin()] == [0, 4]
    assert Feed(loader, CPU, limit=9).length == 6
    assert list(Feed(Stream(5), CPU, limit=3).begin(0, skip=1)) == [1, 2]
    assert Feed(Stream(5), CPU, limit=3).length is None


class Stream:
    """Batches without a length."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.count))


def test_overfitting_trains_and_validates_on_the_same_batches() -> None:
    """The first ones of the data, in the same order in each epoch, drawn once and without a trace."""
    model, other = a_perceptron(0.3), a_perceptron(0.3)
    columns = [torch.cat(column) for column in zip(*some_batches(5), strict=True)]
    torch.manual_seed(1)
    with isolated_rng():
        first = list(islice(DataLoader(TensorDataset(*columns), batch_size=4, shuffle=True), 2))
    train_by_hand(model, [(x, y) for x, y in first], sgd(model), epochs=3)
    torch.manual_seed(1)
    loader = DataLoader(TensorDataset(*columns), batch_size=4, shuffle=True)
    trainer = a_trainer(other, loader, some_batches(4), optimizer=sgd(other), epochs=3, overfit_batches=2)
    with record(trainer.bus, ValidationBatchEnd) as validated:
        trainer.fit()
    assert same(weights(other), weights(model))
    assert len(validated) == 3 * 2
    assert torch.equal(validated[0].batch[0], first[0][0])
    with pytest.raises(DataError, match="no batches"):
        a_trainer(train_data=[], overfit_batches=1)


# Compiled


@pytest.mark.parametrize(("option", "mode"), [(True, None), ("default", "default"), ("max-autotune", "max-autotune")])
def test_a_compiled_model_trains(monkeypatch: pytest.MonkeyPatch, option: Any, mode: str | None) -> None:
    """The loss is compiled, for training and validation; traced and run as it is, it has the same bits."""
    modes: list[str | None] = []

    def traced(function: Any, *, mode: str | None) -> Any:
        modes.append(mode)
        return compile_(function, backend="eager")

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", traced)
    model, other = a_perceptron(), a_perceptron()
    by_hand(model)
    assert "val_loss" in trained(other, some_batches(1), compile=option).metrics
    assert same(weights(other), weights(model))
    assert modes == [mode]
