"""A tracking server that is away for a while, or was never there, costs the run nothing, and gets everything once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

from frameworm.delivery.listener import RelayOptions
from frameworm.delivery.relay import status
from frameworm.delivery.retry import RetryPolicy
from frameworm.delivery.supervisor import RelayProcess
from frameworm_plugins.mlflow_logger import MLflowLogger
from tests.faults.servers import MLflowServer
from tests.faults.support import FULL, LONG, described, records, ticking, times, until
from tests.frameworm.delivery.recorded import NO_PLUGINS, new_run, writing

START = 120.0
"""Seconds that the server may take to begin, and the client to notice."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MLflowServer]:
    """A server that is not there yet, and is gone afterwards."""
    server = MLflowServer(tmp_path)
    yield server
    server.down()


@LONG
def test_a_server_that_is_down_for_a_while(tmp_path: Path, server: MLflowServer) -> None:
    """Fault 11: ten events a second meanwhile; recording stays quick, and all are there at the end, once.

    In full it is up, is killed in the middle, and comes back; else it only comes late, which spares one of its starts.
    """
    run = new_run(tmp_path)
    mlflow = described("mlflow", MLflowLogger, experiment="digits", tracking_uri=server.uri)
    patient = RelayOptions(poll=0.1, gather=0.2, retry=RetryPolicy(first=0.25, longest=1.0))
    with writing(run) as write:
        process = RelayProcess(run, [mlflow], plugins=NO_PLUGINS, options=patient)
        with ticking(write, 0.1) as took:
            if FULL:
                server.up()
                until(lambda: status(run)[0].delivered > 20, START)
                server.down()
            until(lambda: status(run)[0].state == "retrying", START)
            delivered = status(run)[0].delivered
            time.sleep(times(5, 30))  # how long it is away
            assert status(run)[0].state == "retrying"
            assert "refused" in str(status(run)[0].last_error)
            server.up()
            until(lambda: status(run)[0].delivered > delivered + 30, START)
        write("train_end", status="finished", reason=None, error=None)
    assert process.drain(30)
    count = sum(entry["event"] == "batch_end" for entry in records(run))
    assert len(took) == count > times(50, 300)
    assert median(took) < 0.01
    (stored,) = server.runs()
    assert stored["info"]["status"] == "FINISHED"
    assert server.steps(stored["info"]["run_id"], "batch_loss") == list(range(1, count + 1))
    [report] = status(run)
    assert (report.state, report.delivered, report.dead, report.pending) == ("ok", count + 1, 0, 0)
