"""Listeners off the training thread: waited for at the end, told of on the training thread, never in the way."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from bus import Event, EventBus
from frameworm.events import BatchEnd, EpochEnd, ListenerFailed, TrainBegin, TrainEnd
from frameworm.facts import RunView
from frameworm.training.store import CheckpointStore
from tests.frameworm.training.toys import a_trainer, same, weights


def test_all_is_delivered_when_fit_returns() -> None:
    """Also to a slow one, with the facts of each event's own moment."""
    trainer = a_trainer(epochs=3)
    heard: list[Any] = []

    def slow(event: EpochEnd) -> None:
        time.sleep(0.05)
        view: Any = event.source
        heard.append((event.epoch, view.epoch, view.step, view.status, type(view)))

    trainer.bus.subscribe(EpochEnd, slow, dispatch="async")
    trainer.fit()
    assert heard == [(epoch, epoch, 3 * (epoch + 1), "running", RunView) for epoch in range(3)]


def test_the_weights_are_those_of_a_run_without() -> None:
    """Whatever listens to whatever, in whichever lane."""
    plain, watched = a_trainer(epochs=2), a_trainer(epochs=2)
    plain.fit()
    for event in (BatchEnd, EpochEnd, TrainEnd):
        watched.bus.subscribe(event, lambda _event: None, dispatch="async")
    watched.fit()
    assert same(weights(plain.model), weights(watched.model))


def test_a_hung_listener_is_not_waited_for_longer_than_it_says() -> None:
    """The run ends; what it did not get is in its account."""
    trainer = a_trainer(drain_timeout=0.2)
    go = threading.Event()
    trainer.bus.subscribe(EpochEnd, lambda _event: go.wait(30), name="hung", dispatch="async")
    start = time.monotonic()
    assert trainer.fit().status == "finished"
    assert time.monotonic() - start < 15
    [account] = [entry for entry in trainer.bus.statistics() if entry.name == "hung"]
    assert account.pending + account.in_flight == 1
    go.set()


def test_a_failure_elsewhere_is_told_on_the_training_thread() -> None:
    """`listener_failed` is as any event: its hooks run in step, and the record has it before the end."""
    trainer = a_trainer(epochs=200)
    told: list[Any] = []
    failed = threading.Event()

    def fail(_event: TrainBegin) -> None:
        failed.set()
        raise OSError("no route")

    def wait(_event: BatchEnd) -> None:
        assert failed.wait(20)
        if told:
            trainer.stop("that is enough")

    trainer.bus.subscribe(TrainBegin, fail, name="broken", dispatch="async", retries=0)
    trainer.bus.subscribe(BatchEnd, wait)
    trainer.bus.subscribe(ListenerFailed, lambda event: told.append((event, threading.get_ident())))
    assert trainer.fit().status == "stopped"
    [(event, thread)] = told
    assert (event.listener, event.during, event.count) == ("broken", "train_begin", 1)
    assert event.error.startswith("OSError: no route")
    assert thread == threading.get_ident()


def test_an_error_of_training_is_not_hidden_by_listeners() -> None:
    """They hear of it and are waited for; the error is the one that was raised."""
    error = ZeroDivisionError("mine")

    def fail(_event: BatchEnd) -> None:
        raise error

    trainer = a_trainer()
    heard: list[str] = []
    listener: Any = lambda event: heard.append(f"{event.name} {event.source.status}")  # noqa: E731  one for both
    for event in ("train_failed", "train_end"):
        trainer.bus.subscribe(event, listener, dispatch="async")
    trainer.bus.subscribe(BatchEnd, fail, on_error="raise")
    with pytest.raises(ZeroDivisionError) as caught:
        trainer.fit()
    assert caught.value is error
    assert sorted(heard) == ["train_end failed", "train_failed failed"]


async def test_beside_an_event_loop(tmp_path: Path) -> None:
    """The loop goes on, and can await the run's events meanwhile; the stream ends with the run."""
    trainer = a_trainer(epochs=3)
    async with trainer.bus.stream("epoch_end", "train_end") as stream:
        running = asyncio.create_task(trainer.fit_async())
        names = [event.name async for event in stream if isinstance(event, Event)]
    assert names == ["epoch_end"] * 3 + ["train_end"]
    assert (await running).status == "finished"


async def test_a_cancelled_run_ends_after_its_step_with_a_checkpoint(tmp_path: Path) -> None:
    """It counts as interrupted; the cancellation goes on when that is done."""
    trainer = a_trainer(epochs=1_000_000, checkpoints=CheckpointStore(tmp_path, monitor="val_loss"))
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()
    trainer.bus.subscribe(BatchEnd, lambda _event: loop.call_soon_threadsafe(begun.set))
    running = asyncio.create_task(trainer.fit_async())
    await asyncio.wait_for(begun.wait(), 20)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert trainer.status == "interrupted"
    latest = trainer.checkpoints.latest() if trainer.checkpoints else None
    assert latest is not None
    assert latest.manifest.step == trainer.step > 0


async def test_inside_a_running_event_loop() -> None:
    """`fit` itself works there, coroutine listeners included: they have a loop of their own."""
    trainer = a_trainer(epochs=2)
    heard: list[int] = []

    async def later(event: EpochEnd) -> None:
        await asyncio.sleep(0.01)
        heard.append(event.epoch)

    trainer.bus.subscribe(EpochEnd, later)
    assert trainer.fit().status == "finished"
    assert heard == [0, 1]


def test_what_waits_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """People see why a run that is done does not end."""
    trainer = a_trainer(drain_timeout=1.5)
    go = threading.Event()
    with EventBus():
        trainer.bus.subscribe(TrainEnd, lambda _event: go.wait(30), dispatch="async")
        with caplog.at_level(logging.INFO):
            trainer.fit()
    go.set()
    assert any("waiting for listeners" in record.message for record in caplog.records)
