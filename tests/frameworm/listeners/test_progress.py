"""Bars are drawn on a terminal, seldom, and leave it as it was."""

from __future__ import annotations

import io
import sys
import threading
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from frameworm.events import BatchBegin, BatchEnd, EpochBegin, EpochEnd, TrainBegin
from frameworm.listeners import progress
from frameworm.listeners.progress import ProgressBars
from tests.frameworm.listeners.fakes import FakeTrainer

METRICS = {"loss": 0.5, "val_loss": 0.25}


class Screen:
    """A terminal that keeps what is written to it."""

    def __init__(self) -> None:
        self.file = io.StringIO()
        self.console = Console(file=self.file, force_terminal=True, width=100, color_system=None)

    @property
    def text(self) -> str:
        """What was written."""
        return self.file.getvalue()


def test_a_run_on_a_terminal() -> None:
    """Bars show epoch, batches, loss and rate while it trains; the lines of the epochs stay."""
    screen, trainer = Screen(), FakeTrainer(epochs=2)
    ProgressBars(screen.console).register(trainer.bus)
    trainer.train([METRICS, METRICS], torch.zeros(8, 2), loss=torch.tensor(0.75))
    assert "epoch 1/2 " in screen.text
    assert "loss 0.75" in screen.text
    assert "samples/s" in screen.text
    assert "validating" in screen.text
    assert "training cnn for 2 epochs" in screen.text
    assert screen.text.count("loss 0.5  val_loss 0.25") == 2


def test_without_a_known_number_of_batches() -> None:
    """Data that does not tell its length is no trouble."""
    screen, trainer = Screen(), FakeTrainer(epochs=1, batches_per_epoch=None)
    ProgressBars(screen.console).register(trainer.bus)
    trainer.train([METRICS])
    assert trainer.bus.statistics()
    assert all(listener.failed == 0 for listener in trainer.bus.statistics())


def test_prints_go_above_the_bars() -> None:
    """What a hook prints is shown above the bars; afterwards stdout is the old one, and no thread was started."""
    screen, trainer = Screen(), FakeTrainer(epochs=1)
    ProgressBars(screen.console).register(trainer.bus)
    stdout, threads = sys.stdout, threading.active_count()
    seen: list[int] = []

    def hook(_event: EpochEnd) -> None:
        print("from a hook")
        seen.append(threading.active_count())

    trainer.bus.subscribe(EpochEnd, hook)
    trainer.train([METRICS])
    assert "from a hook\n" in screen.text
    assert sys.stdout is stdout
    assert seen == [threads]


def test_the_cursor_stays_visible() -> None:
    """Should the process be killed, the terminal still has its cursor."""
    screen, trainer = Screen(), FakeTrainer()
    bars = ProgressBars(screen.console)
    bars.register(trainer.bus)
    trainer.bus.publish(TrainBegin(trainer, 1))
    assert screen.text.rfind("\x1b[?25h") > screen.text.rfind("\x1b[?25l")
    bars.close()
    bars.close()


def test_names_cannot_write_on_the_terminal() -> None:
    """Control characters and markup in names are shown as they are."""
    screen, trainer = Screen(), FakeTrainer(epochs=1, model_name="[red]x\x1b[2J")
    ProgressBars(screen.console).register(trainer.bus)
    trainer.train([{"[bold]m\r": 1.0}])
    assert "[red]x\\x1b[2J" in screen.text
    assert "[bold]m\\r 1" in screen.text


def test_a_loss_on_a_device_is_not_read() -> None:
    """Reading it would make training wait; the latest known one is shown."""

    class OnDevice:
        device = SimpleNamespace(type="cuda")

        def __float__(self) -> float:
            pytest.fail("the loss was read")

    screen, trainer = Screen(), FakeTrainer(epochs=1, metrics={"loss": 0.125})
    ProgressBars(screen.console).register(trainer.bus)
    trainer.train([METRICS], loss=OnDevice())
    assert "loss 0.125" in screen.text


def test_drawing_has_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bars are drawn at intervals, longer ones where drawing is slow, and looks at the clock thin out."""
    now = 0.0
    drawn: list[float] = []

    def draw(_bars: object) -> None:
        nonlocal now
        drawn.append(now)
        now += 0.002

    monkeypatch.setattr(progress, "perf_counter", lambda: now)
    monkeypatch.setattr("frameworm.listeners.throughput.perf_counter", lambda: now)
    trainer = FakeTrainer(batches_per_epoch=20_000)
    bars = ProgressBars(Screen().console)
    bars.register(trainer.bus)
    trainer.bus.publish(TrainBegin(trainer, 1))
    trainer.bus.publish(EpochBegin(trainer, 0))
    monkeypatch.setattr("rich.progress.Progress.refresh", draw)
    for index in range(20_000):
        trainer.bus.publish(BatchBegin(trainer, index, None))
        now += 0.0003
        trainer.bus.publish(BatchEnd(trainer, index, 0.5))
    gaps = [later - earlier for earlier, later in pairwise(drawn)]
    assert 10 <= len(gaps) <= 15  # in six seconds
    assert min(gaps) >= 0.002 / progress.SHARE
    [account] = [entry for entry in trainer.bus.statistics() if entry.name == "progress"]
    assert account.delivered < 1_000
    bars.close()
