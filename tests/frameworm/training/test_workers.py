"""Workers end with their run, however early it is killed; the rest of their shelter is tried in `tests/faults`."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from frameworm.training.workers import Shelter, shelter_of

ORPHAN = """
import os, sys, time
from frameworm.training.workers import Shelter

run = os.getpid()
shelter = Shelter(None, None)
if os.fork():
    os._exit(0)  # killed while its worker is starting
while os.getppid() == run:
    time.sleep(0.01)
shelter(0)
print("initialized", flush=True)
time.sleep(60)
"""


def test_a_worker_whose_run_is_gone_already_ends() -> None:
    """Torch would compare its parent with what it is now, and never see a change."""
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "-c", ORPHAN], capture_output=True, text=True, check=False, timeout=55)
    assert time.monotonic() - begin < 50  # the pipe is open as long as the worker lives
    assert done.stderr == ""


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_workers_of_each_kind_do_their_work(method: str) -> None:
    """A server that forks them is not taken for a run that has gone."""
    loader = DataLoader(TensorDataset(torch.arange(6)), batch_size=2, num_workers=1, multiprocessing_context=method)
    shelter = shelter_of(loader)
    assert isinstance(shelter, Shelter)
    with shelter.lasting():
        batches = iter(loader)
        time.sleep(1.5)  # longer than a worker takes to look
        assert [batch[0].tolist() for batch in batches] == [[0, 1], [2, 3], [4, 5]]
