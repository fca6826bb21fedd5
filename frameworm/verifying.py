"""Whether a job that is killed and resumed ends with the very weights of one that is not: tried on the job itself.

The job runs once without interruption. For each step in question it runs again: it is saved at that step, killed in the
middle of a later one, resumed, and its last checkpoint compared with that of the first run. Each of them is a process
of its own. They note what each batch was and which loss it had: where they part says why.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from frameworm import app, config, logs
from frameworm.errors import FramewormError, UserError
from frameworm.events import BackwardEnd, BatchBegin, BatchEnd, CheckpointSaved, OptimizerStepped, TrainEnd
from frameworm.runs import find
from frameworm.training.checkpoint import WEIGHTS, weights_at
from frameworm.training.manifest import Checkpoint, list_checkpoints
from frameworm.training.means import number
from frameworm.training.trainer import Trainer

log = logging.getLogger("frameworm")

_DATA = "the data are others: their order, or what is random in them, does not follow from seed, epoch and index alone"
_FORWARD = "on the same data the loss is another: the model draws from a generator, or has a state, that is not saved"
_UPDATE = (
    "the weights part in the update: the optimizer, a schedule or a hook has a state that is not saved, or an "
    "operation does not give the same bits each time"
)
_NO_REPEAT = (
    "two runs without interruption differ already, so that no resumed one can be equal: trainer.deterministic=true, "
    "fewer threads, and no random numbers but those that run.seed seeds"
)


class Verdict(msgspec.Struct, frozen=True):
    """What came of being killed behind a checkpoint of `step`.

    `differing` are the names of the weights that are not the same, `largest` is the largest difference among them;
    `reason` says where the two runs parted, as far as they show it.
    """

    step: int
    equal: bool
    differing: tuple[str, ...] = ()
    largest: float = 0.0
    reason: str | None = None


class Verification(msgspec.Struct, frozen=True):
    """The steps of the whole run, and what came of each that was tried.

    `repeatable` says whether two whole runs are equal, which is tried where a resumed one is not.
    """

    steps: int
    verdicts: tuple[Verdict, ...]
    repeatable: bool | None
    kept: str | None
    """Where the runs are, if one was not equal."""

    @property
    def equal(self) -> bool:
        """Whether all of them are."""
        return all(verdict.equal for verdict in self.verdicts)


class Job(msgspec.Struct, frozen=True):
    """One attempt: what is trained, where its run is kept, and behind a checkpoint of which step it is killed."""

    file: str
    overrides: tuple[str, ...]
    folder: str
    resume: bool = False
    die_behind: int | None = None


def verify_resume(file: Path, overrides: Sequence[str] = (), *, at: Sequence[int] = ()) -> Verification:
    """Kill and resume the job of a config at steps (by default at the first, the middle and the last but one).

    Raises UserError for a step that the job does not come to, and FramewormError when a run fails by itself.
    """
    config.load(file, overrides)
    folder = Path(tempfile.mkdtemp(prefix="verify-resume-"))
    job = Job(str(file), tuple(overrides), str(folder / "whole"))
    _run(job)
    whole = _last(job)
    steps = whole.manifest.step
    log.info("without interruption: %d steps", steps)
    verdicts = []
    for step in at or sorted({1, steps // 2, steps - 1} - {0}):
        if not 0 < step < steps:
            shutil.rmtree(folder)
            raise UserError("no step to be killed behind", expected=f"1 to {steps - 1}", got=str(step), where="--at")
        verdicts.append(_tried(msgspec.structs.replace(job, folder=str(folder / f"step-{step}")), step, job))
        log.info("killed behind step %d and resumed: %s", step, "equal" if verdicts[-1].equal else "NOT EQUAL")
    if all(verdict.equal for verdict in verdicts):
        shutil.rmtree(folder)
        return Verification(steps, tuple(verdicts), repeatable=None, kept=None)
    again = msgspec.structs.replace(job, folder=str(folder / "again"))
    _run(again)
    repeatable = _weights_of(_last(again)) == _weights_of(whole)
    if not repeatable:
        verdicts = [one if one.equal else msgspec.structs.replace(one, reason=_NO_REPEAT) for one in verdicts]
    return Verification(steps, tuple(verdicts), repeatable, str(folder))


def _tried(job: Job, step: int, whole: Job) -> Verdict:
    _run(msgspec.structs.replace(job, die_behind=step), dies=True)
    _run(msgspec.structs.replace(job, resume=True))
    last, expected = _last(job), _last(whole)
    if _weights_of(last) == _weights_of(expected) and last.manifest.step == expected.manifest.step:
        return Verdict(step, equal=True)
    ours, theirs = weights_at(last.path), weights_at(expected.path)
    gaps = {
        name: number((value.double() - ours[name].double()).abs().max()) if value.numel() else 0.0
        for name, value in theirs.items()
        if name in ours and not _same(value, ours[name])
    }
    return Verdict(step, False, tuple(gaps), max(gaps.values(), default=0.0), parted(_trace(whole), _trace(job)))


def _same(one: Any, other: Any) -> bool:
    return bool(one.shape == other.shape and one.numpy(force=True).tobytes() == other.numpy(force=True).tobytes())


def _weights_of(checkpoint: Checkpoint) -> str:
    """What tells one set of weights from another: the hash of the file, which has been compared with it."""
    return checkpoint.manifest.files[WEIGHTS].sha256


def parted(whole: Iterable[str], resumed: Sequence[str]) -> str:
    """Say where the trace of a resumed run parts from a whole one's: in the data, the forward pass, or the update."""
    expected = dict(line.split("\t", 1) for line in whole)
    for line in resumed:
        place, noted = line.split("\t", 1)
        if expected.get(place) == noted:
            continue
        same_data = expected.get(place, "").partition("\t")[0] == noted.partition("\t")[0]
        is_first = line == resumed[0]
        return f"from {place} on {(_FORWARD if is_first else _UPDATE) if same_data else _DATA}"
    return _UPDATE


def _trace(job: Job) -> list[str]:
    return (Path(job.folder) / "trace").read_text().splitlines()


def _last(job: Job) -> Checkpoint:
    return list_checkpoints(find(Path(job.folder), "latest").checkpoints)[-1]


def _run(job: Job, *, dies: bool = False) -> None:
    """Run an attempt in a process of its own, and see that it ends as it should."""
    Path(job.folder).mkdir(parents=True, exist_ok=True)
    output = Path(job.folder) / "output"
    with output.open("wb") as stream:
        done = subprocess.run(  # noqa: S603  our own interpreter
            [sys.executable, "-m", __name__], input=msgspec.json.encode(job), stdout=stream, stderr=stream, check=False
        )
    if done.returncode != (-signal.SIGKILL if dies else 0):
        raise FramewormError(
            "the job did not end as it should",
            expected=f"killed behind step {job.die_behind}" if dies else "exit code 0",
            got=f"exit code {done.returncode}\n{output.read_text(errors='replace')[-2000:].strip()}",
            where=str(output),
        )


# In the process of an attempt


def main() -> None:
    """Train what standard input says."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    folder = Path(job.folder)
    with logs.configure():
        checked = config.load(Path(job.file), [*job.overrides, f"run.dir={folder}"])
        with app.session(checked, resume="latest" if job.resume else None, relay=False) as trainer:
            _note_batches(trainer, folder / "trace")
            if job.die_behind is not None:
                _die_behind(trainer, job.die_behind)
            trainer.fit()


def _note_batches(trainer: Trainer, file: Path) -> None:
    """Write down a line for each batch: its place, what was in it, and its loss."""
    stream = file.open("w")
    content = [0]

    def begin(event: BatchBegin) -> None:
        content[0] = _checksum(event.batch)

    def end(event: BatchEnd) -> None:
        epoch = event.source.epoch + 1
        stream.write(f"epoch {epoch}, batch {event.batch_idx + 1}\t{content[0]:08x}\t{number(event.loss).hex()}\n")
        stream.flush()

    trainer.bus.subscribe(BatchBegin, begin, on_error="raise")
    trainer.bus.subscribe(BatchEnd, end, on_error="raise")


def _checksum(batch: Any, value: int = 0) -> int:
    """Of the tensors and numbers in a batch, whatever holds them."""
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if isinstance(batch, list | tuple):
        for item in batch:
            value = _checksum(item, value)
        return value
    if hasattr(batch, "numpy"):
        whole = batch.detach().cpu().contiguous()
        return zlib.crc32(whole.float().numpy().tobytes(), value)
    return zlib.crc32(repr(batch).encode(), value)


def _die_behind(trainer: Trainer, step: int) -> None:
    """Have a step saved, and end the process in the middle of the first one behind the durable checkpoint."""
    armed: list[str] = []

    def stepped(event: OptimizerStepped) -> None:
        if event.source.step == step and not armed:
            event.source.save_now("to be resumed from", by="")

    def saved(event: CheckpointSaved) -> None:
        if Path(event.path).name.startswith(f"step-{step:08d}"):
            armed.append(event.path)

    def die(_event: BackwardEnd | TrainEnd) -> None:
        if armed:
            os.kill(os.getpid(), signal.SIGKILL)

    trainer.bus.subscribe(OptimizerStepped, stepped, on_error="raise")
    trainer.bus.subscribe(CheckpointSaved, saved, on_error="raise")
    trainer.bus.subscribe(BackwardEnd, die, on_error="raise")
    trainer.bus.subscribe(TrainEnd, die, on_error="raise")


if __name__ == "__main__":
    main()
