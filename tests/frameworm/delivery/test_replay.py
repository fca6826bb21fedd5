"""A recorded run is told again: typed events, each with the facts of its moment."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest

from bus import Event, EventBus, event_types
from bus.log import LogReader, Record
from frameworm.delivery.decoding import Makers
from frameworm.delivery.journal import Journal, journal_path
from frameworm.delivery.replay import RunFold, events, is_over, last_seq
from frameworm.errors import RunError
from frameworm.events import (
    BatchEnd,
    CheckpointLoad,
    EpochBegin,
    EpochEnd,
    ListenerFailed,
    MetricsLogged,
    OptimizerStepped,
    TrainBegin,
    TrainEnd,
    TrainFailed,
    TrainingEvent,
    ValidationEnd,
)
from frameworm.facts import RunView
from frameworm.runs import RunDirectory
from tests.frameworm.delivery.recorded import new_run, record, writing

TRAINER: Any = None


class Drawn(TrainingEvent, frozen=True):
    """An event of a plugin, with fields that JSON does not know, and one that is called like a record's key."""

    arguments: ClassVar = ("trainer", "path", "shape")

    path: Path
    shape: tuple[int, float]
    time: str


def replayed(directory: Path, *published: Event, every: Mapping[type[Event], int] | None = None) -> list[Any]:
    """Record events and tell them again."""
    with EventBus() as bus, Journal(directory, run="r1", log_every=1) as journal:
        journal.attach(bus, every)
        for event in published:
            bus.publish(event)
    return list(events(directory))


def test_events_come_back_with_their_values(tmp_path: Path) -> None:
    """Numbers that JSON has no word for, positions, optional values: all fields as they were, what was live is None."""
    nan, inf = math.nan, math.inf
    published = [
        TrainBegin(TRAINER, 3),
        EpochBegin(TRAINER, 2),
        BatchEnd(TRAINER, 4, nan),
        BatchEnd(TRAINER, 5, -inf),
        OptimizerStepped(TRAINER, None, skipped=True),
        OptimizerStepped(TRAINER, 2),
        EpochEnd(TRAINER, 2, {"loss": inf, "acc": 1}),
        TrainFailed(TRAINER, ValueError("x"), "ValueError: x"),
        CheckpointLoad(TRAINER, {"a": 1}, "checkpoints/1"),
        ListenerFailed(TRAINER, "a", "epoch_end", "null", 3),
        TrainEnd(TRAINER, "failed", "NaN", None),
    ]
    got = replayed(tmp_path, *published, every={OptimizerStepped: 1})
    assert [type(event) for event in got] == [type(event) for event in published]
    _, begin, first, second, skipped, stepped, epoch, failed, loaded, listener, end = got
    assert begin.epoch == epoch.epoch == 2
    assert (first.batch_idx, math.isnan(first.loss), second.loss) == (4, True, -inf)
    assert (skipped.grad_norm, skipped.skipped, stepped.grad_norm) == (None, True, 2.0)
    assert epoch.metrics == {"loss": inf, "acc": 1.0}
    assert (failed.error, failed.message, loaded.checkpoint, loaded.path) == (
        None,
        "ValueError: x",
        None,
        "checkpoints/1",
    )
    assert (listener.error, listener.count) == ("null", 3)
    assert (end.reason, end.error) == ("NaN", None)


def test_types_that_json_does_not_have(tmp_path: Path) -> None:
    """Tuples and whatever else the fields say, also under keys that were renamed."""
    [event] = replayed(tmp_path, Drawn(TRAINER, "a/b.png", (3, math.nan), "noon"))  # type: ignore[arg-type]
    assert event.path == Path("a/b.png")
    assert event.shape[0] == 3
    assert isinstance(event.shape, tuple)
    assert math.isnan(event.shape[1])
    assert event.time == "noon"
    assert event.source.time.year >= 2024


def test_values_that_were_only_described(tmp_path: Path) -> None:
    """A number is NaN then; in a mapping of numbers it is left out."""
    strange: Any = {"object": object(), "loss": 0.5}
    [batch, logged] = replayed(tmp_path, BatchEnd(TRAINER, 0, strange), MetricsLogged(TRAINER, strange))
    assert math.isnan(batch.loss)
    assert logged.metrics == {"loss": 0.5}


def test_every_event_type_can_be_told_again(tmp_path: Path) -> None:
    """Of every type there is a way back from its record."""
    types = [found for found in event_types().values() if found.__module__ == EpochEnd.__module__ and found.name]
    fold, made = RunFold(tmp_path), Makers()
    assert len(types) > 20
    for event_type in types:
        make = made[event_type.name]
        assert make is not None
        assert type(make(fold.view(), {})) is event_type
    assert made["nothing"] is None
    assert Makers({"epoch_end"})["epoch_begin"] is None


def test_unknown_events_and_gaps_are_left_out(tmp_path: Path) -> None:
    """A plugin that is not loaded any more does not keep the run from being told."""
    with writing(new := new_run(tmp_path)) as write:
        write("journal_gap", first=1, last=2)
        write("of_a_plugin", value=3)
        write("batch_end", batch_idx=0, loss=1.0)
    assert [type(event) for event in events(new)] == [BatchEnd]


def test_the_facts_are_those_of_the_moment(tmp_path: Path) -> None:
    """Position, metrics so far, status and error: folded from the records, with what the run's files say."""
    run = RunDirectory.create(tmp_path, "digits")
    run.config.write_text("model: {name: cnn, hub_token: abc}\ntrainer: {epochs: 7}\n")
    with EventBus() as bus, Journal(run.path, run=run.id, position=lambda: (1, 40), attempt=2) as journal:
        journal.attach(bus)
        for event in (
            EpochBegin(TRAINER, 1),
            ValidationEnd(TRAINER, {"val_loss": 0.4}),
            EpochEnd(TRAINER, 1, {"loss": 0.5}),
            TrainBegin(TRAINER, 9),
            TrainFailed(TRAINER, ValueError("x"), "ValueError: x"),
            TrainEnd(TRAINER, "failed", "ValueError: x", "ValueError: x"),
        ):
            bus.publish(event)
    views = [event.source for event in events(run.path)]
    assert all(type(view) is RunView for view in views)
    first, validated, ended, begun, failed, end = views
    assert (first.run_id, first.name, first.run_dir, first.model_name) == (run.id, "digits", run.path, "cnn")
    assert first.config == {"model": {"name": "cnn", "hub_token": "***"}, "trainer": {"epochs": 7}}
    assert (first.epoch, first.step, first.seq, first.attempt, first.rank, first.epochs) == (1, 40, 1, 2, 0, 7)
    assert (first.metrics, validated.metrics) == ({}, {"val_loss": 0.4})
    assert ended.metrics == {"val_loss": 0.4, "loss": 0.5}
    assert (begun.status, begun.error, begun.epochs) == ("running", None, 9)
    assert (failed.status, failed.error) == (end.status, end.error) == ("failed", "ValueError: x")
    assert (datetime.now(UTC) - end.time).total_seconds() < 60


def test_from_the_middle(tmp_path: Path) -> None:
    """The events before are not told, and yet known."""
    run = new_run(tmp_path)
    with writing(run) as write:
        write("train_begin", epochs=5)
        write("metrics_logged", metrics={"speed": 3.0})
        write("batch_end", batch_idx=0, loss=1.0)
        write("epoch_end", metrics={"loss": 1.0})
    assert last_seq(run) == 4
    [batch, _] = events(run, 2)
    assert batch.source.metrics == {"speed": 3.0}
    assert [event.source.seq for event in events(run, names={"metrics_logged", "epoch_end"})] == [2, 4]
    assert list(events(run, 4)) == []


def test_a_run_that_crashed(tmp_path: Path) -> None:
    """Its end is made up, from the last record."""
    run = new_run(tmp_path)
    record(run, 2, end=None)
    fold = RunFold(run)
    with contextlib.closing(LogReader(journal_path(run))) as reader:
        for entry in reader:
            fold.add(entry)
    assert fold.phase == "training"
    end: Record = fold.crash()
    fold.add(end)
    assert (end["event"], end["status"], end["seq"], end["step"]) == ("train_end", "crashed", 3, 2)
    assert (fold.phase, fold.view().status) == ("ended", "crashed")


def test_when_a_run_is_over(tmp_path: Path) -> None:
    """Behind its `train_end`, whatever else is recorded there, or when nobody writes."""
    run = new_run(tmp_path)
    assert is_over(run)
    with writing(run) as write:
        assert not is_over(run)
        write("train_begin", epochs=1)
        assert not is_over(run)
        write("train_end", status="finished", reason=None, error=None)
        write("listener_failed", listener="a", during="train_end", error="x", count=1)
        assert is_over(run)
        write("train_begin", epochs=1)
        assert not is_over(run)
    assert is_over(run)


def test_a_newer_format(tmp_path: Path) -> None:
    """It is refused, with both versions."""
    with writing(run := new_run(tmp_path), v=3) as write:
        write("train_begin", epochs=1)
    with pytest.raises(RunError, match="newer format"):
        list(events(run))
