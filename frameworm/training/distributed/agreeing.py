"""What is asked of one process, agreed on by all that train together, without a word said in a step."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from bus import Event
from frameworm.training.distributed.peers import Peers
from frameworm.training.distributed.world import World
from frameworm.training.progress import Request, Requests, Verb


class SharedRequests(Requests):
    """Requests of which each process of a `world` serves the same, at the same moment.

    What the options ask for (`by=""`) comes at the same moment in each of them by itself. What a listener, a thread or
    a signal asks for waits until all processes meet: after each epoch and each validation of its own; in between when
    the process rings. A batch to be left out is left out by all: one of the next, not the one that begins.
    """

    def __init__(self, world: World, peers: Peers) -> None:
        super().__init__()
        self._world = world
        self._peers = peers
        self._asked: deque[Request] = deque()
        self._moment = 0
        peers.begin()
        peers.next_moment = lambda: self._moment + 1
        peers.on_failure = lambda failure: self.waiting.append(Request("fail", str(failure)))

    def file(self, verb: Verb, reason: str, *, by: str = "", event: Event | None = None) -> None:
        """Ask for something, of all processes."""
        if verb == "publish" or (not by and verb != "settle"):
            super().file(verb, reason, by=by, event=event)
        else:
            self._asked.append(Request(verb, reason, by))
            self._peers.ring()

    def take(self) -> list[Request]:
        """Return what was agreed on; raises `RankError` when another process has failed."""
        if self._peers.failure is not None:
            raise self._peers.failure
        return super().take()

    def end_is_asked(self) -> bool:
        """Whether one that is agreed on ends the run, or another process has failed."""
        return super().end_is_asked() or self._peers.failure is not None

    def forget(self) -> None:
        """Forget what was asked for too late."""
        super().forget()
        self._asked.clear()

    def passing(self, between: Iterator[None]) -> Iterator[None]:
        """Return the moments between two steps, at each of which the processes may meet."""
        peers = self._peers
        for moment in between:
            self._moment += 1
            if peers.called:
                self._meet_if_it_is_time()
            yield moment

    def abandons(self) -> bool:
        """Whether a validation is to be left at this moment, which comes in all processes."""
        self._moment += 1
        if self._peers.called:
            self._meet_if_it_is_time()
        return self.end_is_asked()

    def meet(self) -> None:
        """Agree on what was asked for until this moment, which comes in all processes."""
        self._moment += 1
        self._exchange()
        if self._peers.called:
            self._meet_if_it_is_time()

    def _meet_if_it_is_time(self) -> None:
        if self._peers.meets_at(self._moment):
            self._exchange()

    def _exchange(self) -> None:
        """Put what any process was asked for where it is served; what several were asked for alike, once."""
        own = [self._asked.popleft() for _ in range(len(self._asked))]
        found: dict[tuple[str, str, str], Request] = {}
        for rank, asked in enumerate(self._world.gathered([(one.verb, one.reason, one.by) for one in own])):
            for verb, reason, by in asked:
                found.setdefault((verb, reason, by), Request(verb, reason, f"{by} (rank {rank})" if by else ""))
        for request in found.values():
            (self.skips if request.verb == "skip" else self.waiting).append(request)


def requests_of(world: World) -> Requests:
    """Return where things are asked of a process of this world."""
    return Requests() if world.peers is None else SharedRequests(world, world.peers)
