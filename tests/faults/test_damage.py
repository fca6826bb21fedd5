"""What may be wrong with a run's record, or come of it: other writers, torn and flipped bytes, records that kill."""

from __future__ import annotations

import subprocess
from pathlib import Path

from msgspec.structs import replace

from frameworm.delivery.journal import journal_path
from frameworm.delivery.relay import Outcome, status
from frameworm.delivery.supervisor import RelayProcess
from tests.faults.support import Pedantic, described, records, start, until
from tests.frameworm.delivery.listeners import lines
from tests.frameworm.delivery.recorded import (
    NO_PLUGINS,
    QUICK,
    TRAINING,
    dead_letters,
    listener,
    new_run,
    plan,
    record,
    relay,
    writing,
)


def test_two_relays_of_a_living_run(tmp_path: Path) -> None:
    """Fault 15: started together, one works, the other waits for its end, and everything is delivered once."""
    run, heard = new_run(tmp_path), tmp_path / "heard"
    with start("-c", TRAINING, str(run), "400", "0.005") as trainer:
        until((run / "events.jsonl").exists)
        plan(run, listener("a", "ToFile", path=heard))
        with relay(run, "--wait") as one, relay(run, "--wait") as other, relay(run, "--wait") as third:
            trainer.wait(timeout=30)
            for process in (one, other, third):
                _, errors = process.communicate(timeout=30)
                assert process.returncode == Outcome.DELIVERED, errors
    assert [line["seq"] for line in lines(heard)] == list(range(2, 403))
    assert len({line["pid"] for line in lines(heard)}) == 1


def test_a_second_writer_changes_nothing(tmp_path: Path) -> None:
    """Fault 15: it is told who writes, while the first one goes on, and its records arrive once."""
    run, heard = new_run(tmp_path), tmp_path / "heard"
    with start("-c", TRAINING, str(run), "200", "0.01") as trainer:
        until((run / "events.jsonl").exists)
        plan(run, listener("a", "ToFile", path=heard))
        with relay(run) as process:
            until(lambda: lines(heard))
            with start("-c", TRAINING, str(run), "5", "0", stderr=subprocess.PIPE) as second:
                _, errors = second.communicate(timeout=30)
            assert second.returncode == 1
            assert f"process {trainer.pid} on" in errors.decode()
            process.communicate(timeout=30)
        assert trainer.wait(timeout=30) == 0
    assert [line["seq"] for line in lines(heard)] == list(range(2, 203))


def test_a_torn_tail_and_a_flipped_byte_under_a_relay(tmp_path: Path) -> None:
    """Fault 15: what a dying writer left of a line is cut by the next one; a damaged line costs its own record only."""
    run, heard = new_run(tmp_path), tmp_path / "heard"
    journal = journal_path(run)
    plan(run, listener("a", "ToFile", path=heard))
    record(run, 5, end=None)
    with journal.open("ab") as file:
        file.write(journal.read_bytes().splitlines()[-1][:40])
    with relay(run) as process:
        process.communicate(timeout=30)
    assert [line["seq"] for line in lines(heard)] == [2, 3, 4, 5, 6, 6]
    with writing(run, 2) as write:
        write("train_begin", epochs=1)
        with relay(run) as process:
            write("batch_end", batch_idx=0, loss=0.5)
            until(lambda: lines(heard)[-1]["seq"] == 8)
            content = bytearray(journal.read_bytes())
            content[content.rindex(b'"batch_idx":0') + 12] ^= 1  # what has been delivered is damaged, too
            journal.write_bytes(content)
            write("batch_end", batch_idx=1, loss=0.5)
            write("train_end", status="finished", reason=None, error=None)
            _, errors = process.communicate(timeout=30)
    assert process.returncode == Outcome.DELIVERED, errors
    assert [line["seq"] for line in lines(heard)] == [2, 3, 4, 5, 6, 6, 8, 9, 10]
    assert [entry["seq"] for entry in records(run)] == [1, 2, 3, 4, 5, 6, 7, 9, 10]


def test_who_is_served_beside_a_listener_that_kills_the_relay(tmp_path: Path) -> None:
    """Fault 15: those who were busy with the same record when the relay died are not blamed for it."""
    run = new_run(tmp_path)
    record(run, 10)
    killing = listener("bad", "Troubled", path=tmp_path / "bad", at=0, how="die")
    others = [listener(f"good{number}", "ToFile", path=tmp_path / str(number), seconds=0.3) for number in range(3)]
    process = RelayProcess(run, [*others, killing], plugins=NO_PLUGINS, options=QUICK, restarts=10)
    assert process.drain(50)
    assert [report.dead for report in status(run)] == [0, 0, 0, 1]
    for number in range(3):
        assert sorted({line["seq"] for line in lines(tmp_path / str(number))}) == list(range(2, 13))


def test_a_record_that_kills_the_relay_in_a_batch(tmp_path: Path) -> None:
    """Fault 15: it is found among the records of its batch, and only it is buried, without anybody's help."""
    run, heard = new_run(tmp_path), tmp_path / "heard"
    record(run, 40)
    killing = described("a", Pedantic, path=heard, at=17)
    process = RelayProcess(run, [killing], plugins=NO_PLUGINS, options=replace(QUICK, batch=8), restarts=10)
    assert process.drain(60)
    taken = [seq for line in lines(heard) for seq in line["seqs"]]
    assert sorted(set(taken)) == [seq for seq in range(2, 43) if seq != 19]
    assert len(taken) - len(set(taken)) <= 8
    [letter] = dead_letters(run, "a")
    assert (letter["record"]["batch_idx"], letter["reason"]) == (17, "the relay died of it twice")
    [report] = status(run)
    assert (report.state, report.dead, report.pending) == ("ok", 1, 0)
    assert report.last_error == "the relay died of it twice"
