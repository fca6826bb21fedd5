"""Keeps a run's relay alive while the run trains, and waits for it at the end; nothing of it raises into training."""

from __future__ import annotations

import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

from frameworm.delivery.listener import ProcessListener, RelayOptions, RelayPlan, write_plan
from frameworm.delivery.relay import Outcome
from frameworm.delivery.status import log_file, pending, status
from frameworm.errors import UserError
from frameworm.plugins.selection import Selection

log = logging.getLogger("frameworm")

_NICENESS = 5
_ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
_MINUTE = 60.0
_TOLD_EVERY = 0.25  # seconds between two words on the progress

_ON_PURPOSE = frozenset({*Outcome, UserError.exit_code}) - {Outcome.CROWDED}
"""Exit codes of a relay that need no successor."""


class RelayProcess:
    """The relay of the run in `run_dir`, a process of its own that is started now, if there are listeners.

    - `plugins`: the run's, to be loaded in it, too.
    - `secrets`: variables of the environment to which the listeners' options refer.
    - `restarts`: how often a minute it is started anew when it dies; then that is said, and it is left dead.

    It outlives this process, and ends when the run has ended and all is delivered. Trouble is logged; nothing raises.
    """

    def __init__(
        self,
        run_dir: Path,
        listeners: Sequence[ProcessListener],
        *,
        plugins: Selection | None = None,
        secrets: Mapping[str, str] = MappingProxyType({}),
        options: RelayOptions | None = None,
        restarts: int = 3,
    ) -> None:
        self._run_dir = run_dir.absolute()
        self._folder = Path.cwd()
        self._restarts = restarts
        self._secrets = secrets
        self._started: deque[float] = deque()  # when, within the last minute
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = threading.Event()
        self._ended.set()
        self._code: int | None = None  # with which the relay has ended
        self._left = False
        self._mutex = threading.Lock()
        if listeners:
            plan = RelayPlan(tuple(listeners), plugins or Selection(), str(self._folder), options or RelayOptions())
            try:
                write_plan(self._run_dir, plan)
                log_file(self._run_dir).write_bytes(b"")
            except (OSError, TypeError) as error:
                log.error("nothing reaches the listeners of the process lane: %s cannot be written: %s", run_dir, error)  # noqa: TRY400  the text is all
            else:
                self._start()

    @property
    def pid(self) -> int | None:
        """The process's number while it lives, None else."""
        return self._process.pid if self._process is not None and not self._ended.is_set() else None

    def lag(self) -> int:
        """Return how many records the slowest listener has before it."""
        try:
            return pending(self._run_dir)
        except (OSError, UserError) as error:
            log.warning("how far the relay is cannot be told: %s", error)
            return 0

    def drain(
        self, timeout: float | Callable[[], float] | None = None, progress: Callable[[int], object] | None = None
    ) -> bool:
        """Wait until the relay has ended, up to `timeout` seconds; return whether all is delivered.

        It has ended as well when what is left cannot be delivered: a listener hangs or could not be made. `timeout` may
        also be a function that says how many seconds are left, and may come to say less; None waits as long as it
        takes. `progress` is called with the number of pending records, a few times a second. A relay that has ended
        although there is more, as there is behind a second `train_end`, is started once more.
        """
        left = _countdown(timeout) if timeout is None or isinstance(timeout, int | float) else timeout
        again = True
        while True:
            if self._ended.is_set():
                if not (again and self._has_more()):
                    return self.lag() == 0
                again = False
                self._start()
            seconds = min(_TOLD_EVERY, left())
            if seconds <= 0:
                return False
            if not self._ended.wait(seconds) and progress is not None:
                progress(self.lag())

    def leave(self) -> None:
        """Let it finish by itself: it is not started anew any more; again is no error."""
        self._left = True

    # Inside

    def _has_more(self) -> bool:
        """Whether something was recorded behind the end that the relay has come to."""
        if self._code not in (Outcome.DELIVERED, Outcome.UNDELIVERED):
            return False
        try:
            return any(report.state == "ok" and report.pending for report in status(self._run_dir))
        except (OSError, UserError):
            return False

    def _start(self, *, spare: bool = False) -> None:
        """Start it, and a thread that waits for its end."""
        try:
            self._process = self._spawn(["--spare"] if spare else [])
        except OSError as error:
            self._ended.set()
            log.error("the relay cannot be started: %s", error)  # noqa: TRY400  the text is all
            return
        self._started.append(time.monotonic())
        self._ended.clear()
        threading.Thread(target=self._guard, args=(self._process,), name="relay guard", daemon=True).start()

    def _spawn(self, more: list[str]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "frameworm", "relay", str(self._run_dir), "--wait", *more]
        environment = {**os.environ, **self._secrets, **_ENVIRONMENT}
        with log_file(self._run_dir).open("ab") as output:
            process = subprocess.Popen(  # noqa: S603  our own interpreter
                command,
                cwd=self._folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        with suppress(OSError):  # it may be gone already
            os.setpriority(os.PRIO_PROCESS, process.pid, _NICENESS)
        return process

    def _guard(self, process: subprocess.Popen[bytes]) -> None:
        code = self._code = process.wait()
        if self._left or code in _ON_PURPOSE:
            if code == UserError.exit_code:
                log.error("the relay refuses to work: see %s", log_file(self._run_dir))
            self._ended.set()
            return
        now = time.monotonic()
        while self._started and now - self._started[0] > _MINUTE:
            self._started.popleft()
        if len(self._started) > self._restarts:
            log.error(
                "the relay has died %d times within a minute (exit code %d) and stays dead: see %s; `frameworm relay "
                "%s` delivers the rest",
                len(self._started),
                code,
                log_file(self._run_dir),
                self._run_dir,
            )
            self._ended.set()
            return
        log.warning("the relay has ended with exit code %d: it is started again", code)
        self._start(spare=code == -signal.SIGKILL)


def _countdown(seconds: float | None) -> Callable[[], float]:
    """Return what says how many of these seconds are left."""
    if seconds is None:
        return lambda: math.inf
    deadline = time.monotonic() + seconds
    return lambda: deadline - time.monotonic()
