"""The examples do what their readers are told."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The run of the digits' config, as `make demo` makes it, in a folder of its own, and what it printed."""
    folder = tmp_path_factory.mktemp("digits")
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "frameworm",
        "train",
        "--config",
        EXAMPLES / "digits/config.yaml",
    ]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    (run,) = (folder / "runs").iterdir()
    return run, result.stdout


def test_the_digits_are_learned(digits: tuple[Path, str]) -> None:
    """The demonstration reaches 97 % of validation accuracy."""
    run, _ = digits
    records = [json.loads(line) for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    epochs = [record for record in records if record["event"] == "epoch_end"]
    assert len(epochs) == 12
    assert epochs[-1]["metrics"]["val_accuracy"] >= 0.97
    assert records[-1]["event"] == "train_end"


def test_the_plugin_listens(digits: tuple[Path, str]) -> None:
    """A line of the plugin's for every epoch, and one in the end."""
    _, output = digits
    lines = [line for line in output.splitlines() if line.startswith("[epoch_report]")]
    assert len(lines) == 13
    assert re.fullmatch(r"\[epoch_report\] val_accuracy: best 0\.9\d+ in epoch \d+", lines[-1])


def test_the_python_api() -> None:
    """A trainer from Python, two listeners: one stops it, one has seen the loss fall."""
    result = subprocess.run([sys.executable, EXAMPLES / "python_api.py"], capture_output=True, text=True, check=True)
    *_, ending, losses = result.stdout.splitlines()
    assert re.fullmatch(r"stopped after \d+ epochs: \d+\.\d% is good enough", ending)
    found = re.fullmatch(r"loss (\S+) at first, (\S+) in the end", losses)
    assert found is not None
    first, last = map(float, found.groups())
    assert last < first / 2
