"""The end of a run is told in full: the best epoch, where the run is, what listeners cost, and which failed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from threading import Event
from time import sleep

import msgspec
import pytest

from bus.log import LogWriter
from frameworm.delivery.journal import journal_path
from frameworm.delivery.listener import ProcessListener, RelayPlan, relay_folder, write_plan
from frameworm.delivery.status import ListenerReport, write_report
from frameworm.events import BatchEnd, EpochBegin, EpochEnd, TrainBegin, TrainEnd
from frameworm.listeners.summary import Epoch, Report, Summary
from tests.frameworm.listeners.fakes import FakeTrainer


def report_of(trainer: FakeTrainer, *epochs: dict[str, float]) -> Report:
    """The report of a run whose epochs end with these metrics."""
    summary = Summary()
    summary.register(trainer.bus)
    trainer.train(epochs)
    assert summary.report is not None
    return summary.report


def test_before_the_end_there_is_none() -> None:
    """A run that has not ended has no report."""
    trainer, summary = FakeTrainer(), Summary()
    summary.register(trainer.bus)
    trainer.end_epoch(0, loss=1.0)
    assert summary.report is None


def test_how_it_ended() -> None:
    """Status, counts and place are the run's."""
    report = report_of(FakeTrainer(), {"val_loss": 1.0}, {"val_loss": 2.0})
    assert (report.status, report.epochs, report.steps, report.run_dir) == ("finished", 2, 8, "runs/digits-1")
    assert report.lines()[0].startswith("finished: 2 epochs, 8 steps, ")
    assert "run: runs/digits-1" in report.lines()


def test_a_reason_is_given() -> None:
    """Why a run was stopped stands in the first line, shortly."""
    trainer, summary = FakeTrainer(), Summary()
    summary.register(trainer.bus)
    trainer.bus.publish(TrainEnd(trainer, "stopped", "early stopping\nfor a long reason", None))
    assert summary.report is not None
    assert summary.report.lines()[0].startswith("stopped (early stopping): 0 epochs, ")


@pytest.mark.parametrize(
    ("checkpoint", "best"),
    [
        ({}, 1),
        ({"monitor": "val_accuracy"}, 2),
        ({"monitor": "val_accuracy", "mode": "min"}, 0),
        ({"monitor": "absent"}, None),
    ],
)
def test_the_best_epoch(checkpoint: dict[str, str], best: int | None) -> None:
    """The best epoch is the one by which checkpoints are judged."""
    trainer = FakeTrainer(config={"checkpoint": checkpoint})
    report = report_of(
        trainer,
        {"val_loss": float("nan"), "val_accuracy": 0.1},
        {"val_loss": 1.0, "val_accuracy": 0.5},
        {"val_loss": 2.0, "val_accuracy": 0.9},
    )
    assert (report.best.epoch if report.best else None) == best


def test_the_best_epoch_in_a_line() -> None:
    """The monitored metric comes first, then what else was validated."""
    report = report_of(FakeTrainer(), {"loss": 0.5, "val_accuracy": 0.91239, "val_loss": 0.25})
    assert "best epoch: 1  val_loss 0.25  val_accuracy 0.9124" in report.lines()


def test_how_to_go_on() -> None:
    """A run that was interrupted can be resumed, and the report says how."""
    trainer, summary = FakeTrainer(), Summary()
    summary.register(trainer.bus)
    trainer.train([{}], status="interrupted")
    assert summary.report is not None
    assert "run: runs/digits-1, --resume runs/digits-1 goes on with it" in summary.report.lines()


def test_a_resumed_run_has_one_history() -> None:
    """The best epoch may be one of an earlier attempt; of an epoch that is trained again only the later one counts."""
    trainer = FakeTrainer(attempt=2)
    summary = Summary({0: {"val_loss": 1.0}, 1: {"val_loss": 0.5}, 2: {"val_loss": 0.1}})
    summary.register(trainer.bus)
    trainer.bus.publish(TrainBegin(trainer, 3))
    trainer.bus.publish(EpochBegin(trainer, 2))
    trainer.end_epoch(2, val_loss=0.7)
    trainer.bus.publish(TrainEnd(trainer, "finished", None, None))
    assert summary.report is not None
    assert summary.report.best == Epoch(1, {"val_loss": 0.5})
    assert summary.report.epochs == 3


def test_failing_listeners_are_named() -> None:
    """A listener that failed is named, with how often and how last; the table counts it."""
    trainer = FakeTrainer()

    def broken(_event: EpochEnd) -> None:
        raise ValueError("no such table")

    trainer.bus.subscribe(EpochEnd, broken, name="broken")
    lines = report_of(trainer, {}, {}).lines()
    assert any(line.startswith("broken failed 2 times, last with ValueError: no such table") for line in lines)
    [row] = [line for line in lines if line.startswith("  broken")]
    assert "0 events" in row
    assert "2 failed" in row


def test_a_costly_listener_gets_advice() -> None:
    """A listener that took more than a hundredth of the time is advised upon, others are not."""
    trainer = FakeTrainer()
    trainer.bus.subscribe(EpochEnd, lambda _event: sleep(0.1), name="slow")
    report = report_of(trainer, {})
    [advice] = [line for line in report.advice() if line.startswith("slow")]
    assert "of the time: every=N" in advice
    assert advice in report.lines()


def test_as_plain_values() -> None:
    """For a structured log the report is plain values, which JSON takes."""
    fields = json.loads(json.dumps(report_of(FakeTrainer(run_dir=Path("r")), {"val_loss": 1.0}).fields()))
    assert (fields["status"], fields["run_dir"]) == ("finished", "r")
    assert fields["best"] == {"epoch": 0, "metrics": {"val_loss": 1.0}}
    assert {row["name"] for row in fields["listeners"]} == {"summary"}


def test_what_an_asynchronous_listener_missed_is_said() -> None:
    """It is no part of the step; what was dropped for it, and what still waits, is counted by reason."""
    trainer = FakeTrainer()
    go = Event()
    trainer.bus.subscribe(BatchEnd, lambda _event: go.wait(20), name="slow", dispatch="async", queue_size=2)
    for batch_idx in range(10):
        trainer.bus.publish(BatchEnd(trainer, batch_idx, 0.5))
    report = report_of(trainer, {})
    go.set()
    [row] = [line for line in report.lines() if line.startswith("  slow")]
    assert row.split()[1] == "async"
    [missed] = [line for line in report.lines() if line.startswith("slow missed")]
    assert re.fullmatch(r"slow missed 1[12] events \(overflow\), [23] events \(still waiting\)", missed)
    assert list(report.advice()) == []
    trainer.bus.close()


def test_listeners_in_a_process_of_their_own_are_told_of(tmp_path: Path) -> None:
    """What is pending goes on by itself; what was refused lies in the dead letters."""
    listener = ProcessListener("mlflow", "mlflow")
    write_plan(tmp_path, RelayPlan((listener,)))
    told = ListenerReport("mlflow", "retrying", delivered=7, failed=3, dead=2, last_error="OSError: no route")
    write_report(relay_folder(tmp_path), listener, told)
    with LogWriter(journal_path(tmp_path), gap=lambda first, last: {}) as log:
        log.append({"v": 1, "event": "epoch_end"})
    trainer = FakeTrainer()
    trainer.run_dir = tmp_path
    lines = report_of(trainer, {}).lines()
    assert any(line.split() == ["mlflow", "process", "7", "events", "2", "failed"] for line in lines)
    assert "mlflow failed 3 times, last with OSError: no route" in lines
    assert "mlflow did not take 2 events: its dead letters" in lines
    assert any(
        line.startswith("mlflow has 1 record before it (retrying), which the relay goes on with") for line in lines
    )
    hung = msgspec.structs.replace(told, state="hung", failed=0, last_error="no answer for 30 s")
    write_report(relay_folder(tmp_path), listener, hung)
    lines = report_of(trainer, {}).lines()
    assert "mlflow: no answer for 30 s" in lines
    assert (
        f"mlflow has 1 record before it (hung), which the relay has given up: frameworm relay {tmp_path} tries again"
        in lines
    )
