"""Who asks something of the trainer, so that the record of what happened can say it."""

from __future__ import annotations

import sys
import threading
import traceback
from types import FrameType


def caller(depth: int) -> str:
    """Say whose code called, `depth` frames above the function that asks: 1 is whoever called that."""
    frame = sys._getframe(depth + 1)  # noqa: SLF001  documented, in spite of its name
    return _told(frame, frame.f_lineno)


def raised_by(error: BaseException) -> str:
    """Say whose code raised the error."""
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    return _told(frame, line)


def _told(frame: FrameType, line: int) -> str:
    """`module.function (file:line)`, and the thread if it is not the main one."""
    code, thread = frame.f_code, threading.current_thread()
    beside = "" if thread is threading.main_thread() else f", thread {thread.name}"
    return f"{frame.f_globals.get('__name__', '?')}.{code.co_qualname} ({code.co_filename}:{line}{beside})"
