"""What happens to a loss or to gradients that are nan or infinite: the run ends, the step is left out, or neither."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from bus import EventBus
from frameworm.errors import NonFiniteError
from frameworm.events import NonFiniteFound, TrainerHandle
from frameworm.training.progress import Progress

What = Literal["loss", "gradients"]


class NonFinite:
    """What is done about what is not finite, by `policy`.

    - `raise`: the run fails; on a GPU, whose numbers are looked at once in `look_every`, some steps later.
    - `skip_step`: the step is left out; on a GPU that costs one look at the device in each batch.
    - `ignore`: training goes on with it.

    The norms of gradients are looked at `at_once`, or else as seldom. Under the last two policies it is told as
    `non_finite_found`, at the 1st, 2nd, 4th, 8th ... time.
    """

    def __init__(
        self,
        source: TrainerHandle,
        bus: EventBus,
        policy: Literal["raise", "skip_step", "ignore"],
        *,
        progress: Progress,
        at_once: bool,
        look_every: int,
    ) -> None:
        self._source = source
        self._bus = bus
        self._policy = policy
        self._progress = progress
        self._at_once = at_once or self.skips
        self._look_every = look_every
        self._found: dict[str, int] = {"loss": 0, "gradients": 0}
        self._norms: Tensor | None = None
        self._looked = 0

    @property
    def skips(self) -> bool:
        """Whether what is not finite has its step left out."""
        return self._policy == "skip_step"

    def loss(self, value: float, optimizer: str | None) -> None:
        """Act on a loss that is not finite; raises `NonFiniteError` if that ends the run."""
        self._act("loss", value, optimizer)

    def admits(self, norm: Tensor, optimizer: str | None) -> bool:
        """Look at the 0-dim norm of all gradients, and return whether the step may be taken.

        Raises `NonFiniteError` if it is not finite and that ends the run.
        """
        value = norm.item() if self._at_once else self._seldom(norm)
        if math.isfinite(value):
            return True
        self._act("gradients", value, optimizer)
        return not self.skips

    def _seldom(self, norm: Tensor) -> float:
        """Sum the norms on their device, and return the sum once in a while; zero otherwise."""
        self._norms = norm.detach().clone() if self._norms is None else self._norms.add_(norm)
        self._looked += 1
        if self._looked % self._look_every:
            return 0.0
        total, self._norms = self._norms, None
        return total.item()

    def _act(self, what: What, value: float, optimizer: str | None) -> None:
        if self._policy == "raise":
            raise NonFiniteError(value, what=what, epoch=self._progress.epoch, step=self._progress.step)
        self._found[what] += 1
        count = self._found[what]
        if count & (count - 1) == 0:
            self._bus.publish(NonFiniteFound(self._source, what, self._policy, count, optimizer))

    def state_dict(self) -> dict[str, Any]:
        """Return how often there was something."""
        return dict(self._found)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting."""
        self._found = {what: int(state[what]) for what in self._found}
