"""Exact resume: cut anywhere and taken up again, a run ends with the weights of one that never was, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from bus import EventBus
from bus.testing import record
from frameworm.config import Named
from frameworm.data.loading import loaders
from frameworm.data.splits import ArrayDataset, Splits
from frameworm.events import BatchEnd, EpochBegin, EpochEnd, TrainingEvent
from frameworm.training.seeding import seed_everything
from frameworm.training.store import CheckpointStore
from frameworm.training.trainer import Trainer
from tests.frameworm.training.toys import INPUTS, Batch, Perceptron, a_trainer, same, weights

SIZE, BATCH, EPOCHS = 22, 4, 3  # five whole batches and a smaller one, in three windows of two
PER_EPOCH = 6


def columns() -> tuple[Tensor, Tensor]:
    """Return inputs and classes."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(SIZE, INPUTS, generator=generator), torch.randint(3, (SIZE,), generator=generator)


class Noisy(Dataset[Batch]):
    """Samples with noise from the global generator, as augmentations have it."""

    def __init__(self) -> None:
        self.x, self.y = columns()

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> Batch:
        return self.x[index] + 0.1 * torch.randn(INPUTS), self.y[index]


class Stream:
    """Batches without a length, in another order each time."""

    def __init__(self) -> None:
        self.x, self.y = columns()

    def __iter__(self) -> Iterator[Batch]:
        order = torch.randperm(SIZE)
        for start in range(0, SIZE, BATCH):
            part = order[start : start + BATCH]
            yield self.x[part], self.y[part]


def own() -> Any:
    """The trainer's own loader, which knows its order from seed and epoch."""
    return loaders(Splits(ArrayDataset(*columns())), batch_size=BATCH, seed=5).train


def plain() -> Any:
    """A DataLoader that shuffles with the global generator."""
    return DataLoader(TensorDataset(*columns()), batch_size=BATCH, shuffle=True)


def noisy() -> Any:
    """A DataLoader whose samples draw from it, too."""
    return DataLoader(Noisy(), batch_size=BATCH, shuffle=True)


def workers() -> Any:
    """A DataLoader with a worker, which draws its own seed from it."""
    return DataLoader(Noisy(), batch_size=BATCH, shuffle=True, num_workers=1)


class Cut(NamedTuple):
    """Where a run is stopped: at which event, the how many-th of them."""

    event: type[TrainingEvent]
    number: int


def make(data: Callable[[], Any], seed: int, store: CheckpointStore | None, **options: Any) -> Trainer:
    """Return a trainer with everything in it that has a state, all made anew."""
    seed_everything(seed)
    return a_trainer(
        Perceptron(dropout=0.4),
        data(),
        DataLoader(TensorDataset(*columns()), batch_size=8),  # draws from the global generator as it begins
        optimizer=Named("adamw", {"lr": 0.01}),
        scheduler=Named("OneCycleLR", {"max_lr": 0.02, "total_steps": EPOCHS * PER_EPOCH}),
        epochs=EPOCHS,
        checkpoints=store,
        **options,
    )


class Seen(NamedTuple):
    """What a run showed of itself."""

    batches: list[tuple[int, int, float]]
    epochs: list[tuple[int, Mapping[str, float]]]
    weights: dict[str, Tensor]


def train(trainer: Trainer) -> Seen:
    """Train, and return what was to be seen."""
    with record(trainer.bus, BatchEnd) as batches, record(trainer.bus, EpochEnd) as epochs:
        found: list[tuple[int, int, float]] = []
        with trainer.bus.subscribe(
            BatchEnd, lambda event: found.append((event.source.epoch, event.batch_idx, float(event.loss)))
        ):
            trainer.fit()
    assert len(found) == len(batches)
    return Seen(found, [(event.epoch, event.metrics) for event in epochs], weights(trainer.model))


def stop_at(bus: EventBus, cut: Cut) -> None:
    """Have the run stopped there, once."""
    left = [cut.number]

    @bus.on(cut.event)
    def stop(event: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            event.source.stop()


def joined(first: Seen, second: Seen) -> Seen:
    """Return two parts of a run as one."""
    return Seen(first.batches + second.batches, first.epochs + second.epochs, second.weights)


def assert_same(got: Seen, expected: Seen) -> None:
    """Batches and epochs each once, with the same numbers, and the same weights."""
    assert got.batches == expected.batches
    assert got.epochs == expected.epochs
    assert same(got.weights, expected.weights)


@pytest.mark.parametrize(
    "batch_end",
    [2, 3, 6, 7, 9, 12, 17, 18],
    ids=lambda number: f"epoch {(number - 1) // PER_EPOCH} batch {(number - 1) % PER_EPOCH}",
)
@pytest.mark.parametrize("data", [own, plain, noisy, Stream], ids=lambda data: data.__name__)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_that_was_stopped_within_an_epoch_goes_on_exactly(
    tmp_path: Path, data: Callable[[], Any], accumulate: int, batch_end: int
) -> None:
    """Wherever in a window it was asked to: the window is finished, and no batch is lost or trained twice."""
    assert_exact(tmp_path, data, Cut(BatchEnd, batch_end), accumulate=accumulate)


def assert_exact(folder: Path, data: Callable[[], Any], cut: Cut, **options: Any) -> None:
    """Train at once; then with a stop, a new process's worth of new objects, and a resume; compare."""
    whole = train(make(data, 7, None, **options))
    store = CheckpointStore(folder / "checkpoints", monitor="val_loss")
    first = make(data, 7, store, **options)
    stop_at(first.bus, cut)
    before = train(first)
    assert first.status == "stopped"
    second = make(data, 99, store, **options)
    second.resume(folder)
    assert_same(joined(before, train(second)), whole)
    assert second.status == "finished"


@pytest.mark.parametrize("event", [EpochBegin, EpochEnd, "validation_begin", "validation_batch_end", "validation_end"])
@pytest.mark.parametrize("data", [own, plain])
def test_a_run_that_was_stopped_elsewhere_goes_on_exactly(tmp_path: Path, data: Callable[[], Any], event: Any) -> None:
    """Between two epochs, and in a validation: one that was abandoned comes again as a whole."""
    event_type = EventBus.event_type(event)
    assert_exact(tmp_path, data, Cut(event_type, 2), accumulate=2)


def test_workers_are_seeded_as_they_were(tmp_path: Path) -> None:
    """The cut epoch's noise comes again."""
    assert_exact(tmp_path, workers, Cut(BatchEnd, 8))


def test_a_run_may_be_cut_many_times(tmp_path: Path) -> None:
    """Also twice within one epoch, and at once after it went on."""
    whole = train(make(plain, 7, None))
    store = CheckpointStore(tmp_path, monitor=None)
    seen: Seen | None = None
    for attempt in range(8):
        trainer = make(plain, 7 + attempt, store)
        if seen is not None:
            trainer.resume(tmp_path)
        if attempt < 7:
            stop_at(trainer.bus, Cut(BatchEnd, 2))
        part = train(trainer)
        seen = part if seen is None else joined(seen, part)
    assert seen is not None
    assert_same(seen, whole)


@pytest.mark.parametrize("data", [own, plain, noisy, Stream])
def test_a_run_that_broke_goes_on_from_its_last_checkpoint(tmp_path: Path, data: Callable[[], Any]) -> None:
    """What was trained after it is trained again, with the same numbers."""
    whole = train(make(data, 7, None, accumulate=2))
    store = CheckpointStore(tmp_path, monitor=None)
    first = make(data, 7, store, accumulate=2)
    done: list[int] = []

    @first.bus.on(BatchEnd, on_error="raise")
    def save_then_break(event: BatchEnd) -> None:
        done.append(event.batch_idx)
        if len(done) == 9:
            event.source.save_now()
        if len(done) == 12:
            raise OSError("the power went")

    with pytest.raises(OSError, match="power"):
        first.fit()
    (saved,) = store.list()
    assert (saved.manifest.step, saved.manifest.epoch) == (5, 1)
    second = make(data, 99, store, accumulate=2)
    second.resume(saved.path)
    after = train(second)
    assert after.batches == whole.batches[10:]
    assert after.epochs == whole.epochs[1:]
    assert same(after.weights, whole.weights)


@pytest.mark.parametrize("data", [own, noisy])
def test_the_same_trainer_goes_on_exactly_as_well(data: Callable[[], Any]) -> None:
    """As in a notebook, where somebody stops it, looks around, draws random numbers and trains on."""
    whole = train(make(data, 7, None, accumulate=2))
    trainer = make(data, 7, None, accumulate=2)
    stop_at(trainer.bus, Cut(BatchEnd, 9))
    before = train(trainer)
    assert trainer.status == "stopped"
    torch.randn(3)
    assert_same(joined(before, train(trainer)), whole)


def test_what_listeners_draw_is_drawn_again(tmp_path: Path) -> None:
    """A hook at the begin of the epoch that draws random numbers changes nothing about what was trained after it."""

    def noisy_hooks(trainer: Trainer) -> Trainer:
        for event_type in (EpochBegin, EpochEnd):
            trainer.bus.subscribe(event_type, lambda _event: torch.randn(1))
        return trainer

    whole = train(noisy_hooks(make(plain, 7, None)))
    store = CheckpointStore(tmp_path, monitor=None)
    first = noisy_hooks(make(plain, 7, store))
    stop_at(first.bus, Cut(BatchEnd, 9))
    before = train(first)
    second = noisy_hooks(make(plain, 99, store))
    second.resume(tmp_path)
    assert_same(joined(before, train(second)), whole)


def test_a_finished_run_has_nothing_left_to_train(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Resumed, it ends at once, says so, and saves nothing again."""
    store = CheckpointStore(tmp_path, monitor=None)
    whole = train(make(own, 7, store))
    saved = store.list()
    trainer = make(own, 99, store)
    trainer.resume(tmp_path)
    assert f"nothing is left to train: {tmp_path} has {EPOCHS} of {EPOCHS} epochs" in caplog.text
    with record(trainer.bus) as events:
        result = trainer.fit()
    assert [event.name for event in events] == ["train_begin", "checkpoint_load", "train_resumed", "train_end"]
    assert (result.status, result.epochs, result.steps) == ("finished", EPOCHS, EPOCHS * PER_EPOCH)
    assert result.metrics["loss"] == whole.epochs[-1][1]["loss"]
    assert same(weights(trainer.model), whole.weights)
    assert store.list() == saved


def test_before_it_trains_a_resumed_trainer_is_in_the_epoch_that_comes(tmp_path: Path) -> None:
    """At the end of an epoch that is the next one; the counters are those of the checkpoint."""
    store = CheckpointStore(tmp_path, monitor=None)
    first = make(own, 7, store)
    stop_at(first.bus, Cut(EpochEnd, 1))
    train(first)
    second = make(own, 99, store)
    second.resume(tmp_path)
    assert (second.epoch, second.step) == (1, PER_EPOCH)
    assert second.metrics == first.metrics
    begun: list[tuple[int, int]] = []
    second.bus.subscribe("train_begin", lambda event: begun.append((event.source.epoch, event.source.step)))
    train(second)
    assert begun == [(1, PER_EPOCH)]


def test_the_schedule_goes_on_where_it_was(tmp_path: Path) -> None:
    """Its rates are those of the uninterrupted run."""
    rates: list[float] = []

    def watched(trainer: Trainer) -> Trainer:
        group = trainer.optimizer.param_groups[0]
        trainer.bus.subscribe("optimizer_stepped", lambda _event: rates.append(group["lr"]))
        return trainer

    train(watched(make(own, 7, None)))
    whole, rates = rates, []
    store = CheckpointStore(tmp_path, monitor=None)
    first = watched(make(own, 7, store))
    stop_at(first.bus, Cut(BatchEnd, 8))
    train(first)
    second = make(own, 99, store)
    second.resume(tmp_path)
    train(watched(second))
    assert rates == whole


def test_batch_norm_goes_on_with_its_running_mean(tmp_path: Path) -> None:
    """Buffers are part of the model's state."""

    def normed(seed: int, store: CheckpointStore | None) -> Trainer:
        seed_everything(seed)

        class Normed(Perceptron):
            def __init__(self) -> None:
                super().__init__()
                self.layers = nn.Sequential(nn.BatchNorm1d(INPUTS), *self.layers)

        return a_trainer(Normed(), own(), epochs=2, checkpoints=store)

    whole = train(normed(7, None))
    store = CheckpointStore(tmp_path, monitor=None)
    first = normed(7, store)
    stop_at(first.bus, Cut(BatchEnd, 4))
    before = train(first)
    second = normed(99, store)
    second.resume(tmp_path)
    assert_same(joined(before, train(second)), whole)


def test_resuming_a_trainer_that_runs_is_an_error(tmp_path: Path) -> None:
    """The hook is told so, and training goes on unharmed."""
    store = CheckpointStore(tmp_path, monitor=None)
    whole = train(make(own, 7, store))
    trainer = make(own, 7, None)
    trainer.bus.subscribe(EpochEnd, lambda _event: trainer.resume(tmp_path), name="resumer")
    assert_same(train(trainer), whole)
    (account,) = (account for account in trainer.bus.statistics() if account.name == "resumer")
    assert account.failed == EPOCHS
    assert "is running" in str(account.last_error)
