"""From Python the same is to be had as from the command line: a run that is kept, resumed and loaded again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import frameworm
from frameworm import config
from frameworm.config import Config
from frameworm.errors import CheckpointError, UserError
from frameworm.runs import RunDirectory, list_runs
from frameworm.training.manifest import list_checkpoints

SETTINGS = {
    "model": {"name": f"{__name__}:Tiny"},
    "data": {"name": "synthetic", "samples": 64, "inputs": 4, "targets": 3, "batch_size": 16},
    "trainer": {"epochs": 1, "device": "cpu"},
}


class Tiny(nn.Module):
    """One layer, made with the whole config."""

    def __init__(self, _config: object) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def compute_loss(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        """The mean squared error."""
        return {"loss": nn.functional.mse_loss(self.layer(x), y)}


def settings(folder: Path, *overrides: str) -> Config:
    """The config of a run that is kept in `folder`."""
    return config.parse(SETTINGS, (f"run.dir={folder}", *overrides))


def train(folder: Path, *overrides: str, resume: str | None = None) -> Path:
    """Train, and return where the run is kept."""
    result = frameworm.train(settings(folder, *overrides), resume=resume)
    assert result.status == "finished"
    assert result.directory is not None
    return result.directory


def test_the_trained_model_is_loaded_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the path of its run, from another folder, with the weights that training left."""
    with frameworm.session(settings(tmp_path / "runs")) as trainer:
        trainer.fit()
    assert trainer.run_dir is not None
    monkeypatch.chdir("/")
    loaded = frameworm.load_model(trainer.run_dir)
    assert not loaded.training
    trained = trainer.model.state_dict()
    assert all(torch.equal(weight, trained[name]) for name, weight in loaded.state_dict().items())


def test_a_run_without_checkpoints_has_no_model(tmp_path: Path) -> None:
    """A run that broke in its first epoch is told apart from one that is not there."""
    run = RunDirectory.create(tmp_path, "early")
    run.config.write_text(config.dump(settings(tmp_path)), "utf-8")
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        frameworm.load_model(run.path)


def test_a_run_without_checkpoints_begins_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Resumed, it is the same run, trained from its start, and that is said."""
    run = RunDirectory.create(tmp_path, "early")
    assert train(tmp_path, resume="latest") == run.path
    assert "has no complete checkpoint: it begins again" in caplog.text
    assert [found.epochs for found in list_runs(tmp_path)] == [1]


def test_a_checkpoint_begins_a_new_run(tmp_path: Path) -> None:
    """The path of a checkpoint begins a run that goes on from it and names it as its parent."""
    first = train(tmp_path)
    [checkpoint] = (found.path for found in list_checkpoints(RunDirectory.open(first).checkpoints))
    second = train(tmp_path, "trainer.epochs=2", resume=str(checkpoint))
    assert second != first
    assert RunDirectory.open(second).parent == str(checkpoint)
    assert RunDirectory.open(second).summary().step == 8


def test_overrides_need_a_file(tmp_path: Path) -> None:
    """With a config that is made already they would do nothing, so they are an error, which shows no secret."""
    with pytest.raises(UserError, match="is made already") as caught:
        frameworm.train(settings(tmp_path), ["trainer.epochs=2", "model.api_key=hunter2"])
    assert caught.value.got == "a Config and trainer.epochs=2, model.api_key=***"
    assert list_runs(tmp_path) == []
