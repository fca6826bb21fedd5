"""When a run is saved: at the end of every so-many-th epoch, and of the last one."""

from __future__ import annotations

from bus import EventBus, Subscription
from frameworm.errors import UserError
from frameworm.events import EpochEnd


class Checkpointing:
    """Asks for a checkpoint at the end of each `every_epochs`-th epoch, and of the last one.

    Raises UserError when `every_epochs` is less than 1.
    """

    def __init__(self, every_epochs: int = 1) -> None:
        if every_epochs < 1:
            raise UserError("checkpointing: every_epochs is wrong", expected="at least 1", got=str(every_epochs))
        self.every_epochs = every_epochs

    def register(self, bus: EventBus) -> Subscription[EpochEnd]:
        """Listen on `bus`; cancelling the returned subscription undoes it."""
        return bus.subscribe(EpochEnd, self._epoch_end, priority=95, name="checkpointing", owner=self)

    def _epoch_end(self, event: EpochEnd) -> None:
        done = event.epoch + 1
        if done % self.every_epochs == 0 or done == event.source.epochs:
            event.source.save_now("epoch end", by="")  # the options say so, nobody asks
