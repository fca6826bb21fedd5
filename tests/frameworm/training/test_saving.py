"""What goes into a checkpoint besides the weights and comes back: when it is saved, with which metrics, whose state."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from bus import EventBus
from bus.testing import record
from frameworm.errors import CheckpointError
from frameworm.events import BatchEnd, CheckpointSave, CheckpointSaved, EpochEnd
from frameworm.listeners.early_stopping import EarlyStopping
from frameworm.plugins.hooks import CallbackHook, HookRegistry
from frameworm.training.checkpoint import save
from frameworm.training.run import RunInfo, TrainResult
from frameworm.training.store import CheckpointStore
from tests.frameworm.training.toys import Scripted, a_perceptron, a_trainer, some_batches, weights


def a_store(folder: Path, monitor: str | None = "val_loss") -> CheckpointStore:
    """Return the checkpoints in a folder."""
    return CheckpointStore(folder / "checkpoints", monitor=monitor, keep=9)


class Counter(CallbackHook):
    """Counts epochs, over all attempts."""

    def __init__(self, start: int = 0) -> None:
        self.count = start

    def on_epoch_end(self, trainer: Any) -> None:
        """Count."""
        self.count += 1

    def state_dict(self) -> dict[str, int]:
        """Return the count."""
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take it back."""
        self.count = state["count"]


# When


def test_a_run_ends_with_a_checkpoint(tmp_path: Path) -> None:
    """Of its last moment, though nobody asked."""
    trainer = a_trainer(checkpoints=a_store(tmp_path), epochs=2)
    with record(trainer.bus) as events:
        trainer.fit()
    (saved,) = a_store(tmp_path).list()
    assert (saved.manifest.step, saved.manifest.epoch, saved.manifest.reason) == (6, 1, "the end")
    assert [event.name for event in events[-4:]] == ["epoch_end", "checkpoint_save", "checkpoint_saved", "train_end"]


def test_without_a_store_nothing_is_saved_or_announced() -> None:
    """Whoever asks."""
    trainer = a_trainer()
    trainer.bus.subscribe(BatchEnd, lambda event: event.source.save_now())
    with record(trainer.bus, CheckpointSave, CheckpointSaved) as events:
        trainer.fit()
    assert events == []


def test_save_comes_before_the_file_and_saved_after(tmp_path: Path) -> None:
    """Both with the final path."""
    trainer = a_trainer(checkpoints=a_store(tmp_path))
    seen: list[tuple[str, Path, bool, int]] = []

    def look(event: Any) -> None:
        seen.append((event.name, Path(event.path), Path(event.path).exists(), len(a_store(tmp_path).list())))

    trainer.bus.subscribe(CheckpointSave, look)
    trainer.bus.subscribe(CheckpointSaved, look)
    trainer.fit()
    (saved,) = a_store(tmp_path).list()
    assert seen == [("checkpoint_save", saved.path, False, 0), ("checkpoint_saved", saved.path, True, 1)]


@pytest.mark.parametrize("event", ["batch_begin", "backward_begin", "backward_end", "optimizer_step", "batch_end"])
def test_what_a_hook_asks_for_is_saved_between_two_steps(tmp_path: Path, event: str) -> None:
    """Never inside of an accumulation window, nor of the hook: there it would be half a step."""
    trainer = a_trainer(train_data=some_batches(4), accumulate=2, checkpoints=a_store(tmp_path))
    asked: list[str] = []

    def ask(happened: Any) -> None:
        if not asked:
            asked.append(happened.name)
            happened.source.save_now("I said so")

    trainer.bus.subscribe(event, ask)
    with record(trainer.bus, event, "batch_end", "optimizer_stepped", CheckpointSave) as events:
        trainer.fit()
    names = [happened.name for happened in events]
    save = names.index("checkpoint_save")
    assert names[save - 1] == "batch_end"
    assert names[:save].count("optimizer_stepped") == 1
    first, last = a_store(tmp_path).list()
    assert (first.manifest.step, first.manifest.reason) == (1, "I said so")
    assert (last.manifest.step, last.manifest.reason) == (2, "the end")


def test_what_another_thread_asks_for_is_saved_between_two_steps(tmp_path: Path) -> None:
    """It only files a request; the training thread writes."""
    trainer = a_trainer(train_data=some_batches(4), checkpoints=a_store(tmp_path))
    writers: list[int] = []

    @trainer.bus.on(BatchEnd)
    def from_elsewhere(event: BatchEnd) -> None:
        if event.batch_idx == 1:
            thread = threading.Thread(target=event.source.save_now)
            thread.start()
            thread.join()

    trainer.bus.subscribe(CheckpointSave, lambda _event: writers.append(threading.get_ident()))
    trainer.fit()
    assert [checkpoint.manifest.step for checkpoint in a_store(tmp_path).list()] == [2, 4]
    assert set(writers) == {threading.get_ident()}


def test_a_moment_is_saved_once(tmp_path: Path) -> None:
    """However many ask; the end of a run finds the last epoch saved."""
    trainer = a_trainer(checkpoints=a_store(tmp_path), epochs=2)
    for _ in range(3):
        trainer.bus.subscribe(EpochEnd, lambda event: event.source.save_now("epoch end"))
    trainer.fit()
    assert [checkpoint.manifest.reason for checkpoint in a_store(tmp_path).list()] == ["epoch end"] * 2


def test_asking_on_being_saved_is_no_endless_loop(tmp_path: Path) -> None:
    """There is nothing new to save."""
    trainer = a_trainer(checkpoints=a_store(tmp_path))
    trainer.bus.subscribe(CheckpointSaved, lambda event: event.source.save_now())
    trainer.bus.subscribe(EpochEnd, lambda event: event.source.save_now())
    trainer.fit()
    assert len(a_store(tmp_path).list()) == 1


def test_a_new_run_from_a_foreign_checkpoint_has_one_of_its_own(tmp_path: Path) -> None:
    """Though nothing is left to train, and the same moment was saved elsewhere."""
    a_trainer(checkpoints=a_store(tmp_path / "old")).fit()
    trainer = a_trainer(checkpoints=a_store(tmp_path / "new"))
    trainer.resume(tmp_path / "old")
    trainer.fit()
    assert len(a_store(tmp_path / "new").list()) == 1


def test_the_store_may_be_given_when_the_run_is_known(tmp_path: Path) -> None:
    """After resuming; what is in it already is not saved again."""
    a_trainer(checkpoints=a_store(tmp_path)).fit()
    trainer = a_trainer()
    trainer.resume(tmp_path)
    trainer.checkpoints = a_store(tmp_path)
    trainer.fit()
    assert len(a_store(tmp_path).list()) == 1


# Which metrics


def test_the_recorded_metrics_are_those_of_these_weights(tmp_path: Path) -> None:
    """Not those of an epoch before: the best checkpoint is found by them."""
    trainer = a_trainer(
        a_perceptron(), some_batches(), some_batches(), checkpoints=a_store(tmp_path), epochs=3, validate_every=2
    )

    @trainer.bus.on(BatchEnd)
    def within(event: BatchEnd) -> None:
        if event.source.step == 4:
            event.source.save_now()

    trainer.bus.subscribe(EpochEnd, lambda event: event.source.save_now())
    with record(trainer.bus, EpochEnd) as ends:
        trainer.fit()
    recorded = {checkpoint.manifest.step: checkpoint.manifest.metrics for checkpoint in a_store(tmp_path).list()}
    assert recorded == {3: ends[0].metrics, 4: {}, 6: ends[1].metrics, 9: ends[2].metrics}
    assert "val_loss" not in recorded[3]
    assert "val_loss" in recorded[6]


def test_what_a_hook_adds_to_an_epochs_metrics_is_recorded(tmp_path: Path) -> None:
    """And may be what the best checkpoint goes by."""
    trainer = a_trainer(checkpoints=a_store(tmp_path, monitor="score"), epochs=3)
    trainer.bus.subscribe(EpochEnd, lambda event: event.metrics.update(score=[1, 3, 2][event.epoch]))
    trainer.bus.subscribe(EpochEnd, lambda event: event.source.save_now())
    trainer.fit()
    best = a_store(tmp_path, monitor="score").best()
    assert best is not None
    assert best.manifest.step == 6


def test_a_checkpoint_says_of_what_it_is(tmp_path: Path) -> None:
    """The run and the model by their names."""
    trainer = a_trainer(checkpoints=a_store(tmp_path), run=RunInfo(id="digits-1", model="mine"))
    trainer.fit()
    (saved,) = a_store(tmp_path).list()
    assert (saved.manifest.run, saved.manifest.model) == ("digits-1", "mine")


# Listeners


def test_a_listeners_state_is_saved_and_restored(tmp_path: Path) -> None:
    """That of a CallbackHook, and of anything else that has one."""
    counter, stopping = Counter(), EarlyStopping(patience=99)
    trainer = a_trainer(a_perceptron(), some_batches(), some_batches(), checkpoints=a_store(tmp_path), epochs=3)
    counter.register(trainer.bus)
    stopping.register(trainer.bus)
    trainer.fit()

    counter, again = Counter(), EarlyStopping(patience=99)
    trainer = a_trainer(a_perceptron(), some_batches(), some_batches())
    again.register(trainer.bus)
    counter.register(trainer.bus)
    trainer.resume(tmp_path)
    assert counter.count == 3
    assert again.best is not None
    assert again.state_dict() == stopping.state_dict()


def test_two_instances_of_one_class_keep_their_own_state(tmp_path: Path) -> None:
    """Also two of a class that gives all its subscriptions one name."""
    trainer = a_trainer(checkpoints=a_store(tmp_path), epochs=2)
    counters = [Counter(start).register(trainer.bus) for start in (10, 20, 30)]
    waiting = [EarlyStopping("loss", patience=99), EarlyStopping("lr", patience=99)]
    for listener in waiting:
        listener.register(trainer.bus)
    trainer.fit()

    trainer = a_trainer()
    restored = [Counter().register(trainer.bus) for _ in counters]
    again = [EarlyStopping("loss", patience=99), EarlyStopping("lr", patience=99)]
    for listener in again:
        listener.register(trainer.bus)
    trainer.resume(tmp_path)
    assert [counter.count for counter in restored] == [12, 22, 32]
    assert [listener.state_dict() for listener in again] == [listener.state_dict() for listener in waiting]
    assert again[0].best != again[1].best


def test_a_callback_on_the_default_bus_is_saved_even_while_hooks_are_disabled(tmp_path: Path) -> None:
    """Being silent is no reason to forget."""
    trainer = a_trainer(checkpoints=a_store(tmp_path), bus=None)
    with Counter(5), HookRegistry.disable():
        trainer.fit()
    trainer = a_trainer(bus=None)
    with Counter() as counter:
        trainer.resume(tmp_path)
        assert counter.count == 5


def test_a_state_that_no_listener_takes_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By name; resuming goes on."""
    trainer = a_trainer(checkpoints=a_store(tmp_path))
    Counter().register(trainer.bus, name="epochs")
    trainer.fit()
    a_trainer().resume(tmp_path)
    assert "a state of epochs, which does not listen now" in caplog.text


def test_a_bad_state_fails_when_it_is_saved_by_name(tmp_path: Path) -> None:
    """Not when it is loaded, which would be too late."""

    class Bad(Counter):
        def state_dict(self) -> dict[str, Any]:
            return {"self": self}

    trainer = a_trainer(checkpoints=a_store(tmp_path))
    Bad().register(trainer.bus, name="bad")
    with pytest.raises(CheckpointError, match=r"'listeners'\]\['bad'\]\['self'\]"):
        trainer.fit()
    assert trainer.status == "failed"


@pytest.mark.parametrize(("broken", "what"), [("state_dict", "give its state"), ("load_state_dict", "take its state")])
def test_a_listener_that_fails_on_its_state_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, what: str
) -> None:
    """A failed save or restore is an error."""

    def fail(*_args: Any) -> None:
        raise KeyError("mine")

    trainer = a_trainer(checkpoints=a_store(tmp_path))
    Counter().register(trainer.bus, name="mine")
    if broken == "load_state_dict":
        trainer.fit()
    monkeypatch.setattr(Counter, broken, fail)
    with pytest.raises(CheckpointError, match=f"mine does not {what}") as caught:
        trainer.fit() if broken == "state_dict" else trainer.resume(tmp_path)
    assert caught.value.got == "KeyError: 'mine'"


# What does not fit


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    """Before anything is touched."""
    a_trainer(checkpoints=a_store(tmp_path)).fit()
    model = Scripted(lambda model, batch: {"loss": model.weight})
    before = weights(model)
    with pytest.raises(CheckpointError, match="of another model"):
        a_trainer(model).resume(tmp_path)
    assert torch.equal(weights(model)["weight"], before["weight"])


def test_a_checkpoint_of_another_optimizer_is_refused(tmp_path: Path) -> None:
    """Torch would take it, and fail in the first step."""
    a_trainer(checkpoints=a_store(tmp_path)).fit()
    with pytest.raises(CheckpointError, match="of another optimizer") as caught:
        a_trainer(optimizer="adamw").resume(tmp_path)
    assert (caught.value.expected, caught.value.got) == ("AdamW", "SGD")


def test_a_state_that_somebody_else_wrote_is_refused(tmp_path: Path) -> None:
    """It is a checkpoint, but of no run."""
    save(
        a_store(tmp_path),
        model=a_perceptron(),
        state={"mine": 1},
        run="",
        model_name="",
        epoch=0,
        step=1,
        metrics={},
        reason="",
    )
    with pytest.raises(CheckpointError, match="does not fit"):
        a_trainer().resume(tmp_path)


def test_a_listener_on_another_bus_is_not_saved(tmp_path: Path) -> None:
    """Only those that hear of this run belong to it."""
    trainer = a_trainer(checkpoints=a_store(tmp_path))
    Counter(5).register(EventBus(), name="stranger")
    trainer.fit()
    assert listeners_in(tmp_path) == {}


def test_a_listener_with_several_hooks_is_saved_once(tmp_path: Path) -> None:
    """Under the one name that they share."""

    class Both(Counter):
        def on_train_begin(self) -> None:
            """Another hook."""

    trainer = a_trainer(checkpoints=a_store(tmp_path))
    Both(5).register(trainer.bus, name="one")
    Both(7).register(trainer.bus, name="two")
    trainer.fit()
    assert listeners_in(tmp_path) == {"one": {"count": 6}, "two": {"count": 8}}


def listeners_in(folder: Path) -> Any:
    """Return the listeners' states in the one checkpoint."""
    (saved,) = a_store(folder).list()
    return torch.load(saved.path / "state.pt", weights_only=True)["state"]["listeners"]


def test_a_disk_without_room_is_found_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run fails with what it takes and what there is; resumed with its checkpoints there, it takes less."""
    usage = shutil.disk_usage(tmp_path)
    weights = sum(value.nbytes for value in a_perceptron().state_dict().values())

    def free(count: float) -> None:
        there = usage._replace(free=int(count * weights))
        monkeypatch.setattr(shutil, "disk_usage", lambda _: there)

    def fit() -> TrainResult:
        store = CheckpointStore(tmp_path / "checkpoints", monitor=None)
        return a_trainer(ema=0.9, checkpoints=store).fit()

    free(4 * 3.9)  # two that are kept, the best and the next: weights, two moments and an average each
    with pytest.raises(CheckpointError, match="not enough room"):
        fit()
    assert not (tmp_path / "checkpoints").exists()
    free(4 * 4.1)
    assert fit().steps > 0
    free(3 * 4.1)
    assert fit().steps > 0
