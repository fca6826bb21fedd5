"""A listener that only burns time, in a process of its own, costs nobody else anything."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from statistics import median

from msgspec.structs import replace

from frameworm.delivery.relay import status
from frameworm.delivery.supervisor import RelayProcess
from tests.faults.support import Burning, described, times, until
from tests.frameworm.delivery.listeners import lines
from tests.frameworm.delivery.recorded import NO_PLUGINS, QUICK, listener, new_run, writing


def test_a_listener_that_burns_the_processor(tmp_path: Path) -> None:
    """Fault 7: recording stays quick, the other listener gets everything, the run ends, and it is said who hangs."""
    run, count = new_run(tmp_path), times(300, 3000)
    burning = replace(described("bad", Burning, path=tmp_path / "bad", at=3), timeout=0.5)
    good = listener("good", "ToFile", path=tmp_path / "good")
    took: list[float] = []
    with writing(run) as write:
        process = RelayProcess(run, [burning, good], plugins=NO_PLUGINS, options=QUICK)
        write("train_begin", epochs=1)
        for index in range(5):
            write("batch_end", batch_idx=index, loss=0.5)
        until(lambda: status(run)[0].state == "hung")
        assert process.pid is not None
        assert os.getpriority(os.PRIO_PROCESS, process.pid) > os.getpriority(os.PRIO_PROCESS, 0)
        for index in range(5, count):
            begin = time.perf_counter()
            write("batch_end", batch_idx=index, loss=0.5)
            took.append(time.perf_counter() - begin)
        write("train_end", status="finished", reason=None, error=None)
        assert not process.drain(30)
    assert process.pid is None
    assert median(took) < 0.02
    assert len(lines(tmp_path / "bad")) == 3
    assert [line["seq"] for line in lines(tmp_path / "good")] == list(range(2, count + 3))
    first, second = status(run)
    assert (first.state, first.last_error) == ("hung", "no answer for 0.5 s")
    assert first.pending >= count - 3
    assert (second.state, second.pending, second.dead) == ("ok", 0, 0)


def test_a_relay_with_a_burning_listener_can_be_stopped(tmp_path: Path) -> None:
    """Fault 7: SIGTERM is heard, though the interpreter is busy; what the other one has is noted."""
    run = new_run(tmp_path)
    burning = replace(described("bad", Burning, path=tmp_path / "bad", at=0), timeout=0.2)
    with writing(run) as write:
        process = RelayProcess(
            run, [burning, listener("good", "ToFile", path=tmp_path / "good")], plugins=NO_PLUGINS, options=QUICK
        )
        write("train_begin", epochs=1)
        write("batch_end", batch_idx=0, loss=0.5)
        until(lambda: status(run)[0].state == "hung" and status(run)[1].seq == 2)
        pid = process.pid
        assert pid is not None
        os.kill(pid, signal.SIGTERM)
        until(lambda: process.pid is None)
    assert len(lines(tmp_path / "good")) == 1
