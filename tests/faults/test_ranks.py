"""Of two processes that train together one has trouble: both end, alike, and the run's record says why."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from frameworm.delivery.journal import journal_path
from frameworm.runs import RunDirectory
from frameworm.training.manifest import list_checkpoints, verify
from tests.faults.ranks import CONFIG, launched
from tests.faults.support import LONG, until

SECONDS = 30
"""Within which all have ended when one has."""


def ending(run: Path, rank: int = 0) -> dict[str, Any]:
    """Return the last record that a run ended, in the account of one rank."""
    lines = [json.loads(line) for line in journal_path(run, rank).read_text("utf-8").splitlines()]
    (end,) = [line for line in lines if line["event"] == "train_end"]
    return dict(end)


def checkpoints_are_whole(run: Path) -> int:
    """Return at which step the last one was; each is as it was written, and no other is left over."""
    found = list_checkpoints(run / "checkpoints")
    for checkpoint in found:
        verify(checkpoint.path)
    assert len(found) == len(list((run / "checkpoints").iterdir()))
    return found[-1].manifest.step if found else 0


def rehearse(
    folder: Path, what: str, *words: str, number: signal.Signals | None = None, rank: int = 1
) -> tuple[int, str, Path]:
    """Train with this trouble, or a signal; return the exit code, the errors and the run, once all are gone."""
    (folder / "config.yaml").write_text(CONFIG.replace("WHAT", what), "utf-8")
    with launched(folder, ["frameworm", "train", "--config", "config.yaml", *words]) as one:
        one.until_all_are_there()
        if number is not None:
            os.kill(one.pids[rank], number)
        code, errors = one.end(SECONDS)
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in one.pids.values()), SECONDS)
    (run,) = (folder / "runs").iterdir()
    return code, errors, run


@LONG
def test_a_stop_on_one_rank(tmp_path: Path) -> None:
    """Both stop behind the same step, and exit with 0."""
    code, errors, run = rehearse(tmp_path, "stop")
    assert code == 0, errors
    ends = [ending(run, rank) for rank in (0, 1)]
    assert [(end["status"], end["reason"]) for end in ends] == [("stopped", "enough")] * 2
    assert ends[0]["step"] == ends[1]["step"] == checkpoints_are_whole(run)


@LONG
@pytest.mark.parametrize(
    ("what", "words", "cause"), [("loss", (), "ArithmeticError"), ("hook", ("--strict",), "LookupError")]
)
def test_an_error_on_one_rank(tmp_path: Path, what: str, words: tuple[str, ...], cause: str) -> None:
    """Both fail, for the same reason, which is told once with its traceback."""
    code, errors, run = rehearse(tmp_path, what, *words)
    assert code == 1, errors
    ends = [ending(run, rank) for rank in (0, 1)]
    assert [end["status"] for end in ends] == ["failed"] * 2
    assert cause in ends[1]["error"]
    assert ends[0]["error"].startswith("RankError: rank 1 failed: ")
    assert cause in ends[0]["error"]
    assert "rank 1 failed" in errors
    checkpoints_are_whole(run)


@LONG
def test_sigterm_to_one_rank(tmp_path: Path) -> None:
    """Both finish the same step, save it, and exit as one that was terminated does."""
    code, errors, run = rehearse(tmp_path, "nothing", number=signal.SIGTERM)
    assert code == 1, errors  # torchrun's own
    assert "exitcode  : 143" in errors  # the other one may be ended by torchrun, when it is done
    ends = [ending(run, rank) for rank in (0, 1)]
    assert [(end["status"], end["reason"]) for end in ends] == [("interrupted", "SIGTERM")] * 2
    assert ends[0]["step"] == ends[1]["step"] == checkpoints_are_whole(run)


@LONG
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_loss_that_is_not_finite_on_one_rank(tmp_path: Path, strategy: str) -> None:
    """Both leave the same step out, and stay alike; where that is an error it ends both."""
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG.replace("WHAT", "nan").replace("epochs: 4000", "epochs: 3"), "utf-8")
    words = ["frameworm", "train", "--config", "config.yaml", "--set", f"trainer.strategy={strategy}"]
    with launched(tmp_path, [*words, "--set", "trainer.non_finite=skip_step"]) as one:
        code, errors = one.end(SECONDS)
    assert code == 0, errors
    (run,) = (tmp_path / "runs").iterdir()
    for rank in (0, 1):
        lines = [json.loads(line) for line in journal_path(run, rank).read_text("utf-8").splitlines()]
        assert [line["metrics"].get("skipped_steps") for line in lines if line["event"] == "epoch_end"] == [0, 1, 0]
        assert ending(run, rank)["status"] == "finished"
    if strategy == "ddp":
        first, second = ((run / f"weights.r{rank}.safetensors").read_bytes() for rank in (0, 1))
        assert first == second
    with launched(tmp_path, words) as one:
        code, errors = one.end(SECONDS)
    assert code == 1, errors
    run = max((tmp_path / "runs").iterdir(), key=lambda path: path.stat().st_mtime)
    assert [ending(run, rank)["status"] for rank in (0, 1)] == ["failed", "failed"]
    assert "NonFiniteError" in ending(run)["error"]


@LONG
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank(tmp_path: Path, rank: int) -> None:
    """The other one fails, and says who is gone; what was saved is whole."""
    code, errors, run = rehearse(tmp_path, "nothing", number=signal.SIGKILL, rank=rank)
    assert code == 1, errors
    end = ending(run, 1 - rank)
    assert end["status"] == "failed"
    assert end["error"].startswith(f"RankError: rank {rank} failed: its process is gone")
    assert RunDirectory.open(run).summary().status == ("failed" if rank else "crashed")
    for checkpoint in list_checkpoints(run / "checkpoints"):
        verify(checkpoint.path)


@LONG
def test_a_killed_launcher(tmp_path: Path) -> None:
    """Nobody could agree on anything any more: both fail, and say so."""
    (tmp_path / "config.yaml").write_text(CONFIG.replace("WHAT", "nothing"), "utf-8")
    with launched(tmp_path, ["frameworm", "train", "--config", "config.yaml"]) as one:
        one.until_all_are_there()
        one.process.kill()
        one.end(SECONDS)  # when all have closed their output
    (run,) = (tmp_path / "runs").iterdir()
    for rank in (0, 1):
        assert ending(run, rank)["status"] == "failed"
        assert "the launcher is gone" in ending(run, rank)["error"]


@LONG
def test_ctrl_c_to_the_launcher(tmp_path: Path) -> None:
    """In a terminal torchrun gets it, and passes it on: both finish the step and save it, once."""
    (tmp_path / "config.yaml").write_text(CONFIG.replace("WHAT", "nothing"), "utf-8")
    with launched(tmp_path, ["frameworm", "train", "--config", "config.yaml"]) as one:
        one.until_all_are_there()
        os.killpg(one.process.pid, signal.SIGINT)
        code, errors = one.end(SECONDS)
    assert code == 1, errors
    (run,) = (tmp_path / "runs").iterdir()
    ends = [ending(run, rank) for rank in (0, 1)]
    assert [(end["status"], end["reason"]) for end in ends] == [("interrupted", "SIGINT")] * 2
    assert ends[0]["step"] == ends[1]["step"] == checkpoints_are_whole(run)


@LONG
def test_a_skipped_batch(tmp_path: Path) -> None:
    """What one rank asks for is left out by both, at the same place, and training goes on."""
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG.replace("WHAT", "skip").replace("epochs: 4000", "epochs: 3"), "utf-8")
    with launched(tmp_path, ["frameworm", "train", "--config", "config.yaml"]) as one:
        code, errors = one.end(SECONDS)
    assert code == 0, errors
    (run,) = (tmp_path / "runs").iterdir()
    skipped = []
    for rank in (0, 1):
        lines = [json.loads(line) for line in journal_path(run, rank).read_text("utf-8").splitlines()]
        (line,) = [line for line in lines if line["event"] == "batch_skipped"]
        skipped.append((line["epoch"], line["step"], line["batch_idx"], line["reason"]))
        assert ending(run, rank)["status"] == "finished"
    assert skipped[0] == skipped[1]
