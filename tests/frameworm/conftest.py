"""What holds for all tests of frameworm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bus import default_bus


@pytest.fixture
def scratch_hooks() -> Iterator[None]:
    """Take away what the test registers on the default bus, since hooks that are functions stay for good."""
    before = default_bus.subscriptions()
    yield
    for subscription in default_bus.subscriptions():
        if subscription not in before:
            subscription.cancel()
