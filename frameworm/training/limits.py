"""What comes with the steps or with time: each watches the loop between two steps, and asks of it what is due."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from frameworm.config import TrainerConfig
from frameworm.training.progress import Progress, Requests

Between = Iterator[None]
"""The moments between two optimizer steps."""


def watched(options: TrainerConfig, progress: Progress, requests: Requests) -> Callable[[Between], Between]:
    """Return what puts the watchers that the options ask for around the steps: none costs nothing."""
    watchers: list[Callable[[Between], Between]] = []
    if (every := options.validate_every_steps) is not None:
        watchers.append(lambda between: _validating(between, every, progress, requests))
    if (steps := options.max_steps) is not None:
        watchers.append(lambda between: _up_to(between, steps, progress, requests))
    if (seconds := options.max_time) is not None:
        until = time.monotonic() + seconds
        watchers.append(lambda between: _until(between, until, seconds, requests))

    def dress(between: Between) -> Between:
        for watcher in watchers:
            between = watcher(between)
        return requests.passing(between)

    return dress


def _validating(between: Between, every: int, progress: Progress, requests: Requests) -> Between:
    def is_due() -> bool:
        return progress.step % every == 0 and progress.validated != progress.step

    if is_due():  # the run was ended during this validation, and now goes on
        requests.file("validate", "")
        yield
    for moment in between:
        if is_due():
            requests.file("validate", "")
        yield moment


def _up_to(between: Between, steps: int, progress: Progress, requests: Requests) -> Between:
    for moment in between:
        if progress.step >= steps:
            requests.file("finish", f"trainer.max_steps: {steps}")
        yield moment


def _until(between: Between, until: float, seconds: float, requests: Requests) -> Between:
    for moment in between:
        if time.monotonic() >= until:
            requests.file("stop", f"trainer.max_time: {seconds:g} s", by="trainer.max_time")
        yield moment
