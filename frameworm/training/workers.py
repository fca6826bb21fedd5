"""Workers of a DataLoader that outlive a signal which was meant for their run, so that it ends in good order."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from torch import multiprocessing
from torch.utils.data import DataLoader

_LOOK = 1.0  # seconds between two looks whether the run is still there
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Shelter:
    """Initializes workers as `init` does; while a run lasts they do not take its signals for themselves.

    A terminal's Ctrl-C and the signals of batch systems reach every process of a run. torch's workers would be gone at
    once, and the loop, which wants to finish its step, would fail in the middle of it for that. A worker that is not
    needed any more hears of it from its loader.
    """

    def __init__(self, init: Callable[[int], object] | None, context: Any) -> None:
        self._init = init
        context = context or multiprocessing
        self._over = context.Event()
        self._over.set()
        self._parent = None if context.get_start_method() == "forkserver" else os.getpid()

    def __call__(self, worker_id: int) -> None:
        """Initialize the worker, in its process."""
        if self._parent is not None:
            threading.Thread(target=self._watch, daemon=True).start()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._terminated)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        if self._init is not None:
            self._init(worker_id)

    def _watch(self) -> None:
        """End the worker when its run has been killed.

        torch looks for a change of the parent, too, but not for one that came while the worker was starting: such a
        worker would stay for ever, and keep what the run had open.
        """
        while os.getppid() == self._parent:
            time.sleep(_LOOK)
        os._exit(1)

    def _terminated(self, number: int, _frame: FrameType | None) -> None:
        if self._over.is_set():
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    @contextmanager
    def lasting(self) -> Iterator[None]:
        """Shelter the workers while this lasts."""
        self._over.clear()
        try:
            yield
        finally:
            self._over.set()


def shelter_of(data: Any) -> Shelter | None:
    """Return the shelter of the workers that `data` will start, if it is a DataLoader with some."""
    if not isinstance(data, DataLoader) or not data.num_workers:
        return None
    if not isinstance(data.worker_init_fn, Shelter):
        data.worker_init_fn = Shelter(data.worker_init_fn, data.multiprocessing_context)
    return data.worker_init_fn


@contextmanager
def signals_held() -> Iterator[None]:
    """Hold back signals inside: a worker that starts lets them through when it is sheltered, and not before."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
