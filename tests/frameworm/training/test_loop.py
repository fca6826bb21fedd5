"""Epochs of steps: their order, their metrics, and what was asked for served between the steps."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from bus.testing import record
from frameworm.errors import DataError, NonFiniteError
from frameworm.events import BatchEnd, EpochBegin, EpochEnd, ValidationEnd
from frameworm.training.loop import numbers
from frameworm.training.store import CheckpointStore
from tests.frameworm.training.toys import (
    Batch,
    Scripted,
    a_perceptron,
    a_trainer,
    as_on_a_device,
    some_batches,
    train_by_hand,
    weights,
)

# Metrics


def test_the_loss_of_an_epoch_is_the_mean_over_its_samples() -> None:
    """By batches of different sizes; under two names, beside the learning rate."""
    batches = [*some_batches(2, size=5), *some_batches(1, size=2, seed=1)]
    model = a_perceptron()
    losses = train_by_hand(model, batches, torch.optim.SGD(model.parameters(), lr=0.1))
    other = a_perceptron()
    trainer = a_trainer(other, batches, optimizer=torch.optim.SGD(other.parameters(), lr=0.1))
    with record(trainer.bus, EpochEnd) as ends:
        trainer.fit()
    mean = sum(loss * size for loss, size in zip(losses, (5, 5, 2), strict=True)) / 12
    assert ends[0].metrics == {"loss": mean, "train_loss": mean, "lr": 0.1}


def test_other_values_of_compute_loss_are_metrics_of_the_epoch() -> None:
    """Of training and of validation, each under its prefix."""
    model = Scripted(lambda model, batch: {"loss": model.weight**2, "kl": model.weight.detach(), "count": 2})
    trainer = a_trainer(model, [1, 2], [1])
    with record(trainer.bus, EpochEnd) as ends:
        trainer.fit()
    names = "loss train_loss train_kl train_count lr val_loss val_kl val_count"
    assert list(ends[0].metrics) == names.split()
    assert ends[0].metrics["train_count"] == 2.0
    assert {type(value) for value in ends[0].metrics.values()} == {float}


def test_what_hooks_add_is_seen_by_later_hooks_the_trainer_and_the_result() -> None:
    """From the validation's end on, through the epoch's end."""
    trainer = a_trainer(a_perceptron(), some_batches(), some_batches())
    seen: dict[str, set[str]] = {}

    def keys(name: str) -> Callable[[Any], None]:
        def look(event: Any) -> None:
            seen[name] = set(event.metrics)

        return look

    trainer.bus.subscribe(ValidationEnd, lambda event: event.metrics.update(val_score=1), priority=10)
    trainer.bus.subscribe(ValidationEnd, keys("validation"), priority=20)
    trainer.bus.subscribe("epoch_end", lambda event: event.metrics.update(extra=torch.tensor(2.0)), priority=10)
    trainer.bus.subscribe(EpochEnd, keys("epoch"), priority=20)
    result = trainer.fit()
    assert seen["validation"] == {"val_loss", "val_score"}
    assert seen["epoch"] == {"loss", "train_loss", "lr", "val_loss", "val_score", "extra"}
    for metrics in (trainer.metrics, result.metrics):
        assert (metrics["val_score"], metrics["extra"]) == (1.0, 2.0)
        assert {type(value) for value in metrics.values()} == {float}


def test_metrics_are_known_when_they_are_announced() -> None:
    """State first: a listener may as well look at the trainer."""
    trainer = a_trainer(a_perceptron(), some_batches(), some_batches())
    known: list[bool] = []
    for event_type in (ValidationEnd, EpochEnd):
        trainer.bus.subscribe(event_type, lambda event: known.append(event.metrics.items() <= trainer.metrics.items()))
    trainer.fit()
    assert known == [True, True]


def test_what_a_hook_adds_that_is_no_number_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """With a word about it; anything that is one becomes a float."""
    weight = torch.ones((), requires_grad=True)
    given = {"a": 1, "b": np.float32(0.5), "c": weight, "d": torch.ones(1), "e": "text", "f": None, "g": torch.ones(2)}
    with caplog.at_level(logging.WARNING):
        assert numbers(given) == {"a": 1.0, "b": 0.5, "c": 1.0, "d": 1.0}
    assert [message.split("'")[1] for message in caplog.messages] == ["e", "f", "g"]


def test_metrics_of_the_last_epoch_are_the_results() -> None:
    """The latest value of each."""
    trainer = a_trainer(a_perceptron(), some_batches(), some_batches(), epochs=3)
    with record(trainer.bus, EpochEnd) as ends:
        result = trainer.fit()
    assert result.metrics == ends[-1].metrics


# Epochs


def test_epochs_count_from_zero_and_the_trainer_knows() -> None:
    """At each begin and each end."""
    trainer = a_trainer(epochs=2)
    seen: list[tuple[str, int, int]] = []
    for event_type in (EpochBegin, EpochEnd):
        trainer.bus.subscribe(event_type, lambda event: seen.append((event.name, event.epoch, event.source.epoch)))
    trainer.fit()
    assert seen == [("epoch_begin", 0, 0), ("epoch_end", 0, 0), ("epoch_begin", 1, 1), ("epoch_end", 1, 1)]


def test_a_hook_at_the_epochs_begin_may_put_parts_into_evaluation_mode() -> None:
    """The model is in training mode by then, and is not switched again."""
    model = a_perceptron(dropout=0.5)
    trainer = a_trainer(model, some_batches(), some_batches(), epochs=2)
    modes: list[tuple[bool, bool]] = []
    trainer.bus.subscribe(EpochBegin, lambda _event: model.layers[2].eval())
    trainer.bus.subscribe(BatchEnd, lambda _event: modes.append((model.training, model.layers[2].training)))
    trainer.fit()
    assert set(modes) == {(True, False)}


class Once:
    """Gives its batches in the first epoch only, though it is no iterator."""

    def __init__(self, batches: list[Batch]) -> None:
        self._batches = iter(batches)

    def __iter__(self) -> Iterator[Batch]:
        return self._batches


def test_an_epoch_without_batches_is_an_error() -> None:
    """Rather than an epoch that trained nothing and says nothing."""
    with pytest.raises(DataError, match="epoch 0 had no batches"):
        a_trainer(train_data=[]).fit()
    trainer = a_trainer(train_data=Once(some_batches()), epochs=3)
    with pytest.raises(DataError, match="epoch 1 had no batches") as caught:
        trainer.fit()
    assert "used up" in str(caught.value)
    assert trainer.step == 3


def test_an_iterator_for_several_epochs_is_an_error_at_once() -> None:
    """Training data, and validation data just as well."""
    with pytest.raises(DataError, match="used up"):
        a_trainer(train_data=iter(some_batches()), epochs=2)
    with pytest.raises(DataError, match="used up"):
        a_trainer(a_perceptron(), some_batches(), iter(some_batches()), epochs=2)
    assert a_trainer(train_data=iter(some_batches()), epochs=1).fit().steps == 3


# Data as people have it


@pytest.mark.parametrize(
    "dress",
    [
        lambda x, y: (x, y),
        lambda x, y: [x, y],
        lambda x, y: {"x": x, "y": y},
        lambda x, y: {"y": y, "x": x},
    ],
)
def test_batches_train_alike_however_they_are_dressed(dress: Callable[..., Any]) -> None:
    """Pairs, lists, mappings."""
    model = a_perceptron()
    train_by_hand(model, some_batches(), torch.optim.SGD(model.parameters(), lr=0.1))
    other = a_perceptron()
    batches = [dress(x, y) for x, y in some_batches()]
    a_trainer(other, batches, optimizer=torch.optim.SGD(other.parameters(), lr=0.1)).fit()
    assert all(torch.equal(value, weights(model)[name]) for name, value in weights(other).items())


@pytest.mark.parametrize("batch", [torch.ones(4), (torch.ones(4),), (1, 2, 3), {"whatever": 1}, "text"], ids=str)
def test_a_batch_may_be_anything(batch: Any) -> None:
    """A tensor, one in a tuple, three of a kind, something of one's own."""
    got: list[Any] = []

    def compute(model: Scripted, given: Any) -> Any:
        got.append(given)
        return {"loss": model.weight**2}

    result = a_trainer(Scripted(compute), [batch]).fit()
    assert result.status == "finished"
    assert got[0] is (batch[0] if isinstance(batch, tuple) and len(batch) == 1 else batch)


# Requests


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 2), (2, 1), (3, 1)])
def test_a_stop_ends_the_run_after_the_step(accumulate: int, steps: int) -> None:
    """A window that was begun is finished; the epoch that was cut has no end."""
    trainer = a_trainer(train_data=some_batches(6), accumulate=accumulate, epochs=3)

    @trainer.bus.on(BatchEnd)
    def stop(event: BatchEnd) -> None:
        if event.batch_idx == 1:
            event.source.stop("enough")

    with record(trainer.bus) as events:
        result = trainer.fit()
    assert (result.status, result.reason, result.epochs, result.steps) == ("stopped", "enough", 0, steps)
    assert [event.name for event in events[-3:]] == ["batch_end", "control_requested", "train_end"]
    assert (events[-1].status, events[-1].reason, events[-1].error) == ("stopped", "enough", None)


@pytest.mark.parametrize("event", ["validation_begin", "validation_batch_end"])
def test_a_stop_abandons_the_validation(event: str) -> None:
    """It may be long; the epoch is not done then."""
    trainer = a_trainer(a_perceptron(), some_batches(), some_batches(9), epochs=3)
    trainer.bus.subscribe(event, lambda happened: happened.source.stop())
    with record(trainer.bus, "validation_batch_end", "validation_end", "epoch_end") as events:
        result = trainer.fit()
    assert [happened.name for happened in events] == ["validation_batch_end"] * (event == "validation_batch_end")
    assert (result.status, result.epochs, result.steps) == ("stopped", 0, 3)


@pytest.mark.parametrize("event", ["validation_end", "epoch_end"])
def test_a_stop_when_the_epoch_is_done_lets_it_end(event: str) -> None:
    """As early stopping asks for it."""
    trainer = a_trainer(a_perceptron(), some_batches(), some_batches(), epochs=3)
    trainer.bus.subscribe(event, lambda happened: happened.source.stop())
    with record(trainer.bus, "epoch_end") as ends:
        result = trainer.fit()
    assert len(ends) == 1
    assert (result.status, result.epochs) == ("stopped", 1)


def test_a_stop_before_anything_is_trained_ends_at_once() -> None:
    """Asked for at the run's begin, or before."""
    trainer = a_trainer()
    trainer.bus.subscribe("train_begin", lambda event: event.source.stop("no"))
    assert (trainer.fit().status, trainer.step) == ("stopped", 0)
    trainer = a_trainer()
    trainer.stop("never mind")
    assert (trainer.fit().reason, trainer.step) == ("never mind", 0)


def test_a_stop_that_comes_too_late_is_forgotten() -> None:
    """It must not end the next run."""
    trainer = a_trainer(epochs=2)
    with trainer.bus.subscribe("train_end", lambda event: event.source.stop("late")):
        assert trainer.fit().status == "finished"
    assert trainer.fit().status == "finished"


def test_of_several_requests_the_first_that_ends_counts() -> None:
    """And what was asked to be saved is saved before."""
    trainer = a_trainer(epochs=3)

    @trainer.bus.on(BatchEnd)
    def ask(event: BatchEnd) -> None:
        event.source.save_now()
        event.source.stop("first")
        event.source.stop("second")

    assert trainer.fit().reason == "first"


def test_another_thread_may_stop_the_run() -> None:
    """At any time; the step is finished."""
    trainer = a_trainer(epochs=10**9)
    started = threading.Event()
    trainer.bus.subscribe(EpochEnd, lambda _event: started.set())

    def stop() -> None:
        assert started.wait(30)
        trainer.stop("from elsewhere")

    thread = threading.Thread(target=stop)
    thread.start()
    result = trainer.fit()
    thread.join()
    assert (result.status, result.reason) == ("stopped", "from elsewhere")
    assert result.steps == trainer.step >= 3


def test_what_a_device_did_not_show_yet_is_looked_at_before_saving(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """A checkpoint that a loss has spoilt would take the place of a good one."""
    as_on_a_device(monkeypatch)
    batches = some_batches(4)
    batches[1] = (batches[1][0] * float("nan"), batches[1][1])
    store = CheckpointStore(tmp_path, monitor=None)
    trainer = a_trainer(train_data=batches, log_every=100, checkpoints=store)

    @trainer.bus.on(BatchEnd)
    def save(event: BatchEnd) -> None:
        if event.batch_idx in (0, 2):
            event.source.save_now()

    with pytest.raises(NonFiniteError):
        trainer.fit()
    assert [checkpoint.manifest.step for checkpoint in store.list()] == [1]


def test_on_a_device_a_loss_that_is_not_finite_ends_the_epoch_at_the_latest(monkeypatch: pytest.MonkeyPatch) -> None:
    """However seldom somebody looks."""
    as_on_a_device(monkeypatch)
    batches = some_batches(4)
    batches[1] = (batches[1][0] * float("nan"), batches[1][1])
    trainer = a_trainer(train_data=batches, log_every=100, epochs=2)
    with pytest.raises(NonFiniteError) as caught:
        trainer.fit()
    assert (caught.value.epoch, caught.value.step) == (0, 4)
