"""What it costs to emit an event, against `blinker.Signal.send` with as many receivers.

Emitting is measured as the training loop does it, the event's construction included:

    if channel.active:
        channel.emit(BatchEnd(trainer, batch_idx, loss))

Blinker gets the same facts as keyword arguments. Its receivers are held strongly, which is its faster way.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import repeat
from typing import Any

import blinker

from benchmarks.paired import PAIRS, Block, Ratio, compare
from bus import EventBus
from frameworm.events import BatchEnd

EMISSIONS = 1000  # per block: a fraction of a millisecond at least, far above the clock's grain


def emission(listeners: int, *, emissions: int = EMISSIONS) -> Block:
    """Return a block that emits on a bus with so many typed listeners."""
    bus = EventBus()
    for _ in range(listeners):
        bus.subscribe(BatchEnd, _listener())
    channel = bus.channel(BatchEnd)
    trainer: Any = object()

    def block() -> None:
        for batch_idx in repeat(7, emissions):
            if channel.active:
                channel.emit(BatchEnd(trainer, batch_idx, 0.5))

    return block


@contextmanager
def posting(*, emissions: int = EMISSIONS) -> Iterator[Block]:
    """Provide a block that emits on a bus with one asynchronous listener, whose queue never gets full.

    The listener is busy with its first event all the time, so that what is measured is the publishing thread's part,
    and not the listener's, with which it shares the interpreter.
    """
    done = threading.Event()
    with EventBus() as bus:
        bus.subscribe(BatchEnd, lambda _event: done.wait(), dispatch="async", queue_size=1 << 40, timeout=None)
        channel = bus.channel(BatchEnd)
        trainer: Any = object()

        def block() -> None:
            for batch_idx in repeat(7, emissions):
                if channel.active:
                    channel.emit(BatchEnd(trainer, batch_idx, 0.5))

        yield block
    done.set()


def sending(receivers: int, *, emissions: int = EMISSIONS) -> Block:
    """Return a block that sends on a blinker signal with so many receivers."""
    signal = blinker.Signal()
    for _ in range(receivers):
        signal.connect(_receiver(), weak=False)
    trainer = object()

    def block() -> None:
        for batch_idx in repeat(7, emissions):
            signal.send(trainer, batch_idx=batch_idx, loss=0.5)

    return block


def against_blinker(listeners: int, *, pairs: int = PAIRS) -> Ratio:
    """Measure emitting to so many listeners against sending to as many receivers."""
    return compare(emission(listeners), sending(listeners), pairs=pairs)


def against_blinker_async(*, pairs: int = PAIRS) -> Ratio:
    """Measure emitting to one asynchronous listener against sending to one receiver, which is called meanwhile."""
    with posting() as block:
        return compare(block, sending(1), pairs=pairs)


def blinker_against_itself(receivers: int, *, pairs: int = PAIRS) -> Ratio:
    """Measure the noise of `against_blinker`."""
    return compare(sending(receivers), sending(receivers), pairs=pairs)


def _listener() -> Callable[[BatchEnd], None]:
    """Return a new function that does nothing: what is measured is the way to it."""

    def listener(event: BatchEnd) -> None: ...

    return listener


def _receiver() -> Callable[..., None]:
    """Return the same for blinker."""

    def receiver(sender: object, *, batch_idx: int, loss: float) -> None: ...

    return receiver
