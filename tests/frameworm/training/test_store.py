"""Where checkpoints are: each is complete or not there, enough of them stay, and a disk may be full."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from frameworm.errors import CheckpointError
from frameworm.training.checkpoint import load
from frameworm.training.store import CheckpointStore, direction
from tests.frameworm.training.saves import a_store, filled, save, steps

CRASHES = """
import hashlib, os, signal, sys
from pathlib import Path
import torch
from torch import nn
from frameworm.training.checkpoint import load, save as write
from frameworm.training.store import CheckpointStore

torch.set_num_threads(1)

def save(store, step):
    model = nn.Linear(3, 2)
    nn.init.constant_(model.weight, step)
    about = {"run": "r", "model_name": "m", "epoch": 0, "step": step, "metrics": {}, "reason": "r"}
    write(store, model=model, state={"step": step}, **about)

def run_until(call, root):
    # Save steps 1, 1, 2, 3 and 4, and be killed before the given call into the system.
    calls = 0
    def lethal(function):
        def wrapper(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)
        return wrapper
    for name in ("fsync", "rename", "mkdir", "unlink", "rmdir"):
        setattr(os, name, lethal(getattr(os, name)))
    hashlib.sha256 = lethal(hashlib.sha256)
    store = CheckpointStore(root / "checkpoints", monitor=None)
    for step in (1, 1, 2, 3, 4):
        save(store, step)
        (root / "durable").write_text(str(step))
    os._exit(0)

for call in range(1, 1000):
    root = Path(sys.argv[1]) / str(call)
    root.mkdir()
    pid = os.fork()
    if pid == 0:
        run_until(call, root)
    status = os.waitpid(pid, 0)[1]
    if status == 0:
        break
    assert os.WTERMSIG(status) == signal.SIGKILL, status
    store = CheckpointStore(root / "checkpoints", monitor=None)
    visible = [path for path in (root / "checkpoints").glob("[!.]*")]
    complete = store.list()
    assert sorted(visible) == sorted(checkpoint.path for checkpoint in complete), (call, visible)
    durable = int((root / "durable").read_text()) if (root / "durable").exists() else 0
    for checkpoint in complete:
        model = nn.Linear(3, 2)
        assert load(checkpoint.path, model) == {"step": checkpoint.manifest.step}
        assert bool((model.weight == checkpoint.manifest.step).all())
    steps = {checkpoint.manifest.step for checkpoint in complete}
    assert max(steps, default=0) >= durable, (call, steps, durable)
    assert len(steps) >= min(2, durable), (call, steps, durable)
    save(store, 5)
    assert not list((root / "checkpoints").glob(".*")), call
    assert store.latest().manifest.step == 5
print(call)
"""


def test_a_kill_at_any_moment_leaves_a_complete_latest(tmp_path: Path) -> None:
    """Killed before each single call into the file system: what was saved is there, whole; the rest is swept later."""
    done = subprocess.run(
        [sys.executable, "-c", CRASHES, str(tmp_path)], capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50  # so many moments were tried


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file may become larger, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("model", "state"), [(nn.Linear(100, 100), {"x": 1}), (nn.Linear(1, 1), {"x": torch.ones(10_000)})]
)
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, model: nn.Module, state: dict[str, Any]) -> None:
    """Weights or state that do not fit: an error with the disk's own words, no trace, and the next save works."""
    store = a_store(tmp_path)
    before = save(store, 1)
    try:
        _ = 1 // 0
    except ZeroDivisionError:  # a save on the way out must not take the reason for leaving for its own
        with file_size_limit(20_000), pytest.raises(CheckpointError, match="File too large") as caught:
            save(store, 2, model=model, state=state)
    assert caught.value.where == str(store.path_for(2))
    assert list(tmp_path.iterdir()) == [before]
    assert load(save(store, 2, model=model, state=state), model).keys() == {"x"}


def test_a_root_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """A file where the directory should be."""
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="could not be written"):
        save(a_store(tmp_path / "file" / "checkpoints"), 1)


def test_space_is_checked_where_the_checkpoints_will_be(tmp_path: Path) -> None:
    """Before the directory exists; too little for all that will be kept, and the next, is an error."""
    store = a_store(tmp_path / "run" / "checkpoints")
    store.check_space(1)
    with pytest.raises(CheckpointError, match=r"expected: 4000000000000\.0 MB, for 4 "):
        store.check_space(10**18)
    assert not (tmp_path / "run").exists()


def test_the_newest_and_the_best_stay(tmp_path: Path) -> None:
    """After each save the last `keep` and the best are there, nothing else."""
    store = a_store(tmp_path)
    seen = []
    for step, loss in enumerate([0.5, 0.2, 0.4, 0.3, 0.1, 0.6, 0.7], start=1):
        save(store, step, metrics={"val_loss": loss})
        seen.append(steps(store))
    assert seen == [[1], [1, 2], [2, 3], [2, 3, 4], [4, 5], [5, 6], [5, 6, 7]]
    assert {path.name for path in tmp_path.iterdir()} == {f"step-{step:08d}" for step in (5, 6, 7)}


@pytest.mark.parametrize(("keep_best", "kept"), [(0, [5, 6]), (1, [2, 5, 6]), (3, [1, 2, 4, 5, 6])])
def test_so_many_of_the_best_stay(tmp_path: Path, keep_best: int, kept: list[int]) -> None:
    """The best few, besides the newest; those that were never judged are no candidates."""
    store = CheckpointStore(tmp_path, keep_best=keep_best, monitor="val_loss")
    for step, metrics in enumerate([{"val_loss": loss} for loss in (0.3, 0.1, 0.5, 0.2)] + [{}, {}], start=1):
        save(store, step, metrics=metrics)
    assert steps(store) == kept


def test_two_are_kept_at_least(tmp_path: Path) -> None:
    """A `keep` of one would leave nothing to fall back on."""
    store = a_store(tmp_path, keep=1, monitor=None)
    for step in (1, 2, 3):
        save(store, step)
    assert steps(store) == [2, 3]


def test_the_best_is_a_number_and_the_oldest_of_equals(tmp_path: Path) -> None:
    """NaN is never the best, nor a checkpoint without the metric; the name says which direction is good."""
    store = a_store(tmp_path, monitor="val_accuracy", keep=9)
    assert store.best() is None
    save(store, 1, metrics={"val_accuracy": float("nan")})
    save(store, 2)
    assert store.best() is None
    for step, accuracy in enumerate([0.5, 0.9, 0.9, 0.1], start=3):
        save(store, step, metrics={"val_accuracy": accuracy})
    best = store.best()
    assert best is not None
    assert best.manifest.step == 4
    lowest = CheckpointStore(tmp_path, monitor="val_accuracy", mode="min").best()
    assert lowest is not None
    assert lowest.manifest.step == 6


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("val_loss", "min"),
        ("val_accuracy", "max"),
        ("acc", "max"),
        ("val/F1", "max"),
        ("val_macro_auc", "max"),
        ("bitmap", "min"),
        ("accuracy_error", "min"),
    ],
)
def test_the_direction_goes_by_the_last_word(metric: str, expected: str) -> None:
    """Losses and errors should be small, accuracies and scores large, unless it is said."""
    assert direction(metric) == expected
    assert direction(metric, "max") == "max"


def test_a_step_saved_twice_counts_once(tmp_path: Path) -> None:
    """The second is the latest; the first goes when it is durable, and pushes no earlier step out."""
    store = a_store(tmp_path, monitor=None)
    save(store, 1)
    first, second = save(store, 2, state={"n": 1}), save(store, 2, state={"n": 2})
    assert first != second
    assert load(tmp_path, filled(0)) == {"n": 2}
    assert steps(store) == [1, 2]


def test_a_leftover_is_ignored_and_swept(tmp_path: Path) -> None:
    """What a killed writer left is no checkpoint, and the next save removes it."""
    store = a_store(tmp_path)
    shutil.copytree(save(store, 1), tmp_path / ".tmp-step-00000009")
    assert steps(store) == [1]
    save(store, 2)
    assert not (tmp_path / ".tmp-step-00000009").exists()
