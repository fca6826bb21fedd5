"""Pictures are of the right images, whole or not there, and training does not notice."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from frameworm import app, config
from frameworm.errors import UserError
from frameworm_plugins.sample_grid import SampleGrid, mistakes, picture, samples_of

DIGITS: dict[str, Any] = {
    "data": {"name": "digits", "batch_size": 256},
    "model": {"name": "cnn"},
    "trainer": {"epochs": 2, "device": "cpu"},
    "callbacks": [{"sample_grid": {"samples": 9}}],
}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are kept in the test's folder."""
    monkeypatch.chdir(tmp_path)


def pictures(changes: dict[str, Any]) -> list[Path]:
    """Train with a config; return the pictures."""
    with app.session(config.parse(DIGITS | changes)) as trainer:
        assert trainer.fit().status == "finished"
        assert not [entry for entry in trainer.bus.statistics() if entry.failed]
        assert trainer.run_dir is not None
        return sorted((trainer.run_dir / "samples").glob("*"))


@pytest.mark.parametrize("model", ["cnn", "vae"])
def test_a_run_has_a_picture_an_epoch(model: str) -> None:
    """Of a classifier and of a model that makes images; nothing else is left in the folder."""
    found = pictures({"model": {"name": model}})
    assert [path.name for path in found] == ["epoch-0001.png", "epoch-0002.png"]
    for path in found:
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert min(image.size) >= 3 * picture.SIDE


def test_every_so_many_epochs() -> None:
    """The others have none."""
    found = pictures({"callbacks": [{"sample_grid": {"every": 2}}]})
    assert [path.name for path in found] == ["epoch-0002.png"]


class Generator(nn.Module):
    """Makes random images."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def sample(self, n: int) -> Tensor:
        """Images that tell whether it is in training mode."""
        return torch.rand(n, 1, 2, 2) + (100 if self.training else 0)


@pytest.mark.parametrize("training", [True, False])
def test_samples_are_the_same_each_time_and_disturb_nothing(training: bool) -> None:  # noqa: FBT001  a mode
    """Neither the random numbers nor the mode."""
    model = Generator().train(training)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, second = samples_of(model, 4), samples_of(model, 4)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first, second)
    assert first.max() < 1
    assert model.training is training
    assert not first.requires_grad


def test_mistakes_are_the_wrong_ones_by_their_loss() -> None:
    """What was classified rightly counts least, whatever its loss."""
    logits = torch.tensor([[2.0, 0.0], [5.0, 0.0], [0.0, 0.1]])
    found = mistakes(nn.Identity(), (torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 1])), {"predictions": logits})
    assert found is not None
    assert found.losses.isneginf().tolist() == [True, False, True]
    assert found.predicted.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    "batch",
    [
        torch.zeros(2, 1, 2, 2),
        (torch.zeros(2, 1, 2, 2), torch.zeros(2)),
        (torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2, 1, 2, 2), torch.zeros(2, 3, dtype=torch.int64)),
    ],
    ids=["no targets", "regression", "no images", "many targets"],
)
def test_what_is_not_classified_has_no_mistakes(batch: Any) -> None:
    """Other data are left alone."""
    assert mistakes(nn.Flatten(), batch, {"predictions": torch.zeros(2, 3)}) is None


def test_what_cannot_be_shown_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """A regression is trained all the same."""
    data = {"name": "synthetic", "samples": 32, "inputs": 4, "targets": 3, "batch_size": 8}
    model = {"name": "mlp", "inputs": 4, "outputs": 3, "loss": "mse"}
    with caplog.at_level(logging.WARNING):
        assert pictures({"data": data, "model": model}) == []
    told = [record.getMessage() for record in caplog.records if record.name.endswith("sample_grid")]
    assert told == ["mlp has neither sample(n) nor classes to be wrong about: no pictures"]


def test_a_run_that_is_not_kept_has_no_place_for_pictures(caplog: pytest.LogCaptureFixture) -> None:
    """That is said once, too."""
    with caplog.at_level(logging.WARNING):
        app.build(config.parse(DIGITS)).fit()
    told = [record.getMessage() for record in caplog.records if record.name.endswith("sample_grid")]
    assert told == ["the run is not kept, so there is no place for pictures"]
    assert not list(Path().rglob("*.png"))


def test_values_from_0_to_1_are_black_to_white(tmp_path: Path) -> None:
    """Other ranges are stretched; three channels are colours."""
    picture.save(torch.tensor([0.0, 0.5]).reshape(1, 1, 1, 2), [], tmp_path / "a.png")
    picture.save(torch.tensor([-3.0, 5.0]).reshape(1, 1, 1, 2), ["a"], tmp_path / "b.png")
    picture.save(torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1), [], tmp_path / "c.png")
    middle = picture.GAP + picture.SIDE // 2
    colours = []
    for name, x in (
        ("a", middle),
        ("a", middle + picture.SIDE),
        ("b", middle),
        ("b", middle + picture.SIDE),
        ("c", middle),
    ):
        with Image.open(tmp_path / f"{name}.png") as image:
            colours.append(image.getpixel((x, middle)))
    assert colours == [(0, 0, 0), (128, 128, 128), (0, 0, 0), (255, 255, 255), (255, 0, 0)]


def test_a_picture_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither half a picture nor the file that it was written to."""
    monkeypatch.setattr(Image.Image, "save", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        picture.save(torch.zeros(1, 1, 2, 2), [], tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_without_pillow_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before step 1, when the config creates it."""
    monkeypatch.setattr(picture, "find_spec", lambda _name: None)
    with pytest.raises(UserError, match="Pillow") as caught:
        SampleGrid()
    assert caught.value.hint == "pip install 'frameworm[images]'"
