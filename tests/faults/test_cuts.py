"""SIGKILL at random moments of a training: there is always a sound checkpoint, and the end is that of a whole run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.support import LONG, times

KILLS = times(6, 200)


@LONG
@pytest.mark.parametrize("workers", [0, 2])
def test_kills_at_random_moments(tmp_path: Path, workers: int) -> None:
    """What `cuts` says: no checkpoint was damaged, and each run that was resumed to its end has the same weights."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.cuts", str(workers), str(KILLS), "1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = re.search(r"(\d+) kills, (\d+) of them behind a checkpoint, (\d+) runs ended", done.stdout)
    assert said is not None, done.stdout
    kills, behind, runs = map(int, said.groups())
    assert kills >= KILLS
    assert behind > 0
    assert runs > 0
