"""The trainer as people hold it: its facts, what listeners may do with it, and that trainers share nothing."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset

from bus import EventBus, default_bus
from bus.testing import record
from frameworm.config import Named, TrainerConfig
from frameworm.errors import DataError, ModelContractError, NonFiniteError, UnknownNameError, UserError
from frameworm.events import BatchEnd, EpochBegin, EpochEnd, ListenerFailed, MetricsLogged, TrainerHandle
from frameworm.facts import RunFacts
from frameworm.plugins.hooks import CallbackHook, HookRegistry
from frameworm.training.run import RunInfo
from frameworm.training.schedules import Schedule
from frameworm.training.store import CheckpointStore
from frameworm.training.trainer import Trainer
from tests.frameworm.training.toys import Scripted, a_perceptron, a_trainer, same, sgd, some_batches, weights

# Facts


def test_a_trainer_has_the_facts_and_the_handle_that_listeners_are_promised() -> None:
    """As the types say, which a type checker compares here."""
    trainer = a_trainer()
    facts: RunFacts = trainer
    handle: TrainerHandle = trainer
    promised = [name for name in dir(TrainerHandle) if not name.startswith("_")]
    assert all(hasattr(handle, name) for name in promised)
    assert (facts.run_id, facts.name, facts.run_dir, facts.config, facts.rank, facts.attempt) == (
        "",
        "run",
        None,
        {},
        0,
        1,
    )


def test_the_runs_identity_is_what_it_was_given(tmp_path: Path) -> None:
    """The model has its registered name, or else that of its class."""
    run = RunInfo("digits-1", "digits", tmp_path, 3, "cnn", {"model": {"name": "cnn"}})
    trainer = a_trainer(run=run)
    assert (trainer.run_id, trainer.name, trainer.run_dir, trainer.attempt) == ("digits-1", "digits", tmp_path, 3)
    assert trainer.config == {"model": {"name": "cnn"}}
    assert trainer.model_name == "cnn"
    assert a_trainer().model_name == "Perceptron"
    assert trainer.fit().directory == tmp_path


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 5), (2, 3), (5, 1), (9, 1)])
def test_an_epoch_has_as_many_steps_as_windows(accumulate: int, steps: int) -> None:
    """The last and smaller one counts."""
    trainer = a_trainer(train_data=some_batches(5), accumulate=accumulate)
    assert (trainer.batches_per_epoch, trainer.steps_per_epoch) == (5, steps)
    assert trainer.fit().steps == steps


def test_data_without_a_length_have_no_number_of_steps() -> None:
    """Nobody knows."""
    trainer = a_trainer(train_data=iter(some_batches(5)))
    assert (trainer.batches_per_epoch, trainer.steps_per_epoch) == (None, None)


def test_the_status_is_ready_then_running_then_how_it_ended() -> None:
    """At every event it is running already."""
    trainer = a_trainer()
    seen: list[str] = [trainer.status]
    for event_type in ("train_begin", "batch_end", "epoch_end"):
        trainer.bus.subscribe(event_type, lambda event: seen.append(event.source.status))
    trainer.fit()
    assert seen == ["ready", *["running"] * 5]
    assert trainer.status == "finished"


def test_a_data_loader_trains_as_it_is() -> None:
    """Nothing needs to be wrapped."""
    x, y = some_batches(1, size=10)[0]
    loader = DataLoader(TensorDataset(x, y), batch_size=4)
    trainer = Trainer(
        a_perceptron(), loader, loader, metrics=["accuracy"], options=TrainerConfig(epochs=2, device="cpu")
    )
    result = trainer.fit()
    assert (result.status, result.steps) == ("finished", 6)
    assert 0.0 <= result.metrics["val_accuracy"] <= 1.0


def test_one_batch_may_be_tried_without_a_trace() -> None:
    """The weights and the random generators are as before."""
    model = a_perceptron(dropout=0.5)
    trainer = a_trainer(model)
    before, generator = weights(model), torch.get_rng_state()
    assert trainer.try_batch() > 0
    assert same(weights(model), before)
    assert torch.equal(torch.get_rng_state(), generator)
    with pytest.raises(DataError, match="no batches"):
        a_trainer(train_data=[]).try_batch()


def test_trying_a_batch_finds_what_a_run_would_fail_on() -> None:
    """A loss that is no number or has no graph, and a metric that does not fit the data."""
    with pytest.raises(NonFiniteError):
        a_trainer(Scripted(lambda model, _batch: {"loss": model.weight * float("nan")})).try_batch()
    with pytest.raises(ModelContractError, match="does not depend on its parameters"):
        a_trainer(Scripted(lambda model, _batch: {"loss": model.weight.detach()})).try_batch()
    batches, unfit = (
        some_batches(),
        Scripted(lambda model, _batch: {"loss": model.weight, "predictions": torch.ones(3)}),
    )
    with pytest.raises(UserError, match="'accuracy' does not fit"):
        a_trainer(unfit, batches, batches, metrics=["accuracy"]).try_batch()


# The optimizer and the schedule


def test_an_optimizer_by_name_takes_options() -> None:
    """Alone, it has torch's defaults."""
    named = a_trainer(optimizer=Named("sgd", {"lr": 0.5})).optimizer
    assert isinstance(named, SGD)
    assert named.param_groups[0]["lr"] == 0.5
    assert isinstance(a_trainer(optimizer="adamw").optimizer, torch.optim.AdamW)
    with pytest.raises(UnknownNameError) as caught:
        a_trainer(optimizer="adamv")
    assert "AdamW" in caught.value.known


def test_an_optimizer_over_another_model_is_refused() -> None:
    """It would train nothing that is here, and nobody would know."""
    with pytest.raises(UserError, match="would not train the model"):
        a_trainer(optimizer=sgd(a_perceptron()))


def test_a_schedule_of_another_optimizer_is_refused() -> None:
    """It would move nothing."""
    model = a_perceptron()
    for scheduler in (StepLR(sgd(model), 1), Schedule(StepLR(sgd(model), 1), "epoch")):
        with pytest.raises(UserError, match="schedules another optimizer"):
            a_trainer(model, optimizer=sgd(model), scheduler=scheduler)


def test_a_schedule_by_name_knows_how_many_steps_there_will_be() -> None:
    """Its rate falls to nothing with the last one."""
    trainer = a_trainer(train_data=some_batches(5), accumulate=2, epochs=2, scheduler="linear")
    rates: list[float] = []
    trainer.bus.subscribe(BatchEnd, lambda event: rates.append(event.source.optimizer.param_groups[0]["lr"]), every=5)
    trainer.fit()
    assert rates == pytest.approx([0.5e-3, 0.0])


# What listeners do with it


def test_logged_metrics_are_published_and_known() -> None:
    """Numbers and 0-dim tensors, as floats; the event keeps its own."""
    trainer = a_trainer()

    @trainer.bus.on(EpochBegin)
    def log(event: EpochBegin) -> None:
        event.source.log({"depth": 3, "temperature": torch.tensor(0.5, requires_grad=True)})

    with record(trainer.bus, MetricsLogged) as logged:
        result = trainer.fit()
    assert [event.metrics for event in logged] == [{"depth": 3.0, "temperature": 0.5}]
    assert {type(value) for value in logged[0].metrics.values()} == {float}
    assert result.metrics["temperature"] == 0.5


def test_another_thread_may_log() -> None:
    """While training goes on."""
    trainer = a_trainer(epochs=20)
    with record(trainer.bus, MetricsLogged) as logged:

        def log() -> None:
            for number in range(100):
                trainer.log({"x": number})

        threads = [threading.Thread(target=log) for _ in range(2)]
        for thread in threads:
            thread.start()
        trainer.fit()
        for thread in threads:
            thread.join()
    assert len(logged) == 200
    assert trainer.metrics["x"] == 99.0


def test_a_listener_that_fails_changes_nothing_and_is_told_of_ever_more_seldom(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At its 1st, 2nd, 4th, 8th failure; logged once with its traceback; training is the same."""
    plain = a_trainer(train_data=some_batches(10))
    plain.fit()

    trainer = a_trainer(train_data=some_batches(10))
    after: list[int] = []

    def fail(event: BatchEnd) -> None:
        raise ValueError(f"batch {event.batch_idx}")

    trainer.bus.subscribe(BatchEnd, fail, name="mine", priority=1)
    trainer.bus.subscribe(BatchEnd, lambda event: after.append(event.batch_idx), priority=2)
    with record(trainer.bus, ListenerFailed) as failures, caplog.at_level(logging.ERROR):
        result = trainer.fit()
    assert result.status == "finished"
    assert same(weights(trainer.model), weights(plain.model))
    assert after == list(range(10))
    assert [(event.listener, event.during, event.count) for event in failures] == [
        ("mine", "batch_end", count) for count in (1, 2, 4, 8)
    ]
    assert failures[0].error.startswith(f"ValueError: batch 0 ({__file__}:")
    (message,) = caplog.records
    assert message.exc_info is not None


def test_one_that_fails_on_being_told_is_not_told_of_for_ever() -> None:
    """Or failures would cause each other."""
    trainer = a_trainer()
    trainer.bus.subscribe(ListenerFailed, lambda event: 1 / 0)
    trainer.bus.subscribe(EpochEnd, lambda event: 1 / 0)
    with record(trainer.bus, ListenerFailed) as failures:
        assert trainer.fit().status == "finished"
    assert [event.during for event in failures] == ["epoch_end"]


def test_with_strict_the_first_failure_ends_the_run() -> None:
    """For those who would rather know."""
    trainer = a_trainer(bus=EventBus(strict=True))
    trainer.bus.subscribe(BatchEnd, lambda event: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.fit()
    assert trainer.status == "failed"


# Buses


@pytest.mark.usefixtures("scratch_hooks")
def test_hooks_on_the_default_bus_reach_every_trainer_but_an_isolated_one() -> None:
    """Registered before or after the trainer was made."""
    seen: list[str] = []

    @HookRegistry.on("on_epoch_end")
    def before(trainer: Any) -> None:
        seen.append(f"before {trainer.name}")

    one, isolated = a_trainer(bus=None, run=RunInfo(name="one")), a_trainer(run=RunInfo(name="isolated"))

    @HookRegistry.on("on_epoch_end")
    def after(trainer: Any) -> None:
        seen.append(f"after {trainer.name}")

    one.fit()
    isolated.fit()
    assert seen == ["before one", "after one"]


def test_two_trainers_share_nothing(tmp_path: Path) -> None:
    """Not what listens to them, nor what is asked of them, nor their metrics or states."""
    one = a_trainer(bus=None, epochs=3, checkpoints=CheckpointStore(tmp_path, monitor=None))
    two = a_trainer(bus=None, epochs=3)
    heard: list[Any] = []
    one.bus.subscribe(BatchEnd, lambda event: heard.append(event.source))
    one.bus.subscribe(EpochEnd, lambda event: event.source.stop())
    one.bus.subscribe(EpochEnd, lambda event: 1 / 0)
    with record(two.bus, ListenerFailed) as failures:
        assert one.fit().status == "stopped"
        assert two.fit().status == "finished"
    assert set(heard) == {one}
    assert failures == []
    assert (one.epoch, two.epoch) == (0, 2)
    assert one.metrics is not two.metrics
    assert default_bus.subscriptions() == []


def test_two_trainers_may_train_at_once() -> None:
    """Each on a thread, each as if alone."""
    models = [a_perceptron(seed=seed) for seed in range(2)]
    alone = [a_perceptron(seed=seed) for seed in range(2)]
    for model in alone:
        a_trainer(model, epochs=5).fit()
    trainers = [a_trainer(model, bus=None, epochs=5) for model in models]
    threads = [threading.Thread(target=trainer.fit) for trainer in trainers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [trainer.status for trainer in trainers] == ["finished"] * 2
    assert all(same(weights(model), weights(other)) for model, other in zip(models, alone, strict=True))


def test_a_trainer_may_train_inside_of_anothers_hook() -> None:
    """As for a search; each keeps its own."""
    outer = a_trainer(bus=None, epochs=2)
    inner: list[str] = []
    outer.bus.subscribe(EpochEnd, lambda _event: inner.append(a_trainer(bus=None).fit().status))
    assert outer.fit().epochs == 2
    assert inner == ["finished", "finished"]


def test_a_callback_on_the_trainers_bus_is_called_with_the_documents_arguments() -> None:
    """What reaches the hooks is what the document says."""
    got: dict[str, tuple[Any, ...]] = {}

    class All(CallbackHook):
        def on_epoch_end(self, trainer: Any, epoch: int, metrics: dict[str, float]) -> None:
            got["epoch_end"] = trainer, epoch, dict(metrics)

        def on_batch_begin(self, trainer: Any, batch_idx: int, batch: Any) -> None:
            got["batch_begin"] = trainer, batch_idx, batch

    batches = some_batches(2)
    trainer = a_trainer(train_data=batches)
    All().register(trainer.bus)
    result = trainer.fit()
    assert got == {"epoch_end": (trainer, 0, result.metrics), "batch_begin": (trainer, 1, batches[1])}


# Options


def test_deterministic_algorithms_are_on_while_it_trains() -> None:
    """And as they were before and after."""
    trainer = a_trainer(deterministic=True)
    seen: list[bool] = []
    trainer.bus.subscribe(EpochEnd, lambda _event: seen.append(torch.are_deterministic_algorithms_enabled()))
    trainer.fit()
    assert seen == [True]
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_model_with_nothing_to_train_is_refused() -> None:
    """Before training."""
    model = Scripted(lambda model, batch: {"loss": model.weight})
    model.weight.requires_grad = False
    with pytest.raises(UserError, match="nothing to train"):
        a_trainer(model)


def test_frozen_parts_stay_as_they_are() -> None:
    """The rest is trained."""
    model = a_perceptron()
    first = model.layers[0]
    assert isinstance(first, nn.Linear)
    first.requires_grad_(requires_grad=False)
    before = weights(model)
    a_trainer(model, clip_norm=1.0).fit()
    after = weights(model)
    assert torch.equal(after["layers.0.weight"], before["layers.0.weight"])
    assert not torch.equal(after["layers.3.weight"], before["layers.3.weight"])
