"""The events: the document's hooks with their arguments, and the loop as the module tells it against a real run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bus import Recorded, event_types, record_fields
from bus.testing import record
from frameworm import events
from frameworm.events import BatchEnd, EpochEnd, TrainingEvent
from frameworm.plugins.binding import hook_names
from frameworm.training.store import CheckpointStore
from frameworm.training.trainer import Trainer
from tests.frameworm.training.toys import Scripted, a_perceptron, a_trainer, some_batches

# The document's hooks

HOOK_REFERENCE = """
### Training Hooks

- `on_train_begin(trainer)` - Before training starts
- `on_train_end(trainer)` - After training completes
- `on_epoch_begin(trainer, epoch)` - Start of epoch
- `on_epoch_end(trainer, epoch, metrics)` - End of epoch
- `on_batch_begin(trainer, batch_idx, batch)` - Before batch
- `on_batch_end(trainer, batch_idx, loss)` - After batch

### Gradient Hooks

- `on_backward_begin(trainer, loss)` - Before backward pass
- `on_backward_end(trainer)` - After backward pass
- `on_optimizer_step(trainer)` - Before optimizer.step()

### Validation Hooks

- `on_validation_begin(trainer)` - Start validation
- `on_validation_end(trainer, metrics)` - End validation

### Model Hooks

- `on_checkpoint_save(trainer, path)` - Before saving checkpoint
- `on_checkpoint_load(trainer, checkpoint)` - After loading
- `on_model_export(model, exporter, format)` - Before export
"""
"""From creating-plugins.md, word by word."""


def test_the_documents_fourteen_hooks_exist_with_its_arguments_in_its_order() -> None:
    """Letter by letter; what they may ask for besides comes behind."""
    documented = {
        name: tuple(arguments.split(", ")) for name, arguments in re.findall(r"`(\w+)\((.*)\)`", HOOK_REFERENCE)
    }
    assert len(documented) == 14
    known = hook_names()
    assert {name: known[name].arguments[: len(those)] for name, those in documented.items()} == documented


def test_every_argument_of_a_hook_is_a_field_of_its_event() -> None:
    """Or an alias of one; so any hook can be served."""
    for event_type in ours().values():
        fields = {event_type.aliases.get(argument, argument) for argument in event_type.arguments}
        assert fields <= set(event_type.__struct_fields__), event_type.name


def test_what_hooks_may_add_to_is_announced_and_recorded() -> None:
    """The metrics of an epoch and of a validation, and nothing else."""
    additive = {name: event_type.additive for name, event_type in ours().items() if event_type.additive}
    assert additive == {"epoch_end": ("metrics",), "validation_end": ("metrics",)}
    for name in additive:
        assert "metrics" in [field.name for field in record_fields(event_types()[name])]


def test_only_events_of_a_batch_are_not_always_recorded() -> None:
    """Of the others there are few, and each matters."""
    seldom = {
        name: event_type.recorded for name, event_type in ours().items() if event_type.recorded is not Recorded.ALWAYS
    }
    assert seldom.pop("batch_end") is Recorded.SAMPLED
    assert set(seldom) == {
        "batch_begin",
        "backward_begin",
        "backward_end",
        "optimizer_step",
        "optimizer_stepped",
        "validation_batch_end",
    }
    assert set(seldom.values()) == {Recorded.ON_DEMAND}


def ours() -> dict[str, type[TrainingEvent]]:
    """Return the events of training, by name."""
    return {
        name: event_type
        for name, event_type in event_types().items()
        if issubclass(event_type, TrainingEvent) and event_type.__module__ == events.__name__
    }


# The loop in the module's docstring


class Line(NamedTuple):
    """A line of the loop: an event, `for each ...` or `when ...`, and the lines inside of it."""

    text: str
    inside: list[Line]


def the_loop() -> list[Line]:
    """Parse the loop: it is indented, and each deeper level by four more."""
    assert events.__doc__ is not None
    top: list[Line] = []
    levels = [top]
    for written in events.__doc__.splitlines():
        if match := re.fullmatch(r"( {4,})(\w.*?):?", written):
            level = len(match[1]) // 4
            line = Line(match[2], [])
            levels[level - 1].append(line)
            levels[level:] = [line.inside]
    return top


At = Mapping[str, int]
"""Where in the loops we are: the epoch, the batch, the validation batch."""


class World(NamedTuple):
    """What decides how the loop goes: how often each `for each` runs, and whether each `when` holds."""

    each: Mapping[str, range]
    when: Mapping[str, Callable[[At], bool]]


def unfold(lines: list[Line], world: World, at: At) -> Iterator[str]:
    """Run the loop, and give the events."""
    for line in lines:
        if line.text.startswith("for each "):
            what = line.text.removeprefix("for each ")
            for index in world.each[what]:
                yield from unfold(line.inside, world, {**at, what: index})
        elif line.text.startswith("when "):
            if world.when[line.text.removeprefix("when ")](at):
                yield from unfold(line.inside, world, at)
        else:
            assert line.inside == []
            yield line.text


EPOCHS, BATCHES, VALIDATION_BATCHES = 2, 3, 2


def told(epochs: range = range(EPOCHS), *, asked: bool = True, **when: Callable[[At], bool]) -> list[str]:
    """Return the events of a run with accumulation of 2 as the docstring tells them, `asked` to save each epoch."""
    holds = {
        "resuming": lambda at: False,
        "somebody asked to leave it out": lambda at: False,
        "it is trained": lambda at: True,
        "its accumulation window is full": lambda at: at["batch"] in (1, BATCHES - 1),
        "validating": lambda at: True,
        "somebody asked for something": lambda at: asked,
        "a checkpoint was asked for": lambda at: True,
        "the latest checkpoint is older than that": lambda at: False,
        "it failed": lambda at: False,
    }
    assert when.keys() <= {name.replace(" ", "_") for name in holds}
    each = {
        "epoch": epochs,
        "batch": range(BATCHES),
        "optimizer": range(1),
        "validation batch": range(VALIDATION_BATCHES),
    }
    rules = {name: when.get(name.replace(" ", "_"), rule) for name, rule in holds.items()}
    return list(unfold(the_loop(), World(each, rules), {}))


def a_run(folder: Path, *, save: bool = True, **options: Any) -> Trainer:
    """Return a trainer for it."""
    trainer = a_trainer(
        a_perceptron(),
        some_batches(BATCHES),
        some_batches(VALIDATION_BATCHES),
        accumulate=2,
        checkpoints=CheckpointStore(folder, monitor=None),
        **{"epochs": EPOCHS, **options},
    )
    if save:
        trainer.bus.subscribe(EpochEnd, lambda event: event.source.save_now())
    return trainer


def names_of(trainer: Trainer) -> list[str]:
    """Train, and return the names of all events, in order."""
    with record(trainer.bus) as seen:
        trainer.fit()
    return [event.name for event in seen]


def test_a_run_is_as_the_docstring_tells_it(tmp_path: Path) -> None:
    """2 epochs of 3 batches, accumulation of 2, validation, a checkpoint an epoch."""
    assert names_of(a_run(tmp_path)) == told()


def test_a_resumed_run_is_as_the_docstring_tells_it(tmp_path: Path) -> None:
    """From the end of the first epoch."""
    trainer = a_run(tmp_path)
    trainer.bus.subscribe(EpochEnd, lambda event: event.source.stop())
    # The second to ask is the one that stops it; what both asked for is told first.
    names = names_of(trainer)
    names.remove("control_requested")
    assert names == told(range(1))
    trainer = a_run(tmp_path)
    trainer.resume(tmp_path)
    assert names_of(trainer) == told(range(1, EPOCHS), resuming=lambda at: True)


def test_a_run_that_nobody_saves_is_as_the_docstring_tells_it(tmp_path: Path) -> None:
    """It is saved in the end."""
    assert names_of(a_run(tmp_path, save=False)) == told(
        asked=False,
        a_checkpoint_was_asked_for=lambda at: False,
        the_latest_checkpoint_is_older_than_that=lambda at: True,
    )


def test_a_run_with_little_validation_is_as_the_docstring_tells_it(tmp_path: Path) -> None:
    """Only the last epoch has it."""
    trainer = a_run(tmp_path, validate_every=9)
    assert names_of(trainer) == told(validating=lambda at: at["epoch"] == EPOCHS - 1)


def test_a_failure_leads_straight_to_its_event(tmp_path: Path) -> None:
    """And from there to the end: what was to come is left out."""
    trainer = a_trainer(Scripted(lambda model, batch: 1 / 0), [1])
    with record(trainer.bus) as seen, pytest.raises(ZeroDivisionError):
        trainer.fit()
    assert [event.name for event in seen] == ["train_begin", "epoch_begin", "batch_begin", "train_failed", "train_end"]
    assert told(range(0), it_failed=lambda at: True) == ["train_begin", "train_failed", "train_end"]


def test_the_docstring_names_every_event() -> None:
    """Those of the loop, and the others in the words below it."""
    assert events.__doc__ is not None
    named = set(re.findall(r"\w+", events.__doc__))
    assert set(ours()) <= named


def test_a_checkpoint_within_an_epoch_follows_the_batch_that_completes_a_step(tmp_path: Path) -> None:
    """As the docstring says."""
    trainer = a_run(tmp_path, save=False)
    asked: list[int] = []

    @trainer.bus.on(BatchEnd)
    def ask(event: BatchEnd) -> None:
        if not asked:
            asked.append(event.batch_idx)
            event.source.save_now()

    names = names_of(trainer)
    first = names.index("checkpoint_save")
    assert asked == [0]
    assert names[first - 4 : first + 3] == [
        "optimizer_step",
        "optimizer_stepped",
        "batch_end",
        "control_requested",
        "checkpoint_save",
        "checkpoint_saved",
        "batch_begin",
    ]
    assert names[:first].count("batch_end") == 2
