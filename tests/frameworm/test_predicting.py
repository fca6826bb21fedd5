"""A trained model is applied to the samples of a file, and what it gives is written as it is."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import frameworm
from frameworm.cli import main
from frameworm.config import parse
from frameworm.errors import UserError
from frameworm.predicting import predict, save

JOB = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.dropout = nn.Dropout(0.5)
        self.kind = config.model.kind
    def forward(self, x):
        y = self.dropout(self.layer(x))
        return {"rows": y, "none": y.mean(), "many": (y, y)}[self.kind]
    def compute_loss(self, x, y):
        return {"loss": (self.layer(x) - y).square().mean()}
"""


def train(data: dict[str, Any], kind: str = "rows") -> Path:
    """Train a model for an epoch, and return its run's folder."""
    Path("net_of_three.py").write_text(JOB)
    config = parse(
        {
            "run": {"name": "net"},
            "model": {"name": "net_of_three:Net", "kind": kind},
            "data": data | {"batch_size": 4},
            "optimizer": {"name": "sgd"},
            "trainer": {"epochs": 1, "device": "cpu"},
        }
    )
    result = frameworm.train(config)
    assert result.directory is not None
    return result.directory


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    x, y = np.arange(30, dtype=np.float32).reshape(10, 3) / 30, np.ones((10, 2), np.float32)
    np.savez("train.npz", samples=x, y=y)
    lines = [["a", "u", "b", "c", "v"], *([*row[:1], 1, *row[1:], 1] for row in x.tolist())]
    with Path("train.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)


NPZ = {"name": "npz", "path": "train.npz", "inputs": "samples"}


def command(*arguments: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(main, ["predict", *arguments])


def test_files_are_read_as_the_dataset_reads_them() -> None:
    """The same samples, from any kind of file, have the same predictions: those of the model in evaluation mode."""
    run = train(NPZ)
    samples = np.load("train.npz")["samples"]
    np.save("samples.npy", samples)
    np.savetxt("samples.csv", samples, delimiter=",", header="a,b,c", comments="", fmt="%.9g")
    with torch.inference_mode():
        expected = frameworm.load_model(run)(torch.from_numpy(samples))
    for given in ("train.npz", "samples.npy", Path("samples.csv"), torch.from_numpy(samples)):
        assert torch.equal(predict(run, given, batch_size=10), expected)
    assert torch.allclose(predict("latest", "samples.npy", batch_size=3), expected)


def test_a_table_loses_its_targets() -> None:
    """The columns are those of the dataset: all but the targets, or those that it names, whatever else is there."""
    run = train({"name": "csv", "path": "train.csv", "target": ["u", "v"]})
    assert predict(run, "train.csv").shape == (10, 2)
    run = train({"name": "csv", "path": "train.csv", "target": ["u", "v"], "inputs": ["c", "b", "a"]})
    samples = torch.from_numpy(np.load("train.npz")["samples"])
    assert torch.equal(predict(run, "train.csv"), predict(run, samples.flip(1)))


def test_bytes_are_images(tmp_path: Path) -> None:
    """They are brought to 0..1, as the dataset does."""
    run = train(NPZ)
    images = np.array([[0, 51, 255]], np.uint8)
    np.save("images.npy", images)
    assert torch.equal(predict(run, tmp_path / "images.npy"), predict(run, torch.from_numpy(images).float() / 255))


def test_the_command_writes_files() -> None:
    """As .npy, .npz or .csv, each with the same numbers."""
    run = train(NPZ)
    expected = predict(run, "train.npz").numpy()
    for suffix in ("npy", "npz", "csv"):
        done = command("--run", "net", "--input", "train.npz", "-o", f"out.{suffix}", "--batch-size", "10")
        assert done.exit_code == 0, done.output
        assert done.stdout == f"out.{suffix}: 10 predictions of {run.name}\n"
    assert np.array_equal(np.load("out.npy"), expected)
    assert np.array_equal(np.load("out.npz")["predictions"], expected)
    assert Path("out.csv").read_text().splitlines()[0] == "output_0,output_1"
    assert np.array_equal(np.loadtxt("out.csv", delimiter=",", skiprows=1, dtype=np.float32), expected)


def test_a_model_of_the_folder_is_found_by_a_program_that_did_not_train_it() -> None:
    """The command, which is installed elsewhere, imports it from where it is given."""
    train(NPZ)
    program = Path(sys.executable).with_name("frameworm")
    arguments = ["predict", "--input", "train.npz", "-o", "out.npy"]
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert np.load("out.npy").shape == (10, 2)


def test_what_is_saved() -> None:
    """One number a sample is one column, half precision becomes float32; what has more dimensions makes no table."""
    save(torch.tensor([0.5, 0.25], dtype=torch.bfloat16), Path("one.csv"))
    assert Path("one.csv").read_text().splitlines() == ["output_0", "0.5", "0.25"]
    with pytest.raises(UserError, match="make no table"):
        save(torch.zeros(2, 3, 4), Path("many.csv"))
    save(torch.zeros(2, 3, 4), Path("many.npy"))
    assert np.load("many.npy").shape == (2, 3, 4)


@pytest.mark.parametrize(
    ("source", "output", "message"),
    [
        ("train.npz", "out.txt", "no format of predictions"),
        ("train.npz", "nowhere/out.npy", "no such folder"),
        ("train.txt", "out.npy", "no file of samples"),
        ("tain.csv", "out.npy", "train.csv"),
        ("narrow.npy", "out.npy", "does not take these samples"),
        ("pickled.npy", "out.npy", "not a usable .npy file"),
        ("named.npy", "out.npy", "several arrays"),
        ("empty.npy", "out.npy", "is empty"),
    ],
)
def test_wrong_input(source: str, output: str, message: str) -> None:
    """One clear message, exit code 2, and no file."""
    train(NPZ)
    np.save("narrow.npy", np.ones((4, 2), np.float32))
    np.save("pickled.npy", np.array([{}, {}]), allow_pickle=True)
    np.save("empty.npy", np.ones((0, 3), np.float32))
    Path("named.npy").write_bytes(Path("train.npz").read_bytes())
    done = command("--input", source, "-o", output)
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path(output).exists()


@pytest.mark.parametrize(("kind", "got"), [("none", "a tensor ()"), ("many", "tuple")])
def test_models_that_predict_nothing_for_each_sample(kind: str, got: str) -> None:
    """They are told apart from those that do."""
    with pytest.raises(UserError, match="no prediction for each sample") as caught:
        predict(train(NPZ, kind), "train.npz")
    assert got in str(caught.value)
