"""The logger's files are CSV that the standard library reads, with every row once."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus import EventBus
from frameworm.errors import UserError
from frameworm_plugins.csv_logger import CSVLogger
from frameworm_plugins.csv_logger.table import Table
from tests.frameworm_plugins.story import Story, live


@pytest.fixture
def story(tmp_path: Path) -> Story:
    """A run with a folder."""
    return Story(run_dir=tmp_path)


def read(path: Path, *columns: str) -> list[tuple[str, ...]]:
    """Return the rows, of some columns."""
    with path.open(encoding="utf-8", newline="") as file:
        return [tuple(row[column] for column in columns) for row in csv.DictReader(file)]


def test_a_row_per_epoch(story: Story, tmp_path: Path) -> None:
    """In the run's folder; the losses of steps are not asked for."""
    logger = CSVLogger()
    logger.deliver([story.begin(), story.batch(1.0), story.epoch_end(loss=1.5, val_loss=float("nan"))])
    logger.deliver([story.batch(1.0), story.epoch_end(loss=0.1 + 0.2, val_loss=1e-300)])
    assert (tmp_path / "metrics.csv").read_text().splitlines() == [
        "run,epoch,step,time,loss,val_loss",
        "r1,0,1,2030-01-01T00:00:03.000+00:00,1.5,nan",
        "r1,1,2,2030-01-01T00:00:05.000+00:00,0.30000000000000004,1e-300",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_steps_on_request(story: Story, tmp_path: Path) -> None:
    """In a file beside; of the batches that share a step, the first."""
    path = tmp_path / "results" / "all.csv"
    first = story.batch(3.0)
    CSVLogger(path, steps=True).deliver([story.begin(), first, first, story.batch(2.0), story.epoch_end(loss=1.0)])
    assert read(path.with_name("all.steps.csv"), "epoch", "step", "loss") == [("0", "1", "3.0"), ("0", "2", "2.0")]
    assert read(path, "epoch", "loss") == [("0", "1.0")]


def test_columns_that_appear_later(story: Story, tmp_path: Path) -> None:
    """The rows above have empty cells; a metric that is called like a column of the logger's own gets a `_`."""
    logger = CSVLogger()
    logger.deliver([story.epoch_end(loss=1.0)])
    logger.deliver([story.epoch_end(loss=2.0, time=3.0, **{'odd, "name"': 4.0})])
    rows = read(tmp_path / "metrics.csv", "loss", "time_", 'odd, "name"')
    assert rows == [("1.0", "", ""), ("2.0", "3.0", "4.0")]


def test_what_is_delivered_again_is_written_once(story: Story, tmp_path: Path) -> None:
    """By the same logger, and by one that knows of nothing."""
    events = [story.begin(), story.batch(3.0), story.epoch_end(loss=1.0), story.batch(2.0), story.epoch_end(loss=2.0)]
    logger = CSVLogger(steps=True)
    logger.deliver(events[:3])
    logger.deliver(events[1:])
    before = [path.read_text() for path in sorted(tmp_path.iterdir())]
    logger.deliver(events[1:4])
    CSVLogger(steps=True).deliver(events[1:])
    CSVLogger(steps=True).deliver(events)
    assert [path.read_text() for path in sorted(tmp_path.iterdir())] == before


def test_rows_that_are_redone_are_replaced(story: Story, tmp_path: Path) -> None:
    """What lies behind the step that a run goes on from comes again."""
    logger = CSVLogger(steps=True)
    logger.deliver([story.begin(), story.batch(3.0), story.epoch_end(loss=3.0)])
    logger.deliver([story.batch(2.0), story.epoch_end(loss=2.0), story.batch(1.0)])
    logger = CSVLogger(steps=True)
    logger.deliver([*story.resume(step=1, epoch=1)[:1], story.batch(9.0)])
    assert read(tmp_path / "metrics.csv", "epoch", "loss") == [("0", "3.0")]
    logger.deliver([story.epoch_end(loss=8.0)])
    assert read(tmp_path / "metrics.csv", "epoch", "loss") == [("0", "3.0"), ("1", "8.0")]
    assert read(tmp_path / "metrics.steps.csv", "step", "loss") == [("1", "3.0"), ("2", "9.0")]


def test_runs_may_share_a_file(tmp_path: Path) -> None:
    """Each knows its own rows."""
    path = tmp_path / "all.csv"
    one, two = Story("r1"), Story("r2")
    CSVLogger(path).deliver([one.begin(), one.epoch_end(loss=1.0), one.epoch_end(loss=2.0)])
    CSVLogger(path).deliver([two.begin(), two.epoch_end(loss=3.0)])
    CSVLogger(path).deliver([*one.resume(step=0, epoch=1)[:1], one.epoch_end(loss=4.0)])
    assert read(path, "run", "epoch", "loss") == [("r1", "0", "1.0"), ("r1", "1", "4.0"), ("r2", "0", "3.0")]


@pytest.mark.parametrize("torn", ["r1,1,2", "r1,1,2,2030-01-01T00:00:05.000+00:00,1.0"])
def test_a_torn_line_is_cut_off(story: Story, tmp_path: Path, torn: str) -> None:
    """Whatever a writer that was killed left of it."""
    logger = CSVLogger()
    logger.deliver([story.epoch_end(loss=1.0)])
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write(torn)
    CSVLogger().deliver([story.epoch_end(loss=2.0)])
    assert read(tmp_path / "metrics.csv", "epoch", "loss") == [("0", "1.0"), ("1", "2.0")]


def test_a_torn_header_is_no_file(story: Story, tmp_path: Path) -> None:
    """It begins anew."""
    (tmp_path / "metrics.csv").write_text("run,epo")
    CSVLogger().deliver([story.epoch_end(loss=1.0)])
    assert read(tmp_path / "metrics.csv", "run", "epoch", "loss") == [("r1", "0", "1.0")]


def test_a_file_of_somebody_else_is_left_alone(story: Story, tmp_path: Path) -> None:
    """With its columns in the error."""
    path = tmp_path / "metrics.csv"
    path.write_text("name,phone\nA,1\n")
    with pytest.raises(UserError, match="not of the CSV logger") as caught:
        CSVLogger().deliver([story.epoch_end(loss=1.0)])
    assert caught.value.got == "name, phone"
    assert path.read_text() == "name,phone\nA,1\n"


def test_after_an_error_the_file_is_looked_at_again(
    story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What half of a failed write left is no row."""
    logger = CSVLogger()
    logger.deliver([story.epoch_end(loss=1.0)])
    event = story.epoch_end(loss=2.0)
    lines = Table._lines

    def fail(*_: object) -> bytes:
        with (tmp_path / "metrics.csv").open("a") as file:
            file.write("r1,1")
        raise OSError("no space left")

    monkeypatch.setattr(Table, "_lines", fail)
    with pytest.raises(OSError, match="no space"):
        logger.deliver([event])
    monkeypatch.setattr(Table, "_lines", lines)
    logger.deliver([event])
    assert read(tmp_path / "metrics.csv", "epoch", "loss") == [("0", "1.0"), ("1", "2.0")]


def test_served_beside_the_training(story: Story, tmp_path: Path) -> None:
    """On a thread of its own."""
    with EventBus() as bus:
        CSVLogger().register(bus)
        for event in (story.begin(), story.batch(1.0), story.epoch_end(loss=1.0)):
            bus.publish(live(event))
        assert bus.drain(10)
    assert read(tmp_path / "metrics.csv", "epoch", "loss") == [("0", "1.0")]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from("abc"), st.integers()), max_size=12))
def test_a_table_is_a_mapping_from_keys_to_rows(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, str, int]]
) -> None:
    """However rows, keys and columns come, the last row of a key is the one that is read."""
    path = tmp_path_factory.mktemp("table") / "t.csv"
    expected: dict[int, dict[str, str]] = {}
    for key, column, value in rows:
        Table(path, ("run", "step"), key="step", run="r").add([{"run": "r", "step": key, column: value}])
        expected[key] = {column: str(value)}
    found: list[dict[str, str]] = []
    if rows:
        with path.open(encoding="utf-8", newline="") as file:
            found = [{name: cell for name, cell in row.items() if cell} for row in csv.DictReader(file)]
    assert len(found) == len(expected)
    assert {int(row.pop("step")): row for row in found} == {key: {"run": "r", **row} for key, row in expected.items()}
