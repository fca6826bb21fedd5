"""SIGTERM, Ctrl-C and SIGUSR1, wherever a run is: one complete checkpoint, a true ending, and the exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from frameworm.delivery.journal import journal_path
from frameworm.training.manifest import list_checkpoints, verify
from tests.faults.phases import CONFIG, PHASES
from tests.faults.support import FULL, LONG

CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 0}

REDUCED = [(signal.SIGTERM, phase) for phase in PHASES] + [
    (signal.SIGINT, "loading"),
    (signal.SIGUSR1, "validation"),
]
CASES = [(number, phase) for number in CODES for phase in PHASES] if FULL else REDUCED


@LONG
@pytest.mark.parametrize(("number", "phase"), CASES, ids=lambda value: getattr(value, "name", value))
def test_a_signal_in_any_phase(tmp_path: Path, number: signal.Signals, phase: str) -> None:
    """It goes to the whole group, as from a terminal or a batch system; workers do not take it for themselves."""
    (tmp_path / "config.yaml").write_text(CONFIG.replace("PHASE", phase), "utf-8")
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-m", "frameworm", "train", "--config", "config.yaml"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert any(line == f"in {phase}\n".encode() for line in process.stdout), process.stderr.read().decode()
        os.killpg(process.pid, number)
        _, errors = process.communicate(timeout=60)
    text = errors.decode()
    assert process.returncode == CODES[number], text
    assert "Traceback" not in text

    (run,) = (tmp_path / "runs").iterdir()
    lines = [json.loads(line) for line in journal_path(run).read_text("utf-8").splitlines()]
    checkpoints = list_checkpoints(run / "checkpoints")
    assert checkpoints
    for checkpoint in checkpoints:
        verify(checkpoint.path)
    (ending,) = [line for line in lines if line["event"] == "train_end"]
    if number is signal.SIGUSR1 or phase == "draining":  # by then all is trained
        assert ending["status"] == "finished"
    else:
        assert (ending["status"], ending["reason"]) == ("interrupted", number.name)
        asked = [line for line in lines if line["event"] == "control_requested"]
        assert [(line["verb"], line["by"]) for line in asked] == [("interrupt", f"signal {number.name}")]
    if number is signal.SIGUSR1 and phase != "draining":
        assert "signal SIGUSR1" in {line["by"] for line in lines if line["event"] == "control_requested"}
