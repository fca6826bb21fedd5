"""How far a run is, and what was asked of it: the two things that the loop and its surroundings share."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec

from bus import Event

Verb = Literal["stop", "interrupt", "finish", "save", "validate", "skip", "publish", "settle", "fail"]


class Progress:
    """How far a run is; changed by the loop alone, before the event that announces the change."""

    __slots__ = ("batches", "completed", "epoch", "step", "validated")

    def __init__(self) -> None:
        self.epoch = 0
        """The epoch that runs or ran last, from 0."""
        self.completed = 0
        """How many epochs are complete."""
        self.batches = 0
        """The batches of the epoch after those, whose gradients went into a step."""
        self.step = 0
        """Optimizer steps since the run began."""
        self.validated = 0
        """The step after which it was validated last, by itself."""

    def state_dict(self) -> dict[str, int]:
        """Return what `load_state_dict` needs to go on."""
        return {name: getattr(self, name) for name in self.__slots__}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from a saved state."""
        for name in self.__slots__:
            setattr(self, name, int(state[name]))


class Request(msgspec.Struct, frozen=True):
    """Something that was asked of the loop, which serves it between optimizer steps."""

    verb: Verb
    reason: str
    by: str = ""
    """Who asked; nobody did for what the options say."""
    event: Event | None = None
    """Of `publish`, what happened on another thread, to be told on the training's own."""

    @property
    def ends(self) -> bool:
        """Whether it ends the run."""
        return self.verb in ("stop", "interrupt", "finish")


class Requests:
    """The requests that wait to be served; anybody may file one, from any thread."""

    def __init__(self) -> None:
        self.waiting: deque[Request] = deque()
        """What nobody has served yet; appending and popping are atomic."""
        self.skips: deque[Request] = deque()
        """Batches to be left out, which wait for a batch, not for a step."""

    def file(self, verb: Verb, reason: str, *, by: str = "", event: Event | None = None) -> None:
        """Ask for something."""
        (self.skips if verb == "skip" else self.waiting).append(Request(verb, reason, by, event))

    def take(self) -> list[Request]:
        """Return what was asked for, in order, and forget it."""
        return [self.waiting.popleft() for _ in range(len(self.waiting))]

    def forget(self) -> None:
        """Forget what was asked for too late."""
        self.waiting.clear()
        self.skips.clear()

    def end_is_asked(self) -> bool:
        """Whether one of them ends the run."""
        return any(request.ends for request in tuple(self.waiting))

    # For several processes, which agree on what was asked for: see `agreeing`

    def passing(self, between: Iterator[None]) -> Iterator[None]:
        """Return the moments between two steps, at each of which the processes may meet."""
        return between

    def abandons(self) -> bool:
        """Whether a validation is to be left at this moment, since an end was asked for."""
        return self.end_is_asked()

    def meet(self) -> None:
        """Agree on what was asked for until this moment, which comes in all processes."""
