"""Absolute times, for orientation on one machine: nothing here is guarded, for such times hold on no other machine.

Run it as `python -m pytest benchmarks/absolute.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.emit import emission
from bus import EventBus
from frameworm.delivery.journal import Journal
from frameworm.events import BatchEnd

SOURCE: Any = object()


@pytest.mark.parametrize("listeners", [0, 1, 10])
def test_a_thousand_events(benchmark: BenchmarkFixture, listeners: int) -> None:
    """A thousand events to so many listeners that do nothing."""
    benchmark(emission(listeners, emissions=1000))


def test_a_record(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """One event into a journal on disk."""
    bus = EventBus()
    with Journal(tmp_path, run="benchmark", position=lambda: (0, 0), log_every=1) as journal:
        journal.attach(bus)
        benchmark(bus.publish, BatchEnd(SOURCE, 7, 0.5))
