"""The published schema: it fits the lines that are really written, and no others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus import Event, EventBus, Recorded, event_types
from frameworm import events
from frameworm.delivery.journal import Journal, journal_path, schema
from frameworm.delivery.records import GAP, Pending, Values, record_keys
from frameworm.events import TrainingEvent


class Clash(Event, frozen=True):
    """An event whose fields are called like keys of every record."""

    time: float
    event: str
    epoch: int


TRAINER: Any = None  # nobody asks it for anything
SAMPLES: tuple[TrainingEvent, ...] = (
    events.TrainBegin(TRAINER, 3),
    events.TrainResumed(TRAINER, "checkpoints/a"),
    events.TrainFailed(TRAINER, ValueError("no"), "ValueError: no"),
    events.TrainEnd(TRAINER, "failed", None, "ValueError: no"),
    events.EpochBegin(TRAINER, 0),
    events.EpochEnd(TRAINER, 0, {"loss": float("nan")}),
    events.BatchBegin(TRAINER, 0, object()),
    events.BatchEnd(TRAINER, 0, float("inf")),
    events.BatchSkipped(TRAINER, 0, "too long", "a_hook"),
    events.BackwardBegin(TRAINER, object()),
    events.BackwardEnd(TRAINER),
    events.OptimizerStep(TRAINER),
    events.OptimizerStepped(TRAINER, None),
    events.NonFiniteFound(TRAINER, "loss", "skip_step", 1),
    events.ControlRequested(TRAINER, "save", "asked to save", "a_hook"),
    events.ValidationBegin(TRAINER),
    events.ValidationBatchEnd(TRAINER, 0, 0.5, object(), {}),
    events.ValidationEnd(TRAINER, {"val_loss": 0.5}),
    events.CheckpointSave(TRAINER, "checkpoints/a"),
    events.CheckpointSaved(TRAINER, "checkpoints/a"),
    events.CheckpointLoad(TRAINER, {}, "checkpoints/a"),
    events.ModelExport(TRAINER, object(), object(), "onnx"),
    events.ModelExported(TRAINER, "model.onnx", "onnx"),
    events.MetricsLogged(TRAINER, {"a": 1.0}),
    events.ListenerFailed(TRAINER, "logger", "epoch_end", "ValueError: no", 1),
    events.ListenerRecovered(TRAINER, "logger"),
    events.HooksSwitched(TRAINER, enabled=False),
)


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    """What checks a line against the published schema."""
    published = schema()
    jsonschema.Draft202012Validator.check_schema(published)
    return jsonschema.Draft202012Validator(published)


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """A line of every event type, and of a gap, as a journal writes them."""
    directory = tmp_path_factory.mktemp("run")
    every: dict[type[Event], int] = {type(sample): 1 for sample in SAMPLES}
    with EventBus() as bus, Journal(directory, run="r", position=lambda: (0, 0)) as journal:
        journal.attach(bus, every)
        for sample in SAMPLES:
            bus.publish(sample)
        journal._log.append(journal._gap(24, 25))
    return [json.loads(line) for line in journal_path(directory).read_text("utf-8").splitlines()]


def test_real_lines_of_every_event_fit(validator: jsonschema.Draft202012Validator, lines: list[dict[str, Any]]) -> None:
    """Whoever validates against the schema reads every journal."""
    shipped = {name for name, event in event_types().items() if event.__module__ == events.__name__}
    assert {line["event"] for line in lines} == shipped | {GAP}
    for line in lines:
        validator.validate(line)


@pytest.mark.parametrize(
    "change",
    [{"event": "batch_finish"}, {"seq": 0}, {"crc": None}, {"loss": "nan"}, {"loss": None}, {"v": 2}, {"time": 1}],
)
def test_other_lines_do_not_fit(
    validator: jsonschema.Draft202012Validator, lines: list[dict[str, Any]], change: dict[str, Any]
) -> None:
    """The schema is no mere decoration."""
    (line,) = (line for line in lines if line["event"] == "batch_end")
    assert validator.is_valid(line)
    assert not validator.is_valid(line | change)
    for key in change:
        assert not validator.is_valid({name: value for name, value in line.items() if name != key})


def test_the_schema_names_each_event_once() -> None:
    """Each alternative is told by the constant name of its event, and says what the event means."""
    published = schema()
    names = [reference["$ref"].rpartition("/")[2] for reference in published["oneOf"]]
    assert sorted(names) == sorted(set(names))
    for name in names:
        definition = published["$defs"][name]
        assert definition["properties"]["event"] == {"const": name}
        assert definition["description"]


def test_no_key_of_a_record_is_lost() -> None:
    """No field of an event takes the place of another key."""
    for event in event_types().values():
        if issubclass(event, TrainingEvent):
            keys = [key for _, key in record_keys(event)]
            assert not {"v", "seq", "attempt", "time", "run", "rank", "event", "crc"} & set(keys)
    assert dict(record_keys(Clash)) == {"time": "time_", "event": "event_", "epoch": "epoch"}


def test_every_type_says_when_it_is_recorded() -> None:
    """The samples cover what is recorded always, sampled and on demand."""
    assert {type(sample).recorded for sample in SAMPLES} == set(Recorded)


class Arrived:
    """A copy that is there."""

    def ready(self) -> bool:
        """Whether it is: it is."""
        return True

    def value(self) -> float:
        """Return a number that JSON has none for."""
        return float("nan")


def test_an_arrived_number_is_written_like_any_other() -> None:
    """NaN from a device has its name too."""
    assert Values().plain({"a": [Pending(Arrived())]}, []) == {"a": ["NaN"]}


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers(),
    lambda items: st.lists(items) | st.dictionaries(st.text(), items) | st.tuples(items),
    max_leaves=10,
)


@given(json_like)
def test_whatever_an_event_carries_a_strict_parser_reads(value: Any) -> None:
    """No value turns into something that is not JSON, and none is turned into null silently."""
    values = Values()
    plain = values.plain(value, [])
    text = json.dumps(plain, allow_nan=False)
    assert json.loads(text) == plain
    assert value is None or plain is not None


def test_the_journal_needs_no_torch(tmp_path: Path) -> None:
    """Reading and writing journals starts fast."""
    code = "import sys; import frameworm.delivery.journal, frameworm.delivery.records; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=tmp_path, timeout=30).returncode == 0
