"""The epoch report prints a line per epoch and keeps the best one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from bus import EventBus
from frameworm.core import create, get_callback
from frameworm.events import EpochEnd, TrainEnd
from frameworm.testing import isolated_plugins
from frameworm_plugins.epoch_report import EpochReport, register

TRAINER: Any = SimpleNamespace(epochs=3)


@pytest.fixture
def bus() -> Iterator[EventBus]:
    """A bus of the test's own, which raises what a hook raises."""
    with EventBus(strict=True) as bus:
        yield bus


def end_epochs(bus: EventBus, *epochs: dict[str, float]) -> None:
    """Publish the ends of epochs with these metrics."""
    for epoch, metrics in enumerate(epochs):
        bus.publish(EpochEnd(TRAINER, epoch, metrics))


def test_prints_a_line_per_epoch(bus: EventBus, capsys: pytest.CaptureFixture[str]) -> None:
    """A line has the monitored metric, and how it compares with the best."""
    EpochReport().register(bus)
    end_epochs(bus, {"loss": 1.5, "val_loss": 0.5}, {"loss": 1.25, "val_loss": 0.75}, {"loss": 1.0})
    assert capsys.readouterr().out.splitlines() == [
        "[epoch_report] epoch 1/3: val_loss 0.5000, best so far",
        "[epoch_report] epoch 2/3: val_loss 0.7500, best 0.5000 in epoch 1",
        "[epoch_report] epoch 3/3: val_loss not taken, best 0.5000 in epoch 1",
    ]


@pytest.mark.parametrize(("mode", "best", "best_epoch"), [("min", 0.25, 1), ("max", 0.75, 2)])
def test_keeps_the_best(bus: EventBus, mode: Any, best: float, best_epoch: int) -> None:
    """The best epoch is the first with the lowest or the highest value of the monitored metric."""
    report = EpochReport("val_accuracy", mode).register(bus)
    end_epochs(bus, *({"val_accuracy": value} for value in (0.5, 0.25, 0.75, 0.25, 0.75)))
    assert (report.best, report.best_epoch) == (best, best_epoch)


def test_an_epoch_without_the_metric_is_not_compared(bus: EventBus) -> None:
    """Neither a missing metric nor a NaN is ever the best."""
    report = EpochReport().register(bus)
    end_epochs(bus, {"loss": 1.0}, {"val_loss": math.nan}, {"val_loss": 2.0})
    assert (report.best, report.best_epoch) == (2.0, 2)


def test_names_the_best_at_the_end(bus: EventBus, capsys: pytest.CaptureFixture[str]) -> None:
    """The end of training names the best epoch, if any had the metric."""
    end = TrainEnd(TRAINER, "finished", None, None)
    with EpochReport("val_accuracy", "max").register(bus):
        bus.publish(end)
        assert capsys.readouterr().out == "[epoch_report] val_accuracy: no best yet\n"
        end_epochs(bus, {"val_accuracy": 0.5})
        bus.publish(end)
    assert capsys.readouterr().out.splitlines()[-1] == "[epoch_report] val_accuracy: best 0.5000 in epoch 1"


def test_a_resumed_run_goes_on_comparing(bus: EventBus) -> None:
    """The state of one report, restored in another, keeps its best."""
    before = EpochReport().register(bus)
    end_epochs(bus, {"val_loss": 0.5})
    before.unregister()
    after = EpochReport()
    after.load_state_dict(before.state_dict())
    after.register(bus)
    end_epochs(bus, {"val_loss": 0.75})
    assert (after.best, after.best_epoch) == (0.5, 0)


def test_registers_its_factory() -> None:
    """After `register()` a config can name it, with its options; again is no error."""
    with isolated_plugins():
        register()
        register()
        factory = get_callback("epoch_report")
        report = create("callback", "epoch_report", factory, {"monitor": "val_accuracy", "mode": "max"})
        assert isinstance(report, EpochReport)
        assert (report.monitor, report.mode) == ("val_accuracy", "max")
