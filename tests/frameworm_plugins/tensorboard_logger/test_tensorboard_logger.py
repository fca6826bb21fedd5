"""The logger's file is TensorBoard's: its own reader says what is in it."""

from __future__ import annotations

import math
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from frameworm.errors import UserError
from frameworm_plugins import tensorboard_logger
from frameworm_plugins.tensorboard_logger import TensorBoardLogger, eventfile
from tests.frameworm_plugins.story import START, Story


@pytest.fixture
def story(tmp_path: Path) -> Story:
    """A run with a folder."""
    return Story(run_dir=tmp_path / "digits-01")


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return every (step, value) of each tag, as TensorBoard reads them."""
    accumulator = reader(folder)
    found = {tag: accumulator.Scalars(tag) for tag in accumulator.Tags()["scalars"]}
    return {tag: [(scalar.step, scalar.value) for scalar in scalars] for tag, scalars in found.items() if scalars}


def reader(folder: Path) -> Any:
    """Return TensorBoard's reader of a folder, which has read it."""
    module = import_module("tensorboard.backend.event_processing.event_accumulator")
    accumulator = module.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    return accumulator


def restarted(logger: TensorBoardLogger) -> TensorBoardLogger:
    """Return a logger of another process, with the saved state of `logger`."""
    other = TensorBoardLogger()
    other.load_state_dict(logger.state_dict())
    return other


def test_points_have_their_own_time_and_step(story: Story, tmp_path: Path) -> None:
    """In the run's folder."""
    logger = TensorBoardLogger()
    logger.deliver([story.begin(), story.batch(2.0), story.batch(1.0)])
    logger.deliver([story.epoch_end(loss=1.5, val_loss=math.inf), story.logged(mine=5.0)])
    folder = tmp_path / "digits-01" / "tensorboard"
    assert read(folder) == {
        "batch_loss": [(1, 2.0), (2, 1.0)],
        "epoch": [(2, 0.0)],
        "loss": [(2, 1.5)],
        "val_loss": [(2, math.inf)],
        "mine": [(2, 5.0)],
    }
    (mine,) = reader(folder).Scalars("mine")
    assert mine.wall_time - START.timestamp() == 5


def test_many_runs_may_share_a_folder(story: Story, tmp_path: Path) -> None:
    """Each has one of its own in it, which is its name in TensorBoard."""
    TensorBoardLogger(tmp_path / "tb").deliver([story.begin(), story.batch(2.0)])
    assert read(tmp_path / "tb" / "digits-01") == {"batch_loss": [(1, 2.0)]}


def test_what_is_delivered_again_is_written_once(story: Story, tmp_path: Path) -> None:
    """By a logger that was restarted with an older state, and by one that has none and hears it all."""
    folder = tmp_path / "digits-01" / "tensorboard"
    logger = TensorBoardLogger()
    first, second = [story.begin(), story.batch(3.0)], [story.batch(2.0), story.epoch_end(loss=2.5)]
    logger.deliver(first)
    older = restarted(logger)
    logger.deliver(second)
    expected = read(folder)
    older.deliver(second)
    assert read(folder) == expected
    TensorBoardLogger().deliver([*first, *second])
    assert read(folder) == expected
    assert len(list(folder.iterdir())) == 1


def test_steps_that_are_redone_replace_the_earlier_ones(story: Story, tmp_path: Path) -> None:
    """Also those that the resumed run does not come to again."""
    logger = TensorBoardLogger()
    logger.deliver([story.begin(), *(story.batch(float(loss)) for loss in range(4)), story.epoch_end(loss=1.0)])
    logger = restarted(logger)
    logger.deliver([*story.resume(step=2)[:1], story.batch(9.0)])
    assert read(tmp_path / "digits-01" / "tensorboard") == {"batch_loss": [(1, 0.0), (2, 1.0), (3, 9.0)]}


def test_a_run_that_begins_again_replaces_everything(story: Story, tmp_path: Path) -> None:
    """There was no checkpoint to resume from."""
    logger = TensorBoardLogger()
    logger.deliver([story.begin(), story.batch(1.0), story.batch(2.0)])
    logger.deliver([*story.resume(step=0)[:1], story.batch(9.0)])
    assert read(tmp_path / "digits-01" / "tensorboard") == {"batch_loss": [(1, 9.0)]}


def test_a_torn_tail_is_cut_off(story: Story, tmp_path: Path) -> None:
    """What a logger without a state goes on behind is whole."""
    TensorBoardLogger().deliver([story.begin(), story.batch(1.0)])
    (path,) = (tmp_path / "digits-01" / "tensorboard").iterdir()
    data = path.read_bytes()
    path.write_bytes(data + data[:-3])
    TensorBoardLogger().deliver([story.batch(2.0)])
    assert read(path.parent)["batch_loss"][-1] == (2, 2.0)


def test_a_file_that_was_removed_begins_anew(story: Story, tmp_path: Path) -> None:
    """Instead of with a hole."""
    logger = TensorBoardLogger()
    logger.deliver([story.begin(), story.batch(1.0)])
    (path,) = (tmp_path / "digits-01" / "tensorboard").iterdir()
    path.unlink()
    logger.deliver([story.batch(2.0)])
    assert read(path.parent) == {"batch_loss": [(2, 2.0)]}


def test_a_write_that_fails_leaves_no_trace(story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one writes over what it left."""
    logger = TensorBoardLogger()
    logger.deliver([story.begin(), story.batch(1.0)])
    batch = story.batch(2.0)
    write = eventfile.write

    def fail(path: Path, size: int, entries: Any) -> int:
        write(path, size, [*entries][:1])
        raise OSError("no space left")

    monkeypatch.setattr(eventfile, "write", fail)
    with pytest.raises(OSError, match="no space"):
        logger.deliver([batch, story.batch(3.0)])
    monkeypatch.setattr(eventfile, "write", write)
    logger.deliver([batch])
    assert read(tmp_path / "digits-01" / "tensorboard") == {"batch_loss": [(1, 1.0), (2, 2.0)]}


def test_nothing_of_tensorboard_is_imported_before_the_first_event() -> None:
    """Neither by loading the plugin nor by making the logger: in training, a config is only checked."""
    made = "from frameworm_plugins.tensorboard_logger import TensorBoardLogger; TensorBoardLogger()"
    code = f"import sys; {made}; print('tensorboard' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_without_tensorboard_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a config asks for it, before step 1."""
    monkeypatch.setattr(tensorboard_logger, "find_spec", lambda _name: None)
    with pytest.raises(UserError, match="TensorBoard") as caught:
        TensorBoardLogger()
    assert caught.value.hint == "pip install 'frameworm[tensorboard]'"
