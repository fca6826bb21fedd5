"""A warm start takes over what fits, says what does not, and runs no code of the file."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import nn

from frameworm import app, runs
from frameworm.cli import main
from frameworm.config import parse
from frameworm.errors import CheckpointError, UserError
from frameworm.training.checkpoint import save
from frameworm.training.manifest import list_checkpoints
from frameworm.training.store import CheckpointStore
from frameworm.training.warm import warm_start
from tests.frameworm.training.toys import a_perceptron, same, weights


def saved(folder: Path, model: nn.Module) -> Path:
    """Return a checkpoint of the model."""
    return save(
        CheckpointStore(folder, monitor=None),
        model=model,
        state={},
        run="r",
        model_name="m",
        epoch=0,
        step=1,
        metrics={},
        reason="test",
    )


@pytest.mark.parametrize("part", ["", "model.safetensors"])
def test_all_of_it_fits(tmp_path: Path, part: str) -> None:
    """From a checkpoint, or a file in it; no random number is drawn for that."""
    model, other = a_perceptron(seed=1), a_perceptron(seed=2)
    path = saved(tmp_path, model) / part
    state = torch.get_rng_state()
    report = warm_start(other, path)
    assert torch.equal(torch.get_rng_state(), state)
    assert same(weights(other), weights(model))
    assert report.matched == tuple(model.state_dict())
    assert str(report) == f"4 of 4 tensors from {path}"


def test_what_fits_of_another_model(tmp_path: Path) -> None:
    """By name and shape; the rest stays as it was, and is told."""
    file = tmp_path / "theirs.safetensors"
    tensors = {"layers.0.weight": torch.ones(8, 6), "layers.0.bias": torch.ones(3), "head.weight": torch.ones(2)}
    save_file(tensors, file)
    model = a_perceptron()
    before = weights(model)
    report = warm_start(model, file)
    assert torch.equal(weights(model)["layers.0.weight"], torch.ones(8, 6))
    assert torch.equal(weights(model)["layers.0.bias"], before["layers.0.bias"])
    assert report.matched == ("layers.0.weight",)
    assert report.of_another_shape == ("layers.0.bias",)
    assert report.missing == ("layers.3.weight", "layers.3.bias")
    assert report.unexpected == ("head.weight",)
    assert "1 of 4 tensors" in str(report)
    assert "2 missing (layers.3.weight, layers.3.bias)" in str(report)


def test_where_nothing_fits_there_is_no_warm_start(tmp_path: Path) -> None:
    """It would be a cold one, and nobody would know."""
    file = tmp_path / "theirs.safetensors"
    save_file({"head.weight": torch.ones(2)}, file)
    with pytest.raises(CheckpointError, match="nothing in it fits"):
        warm_start(a_perceptron(), file)


def test_a_file_that_is_none_of_weights_runs_no_code(tmp_path: Path) -> None:
    """Whatever its name says."""

    class Bomb:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "exploded",)

    file = tmp_path / "weights.safetensors"
    file.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match="no weights"):
        warm_start(a_perceptron(), file)
    assert not (tmp_path / "exploded").exists()


def test_a_damaged_checkpoint_is_none(tmp_path: Path) -> None:
    """It is verified before a weight is touched."""
    path = saved(tmp_path, a_perceptron()) / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        warm_start(a_perceptron(), path)


CONFIG = """
run: {name: RUN}
model: {name: mlp, inputs: 3, outputs: 2}
data: {name: synthetic, inputs: 3, classes: 2, samples: 64, batch_size: 16}
trainer: {epochs: 1, device: cpu}
"""


def test_a_run_begins_with_anothers_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name or its path; otherwise it is as a run without: the same data, the same random numbers."""
    monkeypatch.chdir(tmp_path)
    app.train(parse(CONFIG.replace("RUN", "first")))
    first = runs.find(Path("runs"), "first")
    (checkpoint,) = list_checkpoints(first.checkpoints)
    for text in (first.path.name, str(first.path), str(checkpoint.path)):
        config = parse(CONFIG.replace("RUN", "second"), [f"run.init_from={text}"])
        with app.session(config) as trainer:
            begun = weights(trainer.model)
            directory = trainer.run_dir
        assert directory is not None
        assert runs.RunDirectory.open(directory).parent == text
        plain = app.build(parse(CONFIG.replace("RUN", "third")))
        warm_start(plain.model, checkpoint.path)
        assert same(begun, weights(plain.model))


def test_a_run_that_goes_on_has_its_own_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when what it began with is gone."""
    monkeypatch.chdir(tmp_path)
    save_file({"layers.0.bias": torch.ones(64)}, "theirs.safetensors")
    model = app.build(parse(CONFIG.replace("RUN", "a"))).model
    save_file({name: torch.zeros_like(value) for name, value in model.state_dict().items()}, "theirs.safetensors")
    config = parse(CONFIG.replace("RUN", "warm"), ["run.init_from=theirs.safetensors"])
    app.train(config)
    Path("theirs.safetensors").unlink()
    longer = parse(CONFIG.replace("RUN", "warm"), ["run.init_from=theirs.safetensors", "trainer.epochs=2"])
    assert app.train(longer, resume="latest").epochs == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--init-from", "nowhere"], "no run 'nowhere'"),
        (["--init-from", "no/where"], "no such checkpoint"),
        (["--init-from", "config.yaml"], "no complete checkpoint there"),
        (["--init-from", "a", "--resume", "latest"], "a run that goes on has its weights"),
    ],
)
def test_wrong_input_is_said_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    """One message, exit code 2."""
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(CONFIG.replace("RUN", "a"), "utf-8")
    result = CliRunner().invoke(main, ["train", "--config", "config.yaml", *arguments])
    assert result.exit_code == UserError.exit_code
    assert message in result.output
    assert "Traceback" not in result.output
    assert not Path("runs").exists()
