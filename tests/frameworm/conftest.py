"""What holds for all tests of frameworm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bus import default_bus
from frameworm.plugins.hooks import HookRegistry


@pytest.fixture(autouse=True)
def nothing_is_left_on_the_default_bus() -> Iterator[None]:
    """Every trainer hears of hooks on the default bus: a test that left one there would change those after it."""
    yield
    left = default_bus.subscriptions()
    enabled = HookRegistry.is_enabled()
    HookRegistry.enable()
    for subscription in left:
        subscription.cancel()
    assert not left
    assert enabled


@pytest.fixture
def scratch_hooks() -> Iterator[None]:
    """Take away what the test registers on the default bus, since hooks that are functions stay for good."""
    before = default_bus.subscriptions()
    yield
    for subscription in default_bus.subscriptions():
        if subscription not in before:
            subscription.cancel()
