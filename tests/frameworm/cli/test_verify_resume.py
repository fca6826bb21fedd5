"""`frameworm verify-resume` kills and resumes real jobs: it finds those that go on exactly, and why others do not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from frameworm.cli import main
from frameworm.verifying import parted

CONFIG = """
model: {{name: "{model}"}}
data: {{name: "{data}", batch_size: 4}}
optimizer: {{name: adamw, lr: 0.01}}
scheduler: {{name: cosine}}
trainer: {{epochs: 2, device: cpu, accumulate: 2, ema: 0.9}}
"""

JOB = '''
import random, time
import torch
from torch import nn
from frameworm.data import ArrayDataset

def data():
    generator = torch.Generator().manual_seed(0)
    return ArrayDataset(torch.randn(26, 3, generator=generator), torch.randn(26, 1, generator=generator))

class Augmented(torch.utils.data.Dataset):
    """Its noise does not follow from seed, epoch and index."""
    noise = random.Random(1)
    def __len__(self):
        return 26
    def __getitem__(self, index):
        return torch.tensor([float(index), self.noise.random(), 1.0]), torch.tensor([1.0])

class Net(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 1))
    def forward(self, x):
        return self.layers(x)
    def compute_loss(self, x, y=None):
        return {"loss": nn.functional.mse_loss(self(x), y)}

class Timed(Net):
    """Looks at the clock."""
    def forward(self, x):
        return self.layers(x * (1 + time.time() % 1))
'''


def a_job(folder: Path, model: str = "job:Net", data: str = "job:data") -> None:
    """Write a job whose parts are in a module beside its config."""
    (folder / "job.py").write_text(JOB)
    (folder / "config.yaml").write_text(CONFIG.format(model=model, data=data))


def verify(*arguments: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(main, ["verify-resume", *arguments])


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, and keep what the command keeps in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)


def test_an_exact_job(tmp_path: Path) -> None:
    """Dropout, a schedule, an average, killed in the middle of a window: equal, exit code 0, nothing left behind."""
    a_job(tmp_path)
    done = verify("--at", "3", "--set", "data.num_workers=1")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[1].split() == ["3", "equal", "0"]
    assert not list((tmp_path / "tmp").glob("verify-resume-*"))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ({"data": "job:Augmented"}, "the data are others"),
        ({"model": "job:Timed"}, "two runs without interruption differ already"),
    ],
)
def test_an_inexact_job(tmp_path: Path, job: dict[str, str], words: str) -> None:
    """It is told where the runs part, by how much, and where they are; the exit code is 1."""
    a_job(tmp_path, **job)
    done = verify("--at", "3", "--json")
    assert done.exit_code == 1, done.output
    found = json.loads(done.stdout)
    [verdict] = found["verdicts"]
    assert (found["equal"], verdict["equal"], verdict["step"]) == (False, False, 3)
    assert words in verdict["reason"]
    assert "layers.0.weight" in verdict["differing"]
    assert verdict["largest"] > 0
    assert found["repeatable"] == (job != {"model": "job:Timed"})
    assert (Path(found["kept"]) / "whole").is_dir()


WHOLE = [f"epoch 1, batch {batch}\tda7a\t0x1.{batch}p-1" for batch in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("resumed", "where", "words"),
    [
        (["epoch 1, batch 3\tffff\t0x1.3p-1"], "epoch 1, batch 3", "the data are others"),
        (["epoch 1, batch 3\tda7a\t0x1.fp-1"], "epoch 1, batch 3", "the model draws from a generator"),
        ([WHOLE[2], "epoch 1, batch 4\tda7a\t0x1.fp-1"], "epoch 1, batch 4", "the weights part in the update"),
        ([WHOLE[2], "epoch 1, batch 4\tffff\t0x1.fp-1"], "epoch 1, batch 4", "the data are others"),
        ([WHOLE[3]], "", "the weights part in the update"),
    ],
)
def test_where_two_runs_part(resumed: list[str], where: str, words: str) -> None:
    """Other data, another loss at once, or another loss later: each has its reason."""
    told = parted(WHOLE, resumed)
    assert where in told
    assert words in told


def test_a_step_that_is_not_reached(tmp_path: Path) -> None:
    """Wrong input is told with what would be right."""
    a_job(tmp_path)
    done = verify("--at", "8")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "expected: 1 to 7" in done.stderr


def test_a_job_that_fails_by_itself(tmp_path: Path) -> None:
    """What it said is told, and where the rest of it is."""
    a_job(tmp_path)
    done = verify("--set", "optimizer.lr=1e9", "--set", "trainer.clip_norm=null", "--set", "optimizer.name=sgd")
    assert done.exit_code == 1
    assert "the job did not end as it should" in done.stderr
    assert "NonFiniteError" in done.stderr


def test_no_config(tmp_path: Path) -> None:
    """Nor does a wrong key get as far as training."""
    done = verify("--config", "nothing.yaml")
    assert (done.exit_code, done.stdout) == (2, "")
    a_job(tmp_path)
    wrong = verify("--set", "trainer.epoch=3")
    assert wrong.exit_code == 2
    assert "epochs" in wrong.stderr
