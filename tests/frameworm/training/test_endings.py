"""One ending: whatever happens, `train_end` comes once, after `train_failed`, and the status is true by then."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bus import EventBus
from bus.testing import record
from frameworm.errors import StopTraining
from frameworm.events import BatchEnd, EpochEnd, TrainBegin, TrainEnd, TrainFailed
from frameworm.training.store import CheckpointStore
from frameworm.training.trainer import Trainer
from tests.frameworm.training.toys import Scripted, a_perceptron, a_trainer, some_batches

RUN = (
    "train_begin",
    "epoch_begin",
    "batch_begin",
    "backward_begin",
    "backward_end",
    "optimizer_step",
    "optimizer_stepped",
    "batch_end",
    "validation_begin",
    "validation_batch_end",
    "validation_end",
    "epoch_end",
    "control_requested",
    "checkpoint_save",
    "checkpoint_saved",
)
"""The events of a run up to its end, in the order of their first appearance."""


def a_whole_trainer(folder: Path, **options: Any) -> Trainer:
    """Return a trainer whose runs have all these events."""
    trainer = a_trainer(
        a_perceptron(),
        some_batches(),
        some_batches(2),
        checkpoints=CheckpointStore(folder, monitor=None),
        **{"epochs": 2, **options},
    )
    trainer.bus.subscribe(EpochEnd, lambda event: event.source.save_now())
    return trainer


class Ends:
    """What listeners found at the end of a run: (event, status, error of the trainer)."""

    def __init__(self, bus: EventBus) -> None:
        self.seen: list[tuple[str, str, str | None]] = []
        for event_type in (TrainFailed, TrainEnd):
            bus.subscribe(
                event_type, lambda event: self.seen.append((event.name, event.source.status, event.source.error))
            )


# Ends that are no errors


def test_a_run_that_is_done_is_finished(tmp_path: Path) -> None:
    """Nothing failed."""
    trainer = a_whole_trainer(tmp_path)
    ends = Ends(trainer.bus)
    with record(trainer.bus) as events:
        result = trainer.fit()
    assert ends.seen == [("train_end", "finished", None)]
    assert (events[-1].status, events[-1].reason, events[-1].error) == ("finished", None, None)
    assert (result.status, result.reason, result.epochs, result.steps) == ("finished", None, 2, 6)
    assert tuple(dict.fromkeys(event.name for event in events)) == (*RUN, "train_end")


@pytest.mark.parametrize("event", RUN)
def test_stop_training_from_any_event_stops_the_run(tmp_path: Path, event: str) -> None:
    """It acts after the other listeners of that event; the run ends between two steps, with a checkpoint."""
    trainer = a_whole_trainer(tmp_path, epochs=9)
    ends = Ends(trainer.bus)
    after: list[str] = []

    def stop(_event: Any) -> None:
        raise StopTraining(f"on {event}")

    trainer.bus.subscribe(event, stop, priority=10)
    trainer.bus.subscribe(event, lambda _event: after.append("ran"), priority=20)
    result = trainer.fit()
    assert ends.seen == [("train_end", "stopped", None)]
    assert (result.status, result.reason) == ("stopped", f"on {event}")
    assert result.epochs < 3
    assert after
    latest = CheckpointStore(tmp_path, monitor=None).latest()
    assert latest is not None
    assert latest.manifest.step == result.steps


def test_stop_training_on_the_end_changes_nothing() -> None:
    """There is nothing left to stop."""
    trainer = a_trainer()

    @trainer.bus.on(TrainEnd)
    def stop(_event: TrainEnd) -> None:
        raise StopTraining

    assert trainer.fit().status == "finished"
    assert trainer.fit().status == "finished"


# Errors


def test_an_error_in_the_model_fails_the_run_and_comes_out() -> None:
    """As itself; listeners hear of it first, with the error, then of the end."""
    error = ValueError("the model broke")

    def compute(model: Scripted, batch: int) -> Any:
        if batch == 2:
            raise error
        return {"loss": model.weight**2}

    trainer = a_trainer(Scripted(compute), [1, 2, 3], epochs=2)
    ends = Ends(trainer.bus)
    with record(trainer.bus, TrainFailed, TrainEnd) as events, pytest.raises(ValueError, match="broke") as caught:
        trainer.fit()
    assert caught.value is error
    text = "ValueError: the model broke"
    assert ends.seen == [("train_failed", "failed", text), ("train_end", "failed", text)]
    assert (events[0].error, events[0].message) == (error, text)
    assert (events[1].status, events[1].reason, events[1].error) == ("failed", text, text)
    assert (trainer.status, trainer.error) == ("failed", text)


def breaking(number: int) -> Iterator[Any]:
    """Give batches, and break."""
    yield from some_batches(number)
    raise OSError("the data broke")


@pytest.mark.parametrize("part", ["train", "val"])
def test_an_error_in_the_data_fails_the_run(part: str) -> None:
    """In training or in validation."""
    data = {"train": some_batches(), "val": some_batches()} | {part: breaking(2)}
    trainer = a_trainer(a_perceptron(), data["train"], data["val"])
    ends = Ends(trainer.bus)
    with pytest.raises(OSError, match="the data broke"):
        trainer.fit()
    assert [name for name, *_ in ends.seen] == ["train_failed", "train_end"]


@pytest.mark.parametrize("event", RUN)
def test_a_critical_listener_fails_the_run_from_any_event(tmp_path: Path, event: str) -> None:
    """After the other listeners ran."""
    trainer = a_whole_trainer(tmp_path)
    ends = Ends(trainer.bus)
    after: list[str] = []

    def fail(_event: Any) -> None:
        raise LookupError(event)

    trainer.bus.subscribe(event, fail, priority=10, on_error="raise")
    trainer.bus.subscribe(event, lambda _event: after.append("ran"), priority=20)
    with pytest.raises(LookupError, match=event):
        trainer.fit()
    text = f"LookupError: {event}"
    assert ends.seen == [("train_failed", "failed", text), ("train_end", "failed", text)]
    assert after == ["ran"]


def test_what_listeners_raise_on_hearing_of_a_failure_is_a_note_on_it() -> None:
    """The original error is what comes out; both ends are told."""
    trainer = a_trainer(Scripted(lambda model, batch: 1 / 0))

    def fail(event: Any) -> None:
        raise LookupError(f"on {event.name}")

    def interrupt(event: Any) -> None:
        raise KeyboardInterrupt

    trainer.bus.subscribe(TrainFailed, fail, on_error="raise")
    trainer.bus.subscribe(TrainEnd, interrupt)
    ends = Ends(trainer.bus)
    with pytest.raises(ZeroDivisionError) as caught:
        trainer.fit()
    assert caught.value.__notes__ == [
        "and on train_failed a listener raised LookupError: on train_failed",
        "and on train_end a listener raised KeyboardInterrupt: ",
    ]
    assert [name for name, *_ in ends.seen] == ["train_failed", "train_end"]


def test_a_critical_listener_of_the_end_is_heard() -> None:
    """The run was finished, and its status says so."""
    trainer = a_trainer()

    @trainer.bus.on(TrainEnd, on_error="raise")
    def fail(_event: TrainEnd) -> None:
        raise LookupError("mine")

    ends = Ends(trainer.bus)
    with pytest.raises(LookupError, match="mine"):
        trainer.fit()
    assert ends.seen == [("train_end", "finished", None)]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit(3)])
@pytest.mark.parametrize("event", ["train_begin", "batch_end", "validation_end", "checkpoint_save"])
def test_a_hook_that_asks_python_to_leave_interrupts_the_run(tmp_path: Path, event: str, error: Any) -> None:
    """After the others ran; that is no failure."""
    trainer = a_whole_trainer(tmp_path)
    ends = Ends(trainer.bus)
    after: list[str] = []

    def leave(_event: Any) -> None:
        raise error

    trainer.bus.subscribe(event, leave, priority=10)
    trainer.bus.subscribe(event, lambda _event: after.append("ran"), priority=20)
    with (
        record(trainer.bus, TrainEnd) as events,
        pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else SystemExit),
    ):
        trainer.fit()
    assert ends.seen == [("train_end", "interrupted", None)]
    assert events[0].reason in ("KeyboardInterrupt", "SystemExit")
    assert after == ["ran"]


def test_no_ending_leaves_anything_behind() -> None:
    """Signal handlers and the bus's observers are as they were; the trainer can be asked for its state."""
    endings: list[Callable[[Any], Any]] = [
        lambda event: None,
        lambda event: event.source.stop(),
        lambda event: 1 / 0,
        lambda event: sys.exit(3),
    ]
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    for ending in endings:
        trainer = a_trainer()
        observer = trainer.bus.on_failure = lambda failure: None
        trainer.bus.subscribe(BatchEnd, ending, on_error="raise")
        with contextlib.suppress(ZeroDivisionError, SystemExit):
            trainer.fit()
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
        assert trainer.bus.on_failure is observer
        assert trainer.bus.on_propagate is None
        assert trainer.status != "running"


# Fitting again


def test_a_trainer_that_runs_cannot_be_run() -> None:
    """The hook that tries is told."""
    trainer = a_trainer()
    trainer.bus.subscribe(TrainBegin, lambda _event: trainer.fit(), name="again")
    assert trainer.fit().status == "finished"
    (account,) = trainer.bus.statistics()
    assert "running already" in str(account.last_error)


def test_a_finished_trainer_has_nothing_left_to_do() -> None:
    """It begins and ends."""
    trainer = a_trainer()
    trainer.fit()
    with record(trainer.bus) as events:
        result = trainer.fit()
    assert [event.name for event in events] == ["train_begin", "train_end"]
    assert (result.status, result.steps) == ("finished", 3)


# Signals, in real processes

SCRIPT = """
import sys, time
from pathlib import Path
from frameworm.training.store import CheckpointStore
from tests.frameworm.training.toys import Scripted, a_trainer

SLOW = {slow}

def compute(model, batch):
    print("computing", flush=True)
    if SLOW:
        time.sleep(60)
    return {{"loss": model.weight ** 2}}

store = CheckpointStore(Path(sys.argv[1]), monitor=None)
trainer = a_trainer(Scripted(compute), [1] * 4, epochs=10**9, checkpoints=store)
trainer.bus.subscribe("train_failed", lambda event: print("train_failed", flush=True))
trainer.bus.subscribe(
    "train_end", lambda event: print("train_end", event.status, event.reason, event.source.step, flush=True)
)
trainer.fit()
"""


def train_in_a_process(folder: Path, number: signal.Signals, *, times: int = 1) -> tuple[int, list[str], str]:
    """Send a signal to a process that trains; return its exit code, the lines that it wrote then, and its errors.

    Where it is sent twice, the first one comes in the middle of a step that takes a minute.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(slow=times > 1), str(folder)],
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    for _ in range(times - 1):
        process.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    return process.returncode, [line for line in out.splitlines() if line != "computing"], err


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, -signal.SIGINT),  # how Python leaves after a KeyboardInterrupt; a shell says 130
        (signal.SIGTERM, 143),
    ],
)
def test_a_signal_ends_the_run_in_good_order(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """The step is finished, a checkpoint is saved, the end is told once, and the exit code says why."""
    returned, lines, err = train_in_a_process(tmp_path, number)
    assert returned == code
    (line,) = lines
    match = re.fullmatch(rf"train_end interrupted {number.name} (\d+)", line)
    assert match is not None
    (saved,) = CheckpointStore(tmp_path, monitor=None).list()
    assert (saved.manifest.step, saved.manifest.reason) == (int(match[1]), number.name)
    assert ("KeyboardInterrupt" in err) == (number is signal.SIGINT)


@pytest.mark.parametrize(
    ("number", "lines"), [(signal.SIGINT, ["train_end interrupted KeyboardInterrupt 0"]), (signal.SIGTERM, [])]
)
def test_a_second_signal_does_not_wait_for_the_step(tmp_path: Path, number: signal.Signals, lines: list[str]) -> None:
    """Ctrl-C still tells of the end, once, SIGTERM of nothing; there is no checkpoint of half a step."""
    assert train_in_a_process(tmp_path, number, times=2)[:2] == (-number, lines)
    assert CheckpointStore(tmp_path, monitor=None).list() == ()
