"""The relay delivers all that is recorded, at least once, whatever its listeners do to it."""

from __future__ import annotations

import random
import signal
import sys
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from bus.cursor import position_in
from bus.lock import Owner
from frameworm.delivery.listener import RelayOptions, relay_folder
from frameworm.delivery.relay import Outcome, Relay, status
from frameworm.delivery.retry import RetryPolicy
from frameworm.errors import RunBusyError, RunError, UserError
from tests.frameworm.delivery.listeners import lines
from tests.frameworm.delivery.recorded import (
    QUICK,
    TRAINING,
    dead_letters,
    kill,
    listener,
    new_run,
    plan,
    record,
    relay,
    start,
    until,
    writing,
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with 10 batches that has ended."""
    path = new_run(tmp_path)
    record(path, 10)
    return path


def serve(run_dir: Path) -> Outcome:
    """Be the relay until it ends."""
    with Relay(run_dir) as made:
        return made.run()


# What is delivered


def test_a_finished_run_is_delivered_in_order(run: Path, tmp_path: Path) -> None:
    """Every event that is wanted, once, with the facts of its moment."""
    plan(run, listener("a", "ToFile", path=tmp_path / "a"))
    assert serve(run) is Outcome.DELIVERED
    got = lines(tmp_path / "a")
    assert [line["seq"] for line in got] == list(range(2, 13))
    assert [line.get("batch_idx") for line in got] == [*range(10), None]
    assert [line["status"] for line in got] == ["running"] * 10 + ["finished"]
    [report] = status(run)
    assert (report.name, report.state, report.delivered, report.pending, report.seq) == ("a", "ok", 11, 0, 12)


def test_nothing_is_delivered_twice_by_the_next_relay(run: Path, tmp_path: Path) -> None:
    """The cursor says what is done, and the account goes on."""
    plan(run, listener("a", "ToFile", path=tmp_path / "a"))
    serve(run)
    record(run, 3, attempt=2)
    serve(run)
    assert [line["seq"] for line in lines(tmp_path / "a")] == [*range(2, 13), 14, 15, 16, 17]
    assert status(run)[0].delivered == 15


def test_batches_and_state(run: Path, tmp_path: Path) -> None:
    """A listener with `deliver` gets lists; its state comes back in the next relay."""
    plan(run, listener("a", "Batches", path=tmp_path / "a"), options=RelayOptions(poll=0.02, batch=4))
    serve(run)
    record(run, 1, attempt=2)
    serve(run)
    assert lines(tmp_path / "a") == [
        {"seqs": [2, 3, 4, 5], "before": 0},
        {"seqs": [6, 7, 8, 9], "before": 5},
        {"seqs": [10, 11, 12], "before": 9},
        {"seqs": [14, 15], "before": 12},
    ]


def test_a_living_run_is_followed_to_its_end(tmp_path: Path) -> None:
    """The relay is there before the first record, and ends behind `train_end` while the writer still lives."""
    run = new_run(tmp_path)
    plan(run, listener("a", "ToFile", path=tmp_path / "a"))
    with writing(run) as write, relay(run) as process:
        for index in range(5):
            write("batch_end", batch_idx=index, loss=0.5)
        until(lambda: len(lines(tmp_path / "a")) == 5)
        write("epoch_end", metrics={"loss": 0.5})
        write("train_end", status="stopped", reason="enough", error=None)
        output, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    assert lines(tmp_path / "a")[-1]["status"] == "stopped"
    assert output.splitlines()[1].split() == b"a ok 6 0 0".split()


def test_damage_in_the_journal_is_skipped_and_counted(run: Path, tmp_path: Path) -> None:
    """A flipped byte costs its record; a torn tail is none yet."""
    journal = run / "events.jsonl"
    content = bytearray(journal.read_bytes())
    content[content.index(b'"batch_idx":4') + 12] = ord("7")
    journal.write_bytes(content + b'{"v":1,"seq":13,"att')
    plan(run, listener("a", "ToFile", path=tmp_path / "a"))
    assert serve(run) is Outcome.DELIVERED
    assert [line["seq"] for line in lines(tmp_path / "a")] == [2, 3, 4, 5, 7, 8, 9, 10, 11, 12]
    assert status(run)[0].damaged == 1


# The end of the trainer


def test_a_crashed_run_is_closed_once(tmp_path: Path) -> None:
    """What is left is delivered, then an end that is recorded nowhere; the next relay does not repeat it."""
    run = new_run(tmp_path)
    record(run, 3, end=None)
    before = (run / "events.jsonl").read_bytes()
    plan(run, listener("a", "ToFile", path=tmp_path / "a"), listener("b", "Batches", path=tmp_path / "b"))
    for _ in range(2):
        assert serve(run) is Outcome.DELIVERED
    assert [(line["event"], line["status"]) for line in lines(tmp_path / "a")][-2:] == [
        ("batch_end", "running"),
        ("train_end", "crashed"),
    ]
    assert sum(line["event"] == "train_end" for line in lines(tmp_path / "a")) == 1
    assert [line["seqs"] for line in lines(tmp_path / "b")] == [[2, 3, 4], [4]]
    assert (run / "events.jsonl").read_bytes() == before


def test_a_run_that_goes_on_after_a_crash(tmp_path: Path) -> None:
    """The second attempt is delivered behind the first one's end."""
    run = new_run(tmp_path)
    plan(run, listener("a", "ToFile", path=tmp_path / "a"))
    record(run, 2, end=None)
    serve(run)
    record(run, 2, attempt=2)
    serve(run)
    ends = [line["status"] for line in lines(tmp_path / "a") if line["event"] == "train_end"]
    assert ends == ["crashed", "finished"]


def test_a_run_that_was_resumed_before_its_crash_was_noticed(tmp_path: Path) -> None:
    """Then there was no end in between."""
    run = new_run(tmp_path)
    plan(run, listener("a", "ToFile", path=tmp_path / "a"))
    record(run, 2, end=None)
    record(run, 2, attempt=2)
    serve(run)
    assert [line["status"] for line in lines(tmp_path / "a")] == ["running"] * 4 + ["finished"]


def test_a_killed_trainer_loses_nothing(tmp_path: Path) -> None:
    """Every record is delivered, and the run is closed as crashed, by the relay that was there."""
    run = new_run(tmp_path)
    plan(run, listener("a", "ToFile", path=tmp_path / "a"))
    with start("-c", TRAINING, str(run), "100000", "0.0005") as trainer:
        until((run / "events.jsonl").exists)
        with relay(run) as process:
            until(lambda: len(lines(tmp_path / "a")) > 50)
            kill(trainer)
            _, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    got = lines(tmp_path / "a")
    assert [line["seq"] for line in got[:-1]] == list(range(2, len(got) + 1))
    assert (run / "events.jsonl").read_bytes().count(b"\n") == len(got)
    assert (got[-1]["event"], got[-1]["status"]) == ("train_end", "crashed")


# The end of the relay


def test_a_killed_relay_repeats_little_and_loses_nothing(tmp_path: Path) -> None:
    """Killed at any moment, the next one goes on; at most 100 events come twice."""
    run = new_run(tmp_path)
    record(run, 3000)
    plan(run, listener("a", "ToFile", path=tmp_path / "a", seconds=0.0002))
    chance = random.Random(4)
    for _ in range(4):
        with relay(run, "--spare") as process:
            before = len(lines(tmp_path / "a"))
            until(lambda: len(lines(tmp_path / "a")) > before or process.poll() is not None)  # noqa: B023  used at once
            time.sleep(chance.uniform(0, 0.15))
            kill(process)
    with relay(run, "--spare") as process:
        process.communicate(timeout=30)
    seqs = [line["seq"] for line in lines(tmp_path / "a")]
    assert sorted(set(seqs)) == list(range(2, 3003))
    assert len(seqs) - len(set(seqs)) <= 4 * 100


@pytest.mark.parametrize(
    ("number", "outcome"), [(signal.SIGTERM, Outcome.STOPPED), (signal.SIGINT, Outcome.INTERRUPTED)]
)
def test_a_relay_that_is_asked_to_stop_repeats_nothing(
    tmp_path: Path, number: signal.Signals, outcome: Outcome
) -> None:
    """It waits for the call that is under way, and notes it."""
    run = new_run(tmp_path)
    record(run, 80)
    plan(run, listener("a", "ToFile", path=tmp_path / "a", seconds=0.01))
    with relay(run) as process:
        until(lambda: len(lines(tmp_path / "a")) > 3)
        process.send_signal(number)
        process.communicate(timeout=20)
    assert process.returncode == outcome
    with relay(run) as process:
        process.communicate(timeout=20)
    assert [line["seq"] for line in lines(tmp_path / "a")] == list(range(2, 83))


def test_a_record_that_kills_the_relay_is_buried_after_two(run: Path, tmp_path: Path) -> None:
    """Then the rest is delivered: one record costs two relays and no more."""
    plan(run, listener("a", "Troubled", path=tmp_path / "a", at=5, how="die"))
    codes = []
    for _ in range(3):
        with relay(run) as process:
            process.communicate(timeout=20)
        codes.append(process.returncode)
    assert codes == [1, 1, 0]
    assert {line["seq"] for line in lines(tmp_path / "a")} == {*range(2, 13)} - {7}
    [letter] = dead_letters(run, "a")
    assert (letter["record"]["seq"], letter["reason"]) == (7, "the relay died of it twice")
    assert status(run)[0].last_error == "the relay died of it twice"


def test_two_relays(run: Path, tmp_path: Path) -> None:
    """The second one is told who is there already."""
    plan(run, listener("a", "ToFile", path=tmp_path / "a"))
    with Relay(run), pytest.raises(RunBusyError, match="has a relay already") as refused:
        Relay(run)
    assert refused.value.got == str(Owner.current())


def test_a_relay_makes_room_for_other_listeners(run: Path, tmp_path: Path) -> None:
    """When the run is started again with other listeners, the old relay leaves, and the new one waits for that."""
    with writing(run, 2) as write:
        write("train_begin", epochs=1)
        plan(run, listener("a", "ToFile", path=tmp_path / "a"))
        with relay(run) as old:
            until(lambda: len(lines(tmp_path / "a")) == 11)
            plan(run, listener("b", "ToFile", path=tmp_path / "b"))
            with relay(run, "--wait") as new:
                old.communicate(timeout=20)
                write("train_end", status="finished", reason=None, error=None)
                new.communicate(timeout=20)
    assert (old.returncode, new.returncode) == (Outcome.REPLACED, Outcome.DELIVERED)
    assert len(lines(tmp_path / "b")) == 12


# Listeners in trouble


def test_what_a_listener_refuses_is_buried_at_once(run: Path, tmp_path: Path) -> None:
    """The others are delivered; the dead letter has the record and the error."""
    plan(run, listener("a", "Troubled", path=tmp_path / "a", at=5, how="refuse"))
    assert serve(run) is Outcome.DELIVERED
    assert [line["batch_idx"] for line in lines(tmp_path / "a")[:-1]] == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    [letter] = dead_letters(run, "a")
    assert (letter["reason"], letter["error"]) == ("refused", "PermanentError: no such metric")
    assert (letter["record"]["seq"], letter["record"]["batch_idx"]) == (7, 5)
    [report] = status(run)
    assert (report.delivered, report.dead, report.failed, report.retried, report.pending) == (10, 1, 1, 0, 0)


def test_an_unknown_error_is_believed_after_five_tries(run: Path, tmp_path: Path) -> None:
    """The poison record does not hold up the end of the run."""
    plan(run, listener("a", "Troubled", path=tmp_path / "a", at=0, how="stumble"))
    assert serve(run) is Outcome.DELIVERED
    [report] = status(run)
    assert (report.delivered, report.dead, report.failed, report.retried) == (10, 1, 5, 4)
    assert report.last_error == "KeyError: 'mystery'"
    assert dead_letters(run, "a")[0]["reason"] == "given up"


def test_bad_records_in_a_batch_are_isolated(run: Path, tmp_path: Path) -> None:
    """The batch goes on singly, and only what is bad is buried."""
    plan(run, listener("a", "Batches", path=tmp_path / "a", bad=[2, 7]))
    assert serve(run) is Outcome.DELIVERED
    assert [line["seqs"] for line in lines(tmp_path / "a")] == [[seq] for seq in range(2, 13) if seq not in (4, 9)]
    assert [letter["record"]["batch_idx"] for letter in dead_letters(run, "a")] == [2, 7]


def test_a_listener_that_has_recovered_is_well(run: Path, tmp_path: Path) -> None:
    """A batch that failed and went singly leaves no trouble behind, but in the account."""
    plan(run, listener("a", "Shy", path=tmp_path / "a"))
    assert serve(run) is Outcome.DELIVERED
    [report] = status(run)
    assert (report.state, report.delivered, report.failed, report.dead) == ("ok", 11, 1, 0)


def test_a_hung_listener_holds_up_only_itself(run: Path, tmp_path: Path) -> None:
    """The other one gets everything, the relay ends, and says which one hangs."""
    hanging = replace(listener("bad", "Troubled", path=tmp_path / "bad", at=3, how="hang"), timeout=0.3)
    plan(run, hanging, listener("good", "ToFile", path=tmp_path / "good"))
    with relay(run) as process:
        output, _ = process.communicate(timeout=20)
    assert process.returncode == Outcome.UNDELIVERED
    assert len(lines(tmp_path / "good")) == 11
    bad, good = status(run)
    assert (good.state, good.pending) == ("ok", 0)
    assert (bad.state, bad.last_error) == ("hung", "no answer for 0.3 s")
    assert bad.pending >= 7
    assert b"hung" in output


def test_a_call_that_takes_long_does_not_end_a_living_run(run: Path, tmp_path: Path) -> None:
    """It may come back: the relay stays for what is still to come, and the report says meanwhile that it hangs."""
    slow = replace(listener("a", "ToFile", path=tmp_path / "a", seconds=1.0), timeout=0.1)
    with writing(run, 2) as write:
        write("train_begin", epochs=1)
        plan(run, replace(slow, name="b", options={**slow.options, "seconds": 0.0}), slow)
        with relay(run) as process:
            until(lambda: status(run)[1].state == "hung")
            assert status(run)[0].state == "ok"
            time.sleep(1)
            assert process.poll() is None
            write("train_end", status="finished", reason=None, error=None)
            process.communicate(timeout=20)
    assert process.returncode == Outcome.UNDELIVERED


def test_a_listener_that_cannot_be_made_is_reported(run: Path, tmp_path: Path) -> None:
    """The others go on."""
    plan(
        run, listener("bad", "Broken"), listener("missing", "Nowhere"), listener("good", "ToFile", path=tmp_path / "a")
    )
    assert serve(run) is Outcome.UNDELIVERED
    bad, missing, good = status(run)
    assert (bad.state, bad.last_error) == ("failed to start", "ImportError: No module named 'tracker'")
    assert missing.last_error is not None
    assert missing.last_error.startswith("UserError: module")
    assert (good.state, good.delivered, bad.pending) == ("ok", 11, 12)


@pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell how much memory is in use")
def test_a_leaking_listener_gets_a_new_relay(run: Path, tmp_path: Path) -> None:
    """The old one notes what is delivered, says whom it served, and becomes its own successor, whoever is there."""
    options = RelayOptions(poll=0.02, memory=200 * 1024 * 1024)
    with writing(run, 2) as write:
        write("train_begin", epochs=1)
        plan(run, listener("leaky", "Troubled", path=tmp_path / "a", at=5, how="leak"), options=options)
        with relay(run) as process:
            until(lambda: status(run)[0].pending == 0)
            write("batch_end", batch_idx=0, loss=0.5)
            write("train_end", status="finished", reason=None, error=None)
            _, errors = process.communicate(timeout=20)
    assert process.returncode == Outcome.DELIVERED
    assert b"leaky" in errors
    assert [line["seq"] for line in lines(tmp_path / "a")] == [*range(2, 13), 14, 15]
    assert {line["pid"] for line in lines(tmp_path / "a")} == {process.pid}


@pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell how much memory is in use")
def test_too_little_memory_to_get_anywhere(run: Path, tmp_path: Path) -> None:
    """A relay that would only be crowded again ends, and its exit code says why."""
    with writing(run, 2) as write:
        write("train_begin", epochs=1)
        plan(run, listener("a", "ToFile", path=tmp_path / "a"), options=RelayOptions(poll=0.02, memory=1))
        with relay(run) as process:
            process.communicate(timeout=30)
    assert process.returncode == Outcome.CROWDED


def test_a_wrong_size_of_memory(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said before anything is done."""
    monkeypatch.setenv("FRAMEWORM_RELAY_MEMORY", "much")
    with pytest.raises(UserError, match="FRAMEWORM_RELAY_MEMORY is no size"):
        Relay(run)


# Wrong input


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    """The versions are said."""
    run = new_run(tmp_path)
    with writing(run, v=2) as write:
        write("train_begin", epochs=1)
    with pytest.raises(RunError, match="newer format") as refused:
        Relay(run)
    assert (refused.value.expected, refused.value.got) == ("version 1 or older", "version 2")


def test_a_folder_that_is_no_plan(run: Path) -> None:
    """It is an error, and not an empty plan."""
    relay_folder(run).mkdir()
    (relay_folder(run) / "listeners.json").write_text('{"listeners": 3}')
    with pytest.raises(RunError, match="listeners cannot be read"):
        Relay(run)


def test_a_cursor_holds_the_account(run: Path, tmp_path: Path) -> None:
    """The numbers and the position are written at once: they belong together."""
    plan(run, listener("a", "ToFile", path=tmp_path / "a"))
    serve(run)
    position = position_in(relay_folder(run) / "a.cursor")
    assert (position.seq, position.trying, position.state["delivered"]) == (12, None, 11)


def test_patience_is_in_the_plan() -> None:
    """What the tests make quick is slow by default."""
    assert QUICK.retry != RetryPolicy() == RelayOptions().retry
    assert (RetryPolicy().first, RetryPolicy().longest, RetryPolicy().tries) == (1.0, 60.0, 5)
