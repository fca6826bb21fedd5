"""What an export says: what it wrote, what the model's own code warns of, and nothing of what torch does inside."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import frameworm
from frameworm import config

MODEL = """
import warnings

from torch import nn


class Outspoken(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        if {warns}:
            warnings.warn("the model's own warning")
        return self.layer(x.flatten(1))

    def compute_loss(self, x, y):
        return {{"loss": nn.functional.cross_entropy(self.layer(x.flatten(1)), y)}}
"""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("warns", [False, True])
def test_what_an_export_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, warns: bool) -> None:
    """One table on stdout; on stderr the model's warnings alone."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"outspoken_{warns}.py").write_text(MODEL.format(warns=warns))
    frameworm.train(
        config.parse(
            {
                "model": {"name": f"outspoken_{warns}:Outspoken"},
                "data": {"name": "digits"},
                "trainer": {"max_steps": 1, "device": "cpu"},
            }
        )
    )
    done = subprocess.run(
        [sys.executable, "-m", "frameworm", "export", "--format", "all", "-o", "out"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0] == f"outspoken_{warns}:Outspoken, epoch 1, step 1: out"
    assert [line.split()[0] for line in said[1:]] == ["format", "safetensors", "torch-export", "onnx"]
    assert ("the model's own warning" in done.stderr) is warns
    assert [line for line in done.stderr.splitlines() if "the model's own warning" not in line] == []
