"""A trained model is had again as it was: to be used, and to be judged, with the same result each time."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import frameworm
from frameworm import config
from frameworm.config import Config
from frameworm.core import register_metric, registries
from frameworm.data import ArrayDataset, Splits
from frameworm.errors import (
    CheckpointError,
    DataError,
    PluginError,
    RunError,
    StopTraining,
    UnknownNameError,
    UserError,
)
from frameworm.events import TrainerHandle
from frameworm.plugins.hooks import CallbackHook
from frameworm.plugins.selection import Selection
from frameworm.trained import evaluate, load_model
from frameworm.training.checkpoint import load
from frameworm.training.manifest import list_checkpoints, read_manifest


class Tiny(nn.Module):
    """One layer, made with the whole config."""

    def __init__(self, _config: object) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def compute_loss(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The mean squared error, and something that is drawn anew for each batch."""
        return {"loss": nn.functional.mse_loss(self.layer(x), y), "drawn": torch.rand(())}


class Generator(Tiny):
    """Makes samples, which it draws."""

    def sample(self, n: int) -> Tensor:
        """Random inputs, scaled by what was learned."""
        return torch.randn(n, 4) * self.layer.weight.mean()


class Wider(Tiny):
    """A model that has learned something else."""

    def __init__(self, _config: object) -> None:
        super().__init__(_config)
        self.layer = nn.Linear(4, 5)


SETTINGS = {
    "model": {"name": f"{__name__}:Tiny"},
    "data": {"name": "synthetic", "samples": 64, "inputs": 4, "targets": 3, "batch_size": 16},
    "trainer": {"epochs": 3, "device": "cpu"},
    "run": {"name": "tiny"},
}


def settings(folder: Path, *overrides: str) -> Config:
    """The config of runs that are kept in `folder`."""
    return config.parse(SETTINGS, (f"run.dir={folder}", *overrides))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The directory of a run that is done."""
    return train(settings(tmp_path))


def train(checked: Config) -> Path:
    """Train, and return where the run is kept."""
    directory = frameworm.train(checked).directory
    assert directory is not None
    return directory


@pytest.fixture
def my_score() -> Iterator[None]:
    """A metric as the document has it, of real and of fake images."""

    @register_metric("my_score")
    class MyScoreMetric:
        def __call__(self, real_images: Tensor, fake_images: Tensor) -> float:
            assert real_images.shape == fake_images.shape
            return float(fake_images.std() / real_images.std())

    yield
    registries["metric"].unregister("my_score")


def test_the_numbers_are_those_of_training(run: Path, tmp_path: Path) -> None:
    """The latest checkpoint, judged on the same data, is as good as it was found to be in its epoch."""
    found = evaluate(settings(tmp_path), checkpoint="latest")
    manifest = read_manifest(found.checkpoint)
    assert found.metrics["val_loss"] == manifest.metrics["val_loss"]
    assert (found.run, found.epoch, found.step) == (manifest.run, 2, manifest.step)
    assert found.checkpoint.parent == run / "checkpoints"


def test_the_average_is_what_was_validated(tmp_path: Path) -> None:
    """With `trainer.ema` the loaded model has the average, and the numbers are those of training."""
    checked = settings(tmp_path, "trainer.ema=0.9")
    run = train(checked)
    model = load_model(run, checkpoint="latest")
    latest = list_checkpoints(run / "checkpoints")[-1]
    plain = Tiny(None)
    state = load(latest.path, plain)
    assert not torch.equal(model.state_dict()["layer.weight"], plain.state_dict()["layer.weight"])
    assert torch.equal(model.state_dict()["layer.weight"], state["parts"]["ema"]["averages"]["layer.weight"])
    recorded = latest.manifest.metrics["val_loss"]
    assert evaluate(checked, checkpoint="latest").metrics["val_loss"] == recorded


def three_parts() -> Splits:
    """A dataset whose test part is all zeros, with targets that are one."""
    train, val = (ArrayDataset(torch.randn(size, 4), torch.randn(size, 3)) for size in (64, 8))
    return Splits(train, val, ArrayDataset(torch.zeros(8, 4), torch.ones(8, 3)))


def test_the_test_part_is_judged_when_that_is_asked_for(tmp_path: Path) -> None:
    """What a model makes of it, not of the validation part."""
    checked = config.parse({**SETTINGS, "data": {"name": f"{__name__}:three_parts"}}, (f"run.dir={tmp_path}",))
    run = train(checked)
    model = load_model(run)
    outputs = model.get_submodule("layer")(torch.zeros(8, 4))
    expected = nn.functional.mse_loss(outputs, torch.ones(8, 3)).item()
    assert evaluate(checked, split="test").metrics["val_loss"] == pytest.approx(expected)
    assert evaluate(checked).metrics["val_loss"] != pytest.approx(expected)


def test_the_best_is_taken_by_the_configs_metric(run: Path, tmp_path: Path) -> None:
    """`best`, which is the default, goes by `checkpoint.monitor` and its direction."""
    checkpoints = list_checkpoints(run / "checkpoints")
    losses = {checkpoint.path: checkpoint.manifest.metrics["val_loss"] or 0.0 for checkpoint in checkpoints}
    best, worst = min(losses, key=losses.__getitem__), max(losses, key=losses.__getitem__)
    assert best != worst
    assert evaluate(settings(tmp_path)).checkpoint == best
    assert evaluate(settings(tmp_path, "checkpoint.mode=max")).checkpoint == worst


@pytest.mark.usefixtures("run", "my_score")
def test_what_is_drawn_is_the_same_each_time(tmp_path: Path) -> None:
    """A generative metric has one value, whatever was drawn before, and nobody else's numbers change by that."""
    generator = settings(tmp_path, f"model.name={__name__}:Generator", "metrics=[my_score]")
    first = evaluate(generator)
    torch.rand(7)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002  the generator that others draw from
    states = torch.get_rng_state(), random.getstate()
    assert evaluate(generator).metrics == first.metrics
    assert {"val_loss", "val_drawn", "val_my_score"} == first.metrics.keys()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.random() == np.random.RandomState(1).random()  # noqa: NPY002  likewise


@pytest.mark.parametrize("form", ["directory", "file", "run", "beginning"])
def test_a_checkpoint_has_several_names(run: Path, tmp_path: Path, form: str) -> None:
    """The path of one, of a file in it or of a run means it; so does a run that is named apart."""
    latest = list_checkpoints(run / "checkpoints")[-1].path
    if form == "beginning":
        found = evaluate(settings(tmp_path), checkpoint="latest", run="tiny-")
    else:
        path = {"directory": latest, "file": latest / "state.pt", "run": run}[form]
        found = evaluate(settings(tmp_path), checkpoint=path)
    assert found.checkpoint == latest


def test_the_config_may_be_a_file(run: Path) -> None:
    """As in `frameworm.train`; the one that the run keeps is good for it."""
    assert frameworm.evaluate(run / "config.yaml").run == frameworm.evaluate(str(run / "config.yaml")).run


def test_another_configs_run_is_not_taken(run: Path, tmp_path: Path) -> None:
    """Of several runs in a folder the latest counts that has the config's name; `run` may say another."""
    other = train(settings(tmp_path, "run.name=other"))
    assert evaluate(settings(tmp_path)).checkpoint.is_relative_to(run)
    assert evaluate(settings(tmp_path), run="latest").checkpoint.is_relative_to(other)


def test_hooks_hear_of_it(run: Path, tmp_path: Path) -> None:
    """They get the run's facts at its checkpoint, may add metrics, and have nothing to stop or to save."""
    heard: list[Any] = []

    class Listener(CallbackHook):
        def on_validation_begin(self, trainer: TrainerHandle) -> None:
            heard.append((trainer.run_id, trainer.run_dir, trainer.epoch, trainer.step, trainer.model_name))
            trainer.stop()
            trainer.save_now()
            trainer.log({"mine": torch.tensor(0.5)})

        def on_validation_end(self, trainer: TrainerHandle, metrics: dict[str, float]) -> None:
            heard.append(dict(trainer.metrics))
            metrics["twice"] = 2 * metrics["val_loss"]
            raise StopTraining

        def on_metrics_logged(self, metrics: dict[str, float]) -> None:
            heard.append(metrics)

    with Listener():
        found = evaluate(settings(tmp_path), checkpoint=run)
    facts, logged, metrics = heard
    assert facts == (found.run, run, 2, found.step, f"{__name__}:Tiny")
    assert logged == {"mine": 0.5}
    assert metrics == {"mine": 0.5, "val_loss": found.metrics["val_loss"], "val_drawn": found.metrics["val_drawn"]}
    assert found.metrics["twice"] == 2 * found.metrics["val_loss"]


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize(
    ("overrides", "options", "error", "text"),
    [
        ([], {"checkpoint": "bets"}, CheckpointError, "no checkpoint 'bets'\n.*\n.*best"),
        ([], {"checkpoint": "no/where"}, CheckpointError, "no such checkpoint"),
        ([], {"checkpoint": "a/path", "run": "latest"}, UserError, "says which run is meant"),
        ([], {"run": "else"}, RunError, "no run 'else'"),
        (["run.name=other"], {}, RunError, "no run 'other' is kept"),
        (["model.name=tests.frameworm.test_trained:Wider"], {}, CheckpointError, "of another model"),
        (["model.name=nothing"], {}, UnknownNameError, "unknown model 'nothing'\n.*--set model.name"),
        (["metrics=[nothing]"], {}, UnknownNameError, r"unknown metric 'nothing'\n.*--set metrics"),
        (["data.val_fraction=0"], {}, DataError, "no validation data"),
        ([], {"split": "test"}, DataError, "no test data"),
        (["data.name=nothing"], {}, UserError, "unknown dataset 'nothing'"),
        ([], {"plugins": Selection(required=("nothing",), others=False)}, PluginError, "'nothing'"),
    ],
)
def test_what_cannot_be_judged(
    tmp_path: Path, overrides: list[str], options: dict[str, Any], error: type[UserError], text: str
) -> None:
    """Whatever is missing or does not fit is wrong input, and is said."""
    with pytest.raises(error, match=text):
        evaluate(settings(tmp_path, *overrides), **options)


def test_a_misspelt_checkpoint_of_a_run(run: Path) -> None:
    """It is not taken for the latest."""
    with pytest.raises(UserError, match="no checkpoint of a run") as caught:
        load_model(run, checkpoint="bset")  # type: ignore[arg-type]  # that is the mistake
    assert caught.value.hint == "best"
