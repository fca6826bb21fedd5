"""What holds for all fault tests."""

from __future__ import annotations

import pytest

from tests.frameworm.delivery.recorded import environment


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the processes that are started import the tests' modules."""
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
