"""What holds for all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from bus import default_bus
from frameworm.plugins.hooks import HookRegistry

# Threads that wait by spinning cost a test ten times its time where several processes share few cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is loaded, so here is early enough

# A shell that runs this in the background has SIGINT ignored, and so would all processes that the tests start and
# interrupt; a handler of our own does not pass on to them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def hooks_of_its_own() -> Iterator[None]:
    """A test knows of no hooks but its own, and leaves none for all trainers.

    Those of a trainer that an earlier test has dropped are there until the garbage is collected, which is at any time.
    """
    with HookRegistry.without_hooks():
        yield
        left = default_bus.subscriptions()
        enabled = HookRegistry.is_enabled()
        HookRegistry.enable()
        for subscription in left:
            subscription.cancel()
    assert not left
    assert enabled
