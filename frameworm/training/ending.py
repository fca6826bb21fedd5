"""After the last event: listeners that are behind are waited for, as long as the way in which the run ended allows."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterable
from typing import Literal

log = logging.getLogger("frameworm")

Drain = Callable[[Callable[[], float]], bool]
"""Waits for listeners as long as what it is given says that seconds are left; says whether all was delivered."""

GRACE = "FRAMEWORM_GRACE"
"""The environment variable with the seconds that a SIGTERM leaves for listeners."""

_AFTER_FAILURE = 10.0  # seconds
_AFTER_CTRL_C = 5.0
_AFTER_SIGTERM = 10.0
_SILENCE = 1.0  # seconds of waiting before that is worth a line


def patience(number: signal.Signals | None, *, failed: bool, usual: float | Literal["forever"]) -> float:
    """Return for how many seconds listeners are waited for at the end of a run, that a signal ended or a failure."""
    longest = float("inf") if usual == "forever" else usual
    if number is signal.SIGINT:
        return min(longest, _AFTER_CTRL_C)
    if number is not None:
        return min(longest, _grace())
    return min(longest, _AFTER_FAILURE) if failed else longest


def drain(drains: Iterable[Drain], seconds: Callable[[], float]) -> bool:
    """Wait for all `drains`; `seconds` says how long in all, and may come to say less meanwhile."""
    begin = time.monotonic()
    told = False

    def left() -> float:
        nonlocal told
        rest = max(0.0, begin + seconds() - time.monotonic())
        if not told and rest and time.monotonic() - begin > _SILENCE:
            told = True
            limit = "" if rest == float("inf") else f", {rest:.0f} s at most"
            log.info("waiting for listeners that are behind%s", limit)
        return rest

    return all([wait(left) for wait in drains])  # noqa: C419  each is asked, whatever the others say


def _grace() -> float:
    try:
        return max(0.0, float(os.environ[GRACE]))
    except (KeyError, ValueError):
        return _AFTER_SIGTERM
