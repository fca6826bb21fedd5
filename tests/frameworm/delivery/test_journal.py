"""The journal of a run: what it records, when, in which order, and that it never gets in training's way."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from bus import Event, EventBus
from bus.log import LogReader, LogWriter, Record
from frameworm.delivery.journal import Journal, journal_path
from frameworm.errors import RunBusyError, RunError
from frameworm.events import (
    BackwardEnd,
    BatchBegin,
    BatchEnd,
    CheckpointSave,
    CheckpointSaved,
    EpochBegin,
    EpochEnd,
    MetricsLogged,
    TrainBegin,
    TrainEnd,
    ValidationBatchEnd,
)


class FakeTrainer:
    """Where training is, for those who ask."""

    epoch = 2
    step = 40

    def position(self) -> tuple[int, int]:
        """Return the epoch and the step."""
        return self.epoch, self.step


TRAINER: Any = FakeTrainer()


@contextlib.contextmanager
def recording(directory: Path, **options: Any) -> Iterator[tuple[EventBus, Journal]]:
    """A bus and a journal that records it."""
    options = {"run": "digits-1", "position": TRAINER.position} | options
    every = options.pop("every", None)
    with EventBus() as bus, Journal(directory, **options) as journal:
        journal.attach(bus, every)
        yield bus, journal


def read(directory: Path, rank: int = 0) -> list[Record]:
    """Read all records of a rank."""
    reader = LogReader(journal_path(directory, rank))
    records = list(reader)
    assert reader.corrupt == 0
    reader.close()
    return records


def record_of(directory: Path, event: Event, **options: Any) -> Record:
    """Publish one event and return the one record of it."""
    with recording(directory, **options) as (bus, _):
        bus.publish(event)
    (record,) = read(directory)
    return record


# What a record holds


def test_a_record_has_the_envelope_then_the_fields_then_the_checksum(tmp_path: Path) -> None:
    """The keys are those that the format promises, in its order, with the position of training."""
    before = datetime.now(UTC)
    record = record_of(tmp_path, BatchEnd(TRAINER, 7, 0.5), log_every=1)
    after = datetime.now(UTC)
    assert before <= datetime.fromisoformat(record.pop("time")) <= after
    assert record.pop("crc") >= 0
    assert list(record.items()) == [
        ("v", 1),
        ("seq", 1),
        ("attempt", 1),
        ("run", "digits-1"),
        ("rank", 0),
        ("event", "batch_end"),
        ("epoch", 2),
        ("step", 40),
        ("batch_idx", 7),
        ("loss", 0.5),
    ]


def test_live_fields_are_not_recorded(tmp_path: Path) -> None:
    """What exists only in the process stays there."""
    record = record_of(tmp_path, BatchBegin(TRAINER, 7, object()), every={BatchBegin: 1})
    assert "batch" not in record
    assert "source" not in record
    assert record["batch_idx"] == 7


def test_an_epoch_of_the_event_is_written_once(tmp_path: Path) -> None:
    """The event's own word goes before the trainer's."""
    record = record_of(tmp_path, EpochBegin(TRAINER, 5))
    assert record["epoch"] == 5
    assert journal_path(tmp_path).read_bytes().count(b'"epoch"') == 1


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.1, 0.1),
        (float("nan"), "NaN"),
        (float("inf"), "Infinity"),
        (float("-inf"), "-Infinity"),
        (3, 3),
        (torch.tensor(0.25), 0.25),
        (torch.tensor(float("nan")), "NaN"),
        (torch.tensor(0.25, requires_grad=True), 0.25),
        (torch.tensor([0.25]).numpy()[0], 0.25),
        (torch.tensor([3]).numpy()[0], 3),
        ({"nested": float("nan")}, {"nested": "NaN"}),
        ((1, float("inf")), [1, "Infinity"]),
    ],
)
def test_numbers_of_any_library_are_written_as_json(tmp_path: Path, value: Any, written: Any) -> None:
    """Scalars become numbers, what JSON has no number for becomes its name."""
    record = record_of(tmp_path, MetricsLogged(TRAINER, {"value": value}))
    assert record["metrics"] == {"value": written}


class Unprintable:
    """Cannot even be described."""

    def __repr__(self) -> str:
        raise ValueError("no")


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (torch.ones(2), "tensor([1., 1.])"),
        (1 + 2j, "(1+2j)"),
        (Path("a"), "PosixPath('a')"),
        (Unprintable(), "<Unprintable>"),
        (torch.tensor(1.0, device="meta"), "<Tensor on meta>"),
    ],
)
def test_what_json_cannot_say_is_described_and_counted(tmp_path: Path, value: Any, written: str) -> None:
    """A strange value costs its own place in the record, nothing else."""
    with recording(tmp_path) as (bus, journal):
        bus.publish(MetricsLogged(TRAINER, {"strange": value, "loss": 0.5}))
        assert journal.statistics().described == 1
    assert read(tmp_path)[0]["metrics"] == {"strange": written, "loss": 0.5}


def test_text_that_is_no_unicode_is_described(tmp_path: Path) -> None:
    """A path in another encoding does not cost the record."""
    record = record_of(tmp_path, CheckpointSaved(TRAINER, "caf\udce9"))
    assert record["path"] == ascii("caf\udce9")


def test_a_value_that_contains_itself_does_not_cost_the_record(tmp_path: Path) -> None:
    """However deep a value is, the rest of the event is recorded."""
    endless: list[Any] = []
    endless.append(endless)
    metrics: Any = {"endless": endless}
    record = record_of(tmp_path, MetricsLogged(TRAINER, metrics))
    assert (record["event"], record["step"]) == ("metrics_logged", 40)


# What is recorded, and when


def test_types_say_when_they_are_recorded(tmp_path: Path) -> None:
    """Always, one in `log_every`, or not at all unless somebody asked."""
    with recording(tmp_path) as (bus, _):
        bus.publish(EpochBegin(TRAINER, 0))
        for batch_idx in range(25):
            bus.publish(BatchBegin(TRAINER, batch_idx, None))
            bus.publish(BackwardEnd(TRAINER))
            bus.publish(BatchEnd(TRAINER, batch_idx, 0.5))
    assert [(record["event"], record.get("batch_idx")) for record in read(tmp_path)] == [
        ("epoch_begin", None),
        ("batch_end", 9),
        ("batch_end", 19),
    ]


def test_more_is_recorded_where_somebody_asked(tmp_path: Path) -> None:
    """`every` brings types on demand, and sampled ones more often, never less often."""
    every: Mapping[type[Event], int] = {BackwardEnd: 2, BatchEnd: 1, EpochBegin: 5}
    with recording(tmp_path, every=every) as (bus, _):
        bus.publish(EpochBegin(TRAINER, 0))
        for batch_idx in range(4):
            bus.publish(BackwardEnd(TRAINER))
            bus.publish(BatchEnd(TRAINER, batch_idx, 0.5))
    assert [record["event"] for record in read(tmp_path)] == [
        "epoch_begin",
        "batch_end",
        "backward_end",
        "batch_end",
        "batch_end",
        "backward_end",
        "batch_end",
    ]


def test_a_record_comes_before_the_listeners(tmp_path: Path) -> None:
    """A hook that takes the process down cannot hide the event."""
    with recording(tmp_path) as (bus, journal):
        seen = []
        bus.subscribe(EpochBegin, lambda _event: seen.append(journal.seq), priority=-1000)
        bus.publish(EpochBegin(TRAINER, 0))
    assert seen == [1]


def test_what_listeners_add_is_recorded(tmp_path: Path) -> None:
    """An event that listeners may add to is recorded behind the last of them."""
    with recording(tmp_path) as (bus, _):
        bus.subscribe(EpochEnd, lambda event: event.metrics.update(f1=0.9), priority=1000)
        bus.publish(EpochEnd(TRAINER, 0, {"loss": 0.5}))
    assert read(tmp_path)[0]["metrics"] == {"loss": 0.5, "f1": 0.9}


def test_events_of_other_packages_are_recorded_only_when_asked(tmp_path: Path) -> None:
    """The journal is the run's; what else is published on its bus is not its business."""

    class Stranger(Event, frozen=True):
        value: int = 1

    for every, events in (({}, []), ({Stranger: 1}, ["stranger"])):
        with recording(tmp_path, every=every) as (bus, _):
            bus.publish(Stranger(None))
        assert [record["event"] for record in read(tmp_path)] == events


def test_a_closed_journal_records_nothing(tmp_path: Path) -> None:
    """After closing, once or twice, events pass by."""
    with recording(tmp_path) as (bus, journal):
        journal.close()
        journal.close()
        bus.publish(EpochBegin(TRAINER, 0))
    assert read(tmp_path) == []


def test_lifecycle_and_checkpoint_events_are_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is asked for safety at events that matter, and left alone while a checkpoint is written."""
    asked: list[str] = []
    monkeypatch.setattr(LogWriter, "sync", lambda _log: asked.append("sync"))
    monkeypatch.setattr(LogWriter, "hold_sync", lambda _log: asked.append("hold"))
    with recording(tmp_path) as (bus, _):
        for event in (
            TrainBegin(TRAINER, 1),
            EpochBegin(TRAINER, 0),
            CheckpointSave(TRAINER, "c"),
            CheckpointSaved(TRAINER, "c"),
            TrainEnd(TRAINER, "finished", None, None),
        ):
            bus.publish(event)
    assert asked == ["sync", "hold", "sync", "sync"]


# Attempts, ranks, other writers


def test_each_attempt_counts_on_from_the_last_record(tmp_path: Path) -> None:
    """Starting a run again raises the attempt and goes on numbering."""
    for _ in range(3):
        record_count = len(read(tmp_path))
        with recording(tmp_path) as (bus, journal):
            assert journal.attempt == record_count + 1
            bus.publish(EpochBegin(TRAINER, 0))
    assert [(record["seq"], record["attempt"]) for record in read(tmp_path)] == [(1, 1), (2, 2), (3, 3)]


def test_every_rank_has_a_journal_of_its_own(tmp_path: Path) -> None:
    """Ranks write side by side, and may be told the attempt."""
    with recording(tmp_path) as (first, _), recording(tmp_path, rank=1, attempt=7) as (second, _):
        first.publish(EpochBegin(TRAINER, 0))
        second.publish(EpochBegin(TRAINER, 0))
    assert [(record["rank"], record["attempt"]) for record in read(tmp_path)] == [(0, 1)]
    assert [(record["rank"], record["attempt"]) for record in read(tmp_path, rank=1)] == [(1, 7)]


def test_a_run_that_is_alive_is_refused_with_its_owner(tmp_path: Path) -> None:
    """The second writer learns which process has the run."""
    code = (
        "import sys; from pathlib import Path; from frameworm.delivery.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]), run='r', position=lambda: (0, 0)); print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(RunBusyError, match=f"process {process.pid} on"):
            Journal(tmp_path, run="r", position=TRAINER.position)
        process.communicate(timeout=30)


def test_a_directory_that_cannot_be_written_is_an_error_at_once(tmp_path: Path) -> None:
    """Nobody trains for hours to find that nothing was recorded."""
    with pytest.raises(RunError, match="cannot be written"):
        Journal(tmp_path / "missing", run="r", position=TRAINER.position)


# Scalars on a device


class FakeScalar:
    """A scalar on a device: reading it would wait for the device."""

    is_cpu = False
    device = "fake:0"

    def __float__(self) -> float:
        raise AssertionError("training waited for the device")

    item = __float__


class FakeCopy:
    """A copy that arrives when the test says so."""

    def __init__(self, number: float) -> None:
        self.number = number
        self.arrived = False

    def ready(self) -> bool:
        """Whether the test said so."""
        return self.arrived

    def value(self) -> float:
        """Return the number; only the end of a run may wait for it."""
        return self.number


def test_records_wait_for_their_numbers_in_order(tmp_path: Path) -> None:
    """A record whose number is under way, and all behind it, are written when it has arrived."""
    copies: list[FakeCopy] = []

    def copy(_scalar: Any) -> FakeCopy:
        copies.append(FakeCopy(len(copies) + 0.5))
        return copies[-1]

    with recording(tmp_path, log_every=1, copy_scalar=copy) as (bus, journal):
        bus.publish(BatchEnd(TRAINER, 0, FakeScalar()))
        bus.publish(EpochBegin(TRAINER, 1))
        assert read(tmp_path) == []
        assert journal.statistics().pending == 2
        copies[0].arrived = True
        bus.publish(BatchEnd(TRAINER, 1, FakeScalar()))
        assert [record["event"] for record in read(tmp_path)] == ["batch_end", "epoch_begin"]
        metrics: Any = {"a": FakeScalar(), "b": 1.0}
        bus.publish(MetricsLogged(TRAINER, metrics))
    assert [(record["seq"], record.get("loss"), record.get("metrics")) for record in read(tmp_path)] == [
        (1, 0.5, None),
        (2, None, None),
        (3, 1.5, None),
        (4, None, {"a": 2.5, "b": 1.0}),
    ]


def test_a_number_that_does_not_arrive_is_described(tmp_path: Path) -> None:
    """A device that broke does not break the record of how it broke."""

    class BrokenCopy(FakeCopy):
        def value(self) -> float:
            raise RuntimeError("device lost")

    with recording(tmp_path, log_every=1, copy_scalar=lambda _scalar: BrokenCopy(0)) as (bus, _):
        bus.publish(BatchEnd(TRAINER, 0, FakeScalar()))
    assert isinstance(read(tmp_path)[0]["loss"], str)


def test_a_device_is_never_waited_for(tmp_path: Path) -> None:
    """Without a way to copy, a device scalar is described, not read."""
    record = record_of(
        tmp_path, ValidationBatchEnd(TRAINER, 0, FakeScalar(), object(), {}), every={ValidationBatchEnd: 1}
    )
    assert record["loss"] == "<FakeScalar on fake:0>"


def test_every_line_is_standard_json(tmp_path: Path) -> None:
    """A strict parser, without NaN, reads each line, and the time is in UTC."""

    def refuse(name: str) -> float:
        raise AssertionError(name)

    with recording(tmp_path) as (bus, _):
        bus.publish(MetricsLogged(TRAINER, {"a": float("nan"), "b": float("inf")}))
    (line,) = journal_path(tmp_path).read_text("utf-8").splitlines()
    assert json.loads(line, parse_constant=refuse)["time"].endswith("Z")
