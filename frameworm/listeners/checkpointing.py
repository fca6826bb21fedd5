"""When a run is saved: after epochs, after optimizer steps, after minutes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from bus import EventBus, Subscription
from frameworm.errors import UserError
from frameworm.events import CheckpointSave, EpochEnd, OptimizerStepped, TrainBegin


class Checkpointing:
    """Asks for a checkpoint at the end of each `every_epochs`-th epoch, and of the last one.

    Also after each `every_steps` optimizer steps, and at the first step at which the latest checkpoint is
    `every_minutes` old, unless these are None. Raises UserError for what is not more than nothing.
    """

    def __init__(
        self,
        every_epochs: int = 1,
        every_steps: int | None = None,
        every_minutes: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for name, value in (
            ("every_epochs", every_epochs),
            ("every_steps", every_steps),
            ("every_minutes", every_minutes),
        ):
            if value is not None and not value > 0:
                raise UserError(f"checkpointing: {name} is wrong", expected="more than 0", got=str(value))
        self.every_epochs = every_epochs
        self.every_steps = every_steps
        self.every_minutes = every_minutes
        self._clock = clock
        self._step = 0  # the last that was looked at: each of several optimizers tells of its own
        self._saved = clock()

    def register(self, bus: EventBus) -> tuple[Subscription[Any], ...]:
        """Listen on `bus`; cancelling the returned subscriptions undoes it."""
        options: dict[str, Any] = {"priority": 95, "name": "checkpointing", "owner": self}
        found: list[Subscription[Any]] = [bus.subscribe(EpochEnd, self._epoch_end, **options)]
        if self.every_steps is not None:
            found.append(bus.subscribe(OptimizerStepped, self._stepped, **options))
        if self.every_minutes is not None:
            found += [bus.subscribe(event, self._began, **options) for event in (TrainBegin, CheckpointSave)]
            found.append(bus.subscribe(OptimizerStepped, self._aged, **options))
        return tuple(found)

    # The options say so, nobody asks: `by=""`, in all processes alike

    def _epoch_end(self, event: EpochEnd) -> None:
        done = event.epoch + 1
        if done % self.every_epochs == 0 or done == event.source.epochs:
            event.source.save_now("epoch end", by="")

    def _stepped(self, event: OptimizerStepped) -> None:
        step = event.source.step
        if step != self._step:
            self._step = step
            if self.every_steps and step % self.every_steps == 0:
                event.source.save_now(f"step {step}", by="")

    def _began(self, _event: TrainBegin | CheckpointSave) -> None:
        self._saved = self._clock()

    def _aged(self, event: OptimizerStepped) -> None:
        if self.every_minutes and not event.source.rank and self._clock() - self._saved >= 60 * self.every_minutes:
            self._saved = self._clock()
            # Of several processes each has its own clock: this one asks for all.
            event.source.save_now(f"{self.every_minutes:g} minutes", by="checkpoint.every_minutes")
