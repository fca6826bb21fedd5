"""Both sides may be killed at any moment: nothing that was recorded is lost, and little comes twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

from msgspec.structs import replace

from frameworm.delivery.relay import Outcome, status
from frameworm.delivery.status import relay_of
from tests.faults.support import LONG, records, repeated, times, until
from tests.frameworm.delivery.listeners import lines
from tests.frameworm.delivery.recorded import QUICK, dead_letters, kill, listener, new_run, plan, record, relay, start

TRAINER = """
import os, sys, time
from pathlib import Path
from frameworm.delivery.supervisor import RelayProcess
from tests.frameworm.delivery.recorded import NO_PLUGINS, QUICK, listener, writing
run = Path(sys.argv[1])
with writing(run) as write:
    RelayProcess(run, [listener("a", "ToFile", path=sys.argv[2])], plugins=NO_PLUGINS, options=QUICK)
    write("train_begin", epochs=1)
    for index in range(10**9):
        write("batch_end", batch_idx=index, loss=0.5)
        os.write(1, b"%d\\n" % (index + 2))  # its number, when the call has returned
        time.sleep(0.001)
"""


@LONG
def test_a_trainer_is_killed_at_any_moment(tmp_path: Path) -> None:
    """Fault 9: each record whose `emit` returned is in the journal, and the orphaned relay delivers it and closes."""
    chance = random.Random(9)
    for number in range(times(3, 20)):
        run, heard, told = new_run(tmp_path / str(number)), tmp_path / f"heard{number}", tmp_path / f"told{number}"
        with told.open("wb") as output, start("-c", TRAINER, str(run), str(heard), stdout=output) as trainer:
            until(lambda: told.stat().st_size)  # noqa: B023  used at once
            time.sleep(chance.uniform(0, 1.5))  # the moment is what is tried; the relay may not have begun yet
            kill(trainer)
        returned = int(told.read_bytes().splitlines()[-1])
        written = [entry["seq"] for entry in records(run)]
        assert written == list(range(1, len(written) + 1))
        assert returned <= len(written) <= returned + 1
        until(lambda: relay_of(run) is None and status(run)[0].pending == 0)  # noqa: B023  used at once
        got = lines(heard)
        assert [line["seq"] for line in got] == [*written[1:], written[-1]]
        assert (got[-1]["event"], got[-1]["status"]) == ("train_end", "crashed")
        assert [line["event"] for line in got].count("train_end") == 1


@LONG
def test_a_relay_is_killed_at_any_moment(tmp_path: Path) -> None:
    """Fault 10: nothing is missing, at most 100 records come again from each successor, and no record is blamed."""
    chance = random.Random(10)
    run, rounds = new_run(tmp_path), times(3, 20)
    record(run, rounds * 700)
    heard = tmp_path / "a", tmp_path / "b"
    plan(
        run,
        listener("a", "ToFile", path=heard[0], seconds=0.0005),
        listener("b", "Batches", path=heard[1]),
        options=replace(QUICK, batch=50),
    )
    for _ in range(rounds):
        with relay(run, "--spare") as process:
            before = heard[0].stat().st_size if heard[0].exists() else -1
            until(lambda: heard[0].exists() and heard[0].stat().st_size > before)  # noqa: B023  used at once
            time.sleep(chance.uniform(0, 0.2))
            kill(process)
    with relay(run, "--spare") as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == Outcome.DELIVERED, errors
    wanted = list(range(2, rounds * 700 + 3))
    got = lines(heard[0])
    assert sorted({line["seq"] for line in got}) == wanted
    assert max(repeated(got)) <= 100
    batches = [seq for line in lines(heard[1]) for seq in line["seqs"]]
    assert sorted(set(batches)) == wanted
    assert len(batches) - len(wanted) <= rounds * 100
    assert dead_letters(run, "a") == dead_letters(run, "b") == []
    assert [(report.state, report.pending) for report in status(run)] == [("ok", 0), ("ok", 0)]


def test_both_are_killed(tmp_path: Path) -> None:
    """Faults 9 and 10: then nobody delivers, until a relay is asked to: it delivers the rest and closes the run."""
    run, heard = new_run(tmp_path), tmp_path / "heard"
    with start("-c", TRAINER, str(run), str(heard), stdout=subprocess.DEVNULL) as trainer:
        until(lambda: len(lines(heard)) > 50)
        owner = relay_of(run)
        assert owner is not None
        kill(trainer)
        os.kill(owner.pid, signal.SIGKILL)
    until(lambda: relay_of(run) is None)
    with relay(run, "--spare") as process:
        _, errors = process.communicate(timeout=30)
    assert process.returncode == Outcome.DELIVERED, errors
    got = lines(heard)
    assert {line["seq"] for line in got} == {entry["seq"] for entry in records(run)} - {1}
    assert max(repeated(got[:-1])) <= 100
    assert (got[-1]["event"], got[-1]["status"]) == ("train_end", "crashed")
