"""The one door for all that is logged: our lines, other libraries', warnings and, as JSON, prints and tracebacks.

Every line is a standard `logging` record on its way and meets one formatter, so it looks the same whoever wrote it, and
a program that embeds FRAMEWORM without calling `configure` gets ordinary records for its own handlers.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import logging
import math
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, TextIO, cast

import structlog
from structlog.typing import EventDict

from frameworm import terminal

LogFormat = Literal["rich", "plain", "json"]
Position = Callable[[], tuple[int | None, int | None]]
"""Says where the run is: its epoch and its step, None where not known."""

_LEVELS = (
    {"": logging.WARNING, "bus": logging.INFO, "frameworm": logging.INFO, "frameworm_plugins": logging.INFO},
    {"": logging.INFO, "bus": logging.DEBUG, "frameworm": logging.DEBUG, "frameworm_plugins": logging.DEBUG},
    {"": logging.DEBUG},
)
_QUIET = {"": logging.WARNING}
_LONGEST_PRINT = 1 << 16  # characters kept of a printed line that does not end
_DEEPEST = 8  # containers within containers that a JSON line shows

_bound: list[tuple[str, Position]] = []  # the newest last


def configure(
    log_format: LogFormat = "rich", stream: TextIO | None = None, *, verbose: int = 0, quiet: bool = False
) -> contextlib.ExitStack:
    """Send all logging to `stream` (by default stderr, for json stdout) until the returned undo is closed.

    With json, uncaught exceptions are lines too, and stdout carries one JSON object a line and nothing else: prints
    become lines (`event` is "stdout"), and what other code writes to the descriptor of stdout goes to stderr.
    `verbose` 0 shows our news and everybody's warnings, 1 our details and everybody's news, 2 everything; if it is 0,
    `quiet` leaves the news out. Of several processes all but the first say in each line which they are.
    """
    levels = _QUIET if quiet and not verbose else _LEVELS[min(verbose, 2)]
    with contextlib.ExitStack() as steps:
        for standard in (sys.stdout, sys.stderr):
            steps.enter_context(terminal.tolerant(standard))
        if log_format == "json":
            handler = _Handler(steps.enter_context(terminal.private_stdout()) if stream is None else stream)
            handler.setFormatter(_formatter(_render_json))
            steps.enter_context(_excepthooks())
        else:
            handler = _Handler(stream)
            handler.setFormatter(_formatter(_text_renderer(colors=log_format == "rich" and _is_colorful(stream))))
        steps.enter_context(_installed(handler, {**levels, "stdout": logging.INFO}))
        steps.enter_context(_logged_warnings())
        if log_format == "json" and stream is None:
            steps.enter_context(_logged_prints())
        undo = steps.pop_all()
    atexit.register(undo.close)
    undo.callback(atexit.unregister, undo.close)
    return undo


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger that takes fields beside the text: `log.warning("disk is full", path=path)`."""
    logger = structlog.wrap_logger(
        logging.getLogger(name),
        wrapper_class=structlog.stdlib.BoundLogger,
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            _to_record,
        ],
    )
    return cast("structlog.stdlib.BoundLogger", logger)


def bind_run(run: str, position: Position) -> contextlib.ExitStack:
    """Put the run's id and where it is into every line until the returned undo is closed; each line asks `position`."""
    bound = (run, position)
    _bound.append(bound)
    undo = contextlib.ExitStack()
    undo.callback(_bound.remove, bound)
    return undo


# From a logger to a record


def _to_record(_logger: Any, _method: str, entry: EventDict) -> tuple[tuple[str], dict[str, Any]]:
    """Hand an entry to `logging`: its text as the message, its fields as one attribute that no other can clash with."""
    options = {name: entry.pop(name) for name in ("exc_info", "stack_info", "stacklevel") if name in entry}
    return (str(entry.pop("event")),), {**options, "extra": {"frameworm": entry}}


# From a record to a line


def _formatter(render: Callable[[Any, str, EventDict], str]) -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(processors=[structlog.stdlib.ExtraAdder(), _compose, render])


def _compose(_logger: Any, level: str, entry: EventDict) -> EventDict:
    """The line's fields in reading order; a field of the line itself wins over the run's position."""
    record: logging.LogRecord = entry.pop("_record")
    del entry["_from_structlog"]
    entry.update(entry.pop("frameworm", {}))
    head = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": level,
        "logger": record.name,
        "event": entry.pop("event"),
    }
    return {**head, **_which_we_are(), **_where_we_are(), **entry, **head}


def _which_we_are() -> dict[str, int]:
    rank = launched_as()
    return {"rank": rank} if rank else {}


def launched_as() -> int:
    """Return as which of several processes a launcher such as torchrun has started this one, from 0."""
    rank = os.environ.get("RANK", "0")
    return int(rank) if rank.isdecimal() else 0


def _where_we_are() -> dict[str, Any]:
    if not _bound:
        return {}
    run, position = _bound[-1]
    epoch, step = position()
    known = {"run": run or None, "epoch": epoch, "step": step}
    return {name: value for name, value in known.items() if value is not None}


def _render_json(_logger: Any, _level: str, entry: EventDict) -> str:
    _, error, trace = entry.pop("exc_info", None) or (None, None, None)
    if error is not None:
        entry["exception"] = {
            "type": f"{type(error).__module__}.{type(error).__qualname__}",
            "message": str(error),
            "traceback": "".join(traceback.format_exception(type(error), error, trace)),
        }
    return json.dumps(_plain(entry), allow_nan=False)  # ASCII only: no terminal and no pipe can fail on it


def _plain(value: Any, depth: int = 0) -> Any:
    """`value` as standard JSON has it; what JSON does not know becomes text, numbers that it does not know too."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else json.dumps(value)  # its name, as in a run's journal
        case Mapping() if depth < _DEEPEST:
            return {str(key): _plain(item, depth + 1) for key, item in value.items()}
        case list() | tuple() | set() | frozenset() if depth < _DEEPEST:
            return [_plain(item, depth + 1) for item in value]
        case _:
            return _foreign(value, depth)


def _foreign(value: Any, depth: int) -> Any:
    try:
        if getattr(value, "ndim", None) == 0:  # a number of numpy or torch
            return _plain(value.item(), depth + 1)
        return str(value)
    except Exception as error:
        return f"<{type(value).__qualname__}: {type(error).__name__} in its str()>"


def _text_renderer(*, colors: bool) -> Callable[[Any, str, EventDict], str]:
    console = structlog.dev.ConsoleRenderer(
        colors=colors, timestamp_key="time", sort_keys=False, exception_formatter=structlog.dev.plain_traceback
    )

    def render(logger: Any, level: str, entry: EventDict) -> str:
        exc_info = entry.pop("exc_info", None)
        safe = {name: terminal.printable(v) if isinstance(v, str) else _plain(v) for name, v in entry.items()}
        safe["time"] = safe["time"][11:19]
        if exc_info:
            safe["exception"] = terminal.printable("".join(traceback.format_exception(*exc_info)).rstrip("\n"))
        return console(logger, level, safe)

    return render


def _is_colorful(stream: TextIO | None) -> bool:
    return (sys.stderr if stream is None else stream).isatty() and not os.environ.get("NO_COLOR")


# What is installed, each with its undo


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to `stream`, or to whatever `sys.stderr` is when the line comes (a progress bar replaces it)."""

    def __init__(self, stream: TextIO | None) -> None:
        self._fixed = stream
        super().__init__(stream)

    @property
    def stream(self) -> TextIO:
        return sys.stderr if self._fixed is None else self._fixed

    @stream.setter
    def stream(self, stream: TextIO) -> None:
        """`StreamHandler` sets what it was made with, which is `_fixed`."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        if isinstance(sys.exception(), BrokenPipeError):
            terminal.abandon(self.stream)
        else:
            super().handleError(record)


@contextlib.contextmanager
def _installed(handler: logging.Handler, levels: Mapping[str, int]) -> Iterator[None]:
    """`handler` alone on the root logger, and the loggers' levels."""
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, [handler]
    before = {name: logging.getLogger(name).level for name in levels}
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    try:
        yield
    finally:
        root.handlers = handlers
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def _logged_warnings() -> Iterator[None]:
    log = get_logger("py.warnings")

    def show(  # noqa: PLR0917  the signature of `warnings.showwarning`
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if file is None:
            log.warning(str(message), category=category.__name__, where=f"{filename}:{lineno}")
        else:
            file.write(warnings.formatwarning(message, category, filename, lineno, line))

    before, warnings.showwarning = warnings.showwarning, show
    try:
        yield
    finally:
        warnings.showwarning = before


@contextlib.contextmanager
def _excepthooks() -> Iterator[None]:
    log = get_logger("frameworm")

    def uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        log.critical("uncaught exception", exc_info=(kind, error, trace))

    def uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
        thread = args.thread.name if args.thread else None
        if args.exc_type is not SystemExit:
            log.critical(
                "uncaught exception", thread=thread, exc_info=(args.exc_type, args.exc_value, args.exc_traceback)
            )

    before = sys.excepthook, threading.excepthook
    sys.excepthook, threading.excepthook = uncaught, uncaught_in_thread
    try:
        yield
    finally:
        sys.excepthook, threading.excepthook = before


@contextlib.contextmanager
def _logged_prints() -> Iterator[None]:
    printed = _Printed(terminal.descriptor(sys.stdout))
    with contextlib.redirect_stdout(printed):
        try:
            yield
        finally:
            printed.finish()


class _Printed(io.TextIOBase):
    """A stdout whose lines become log lines. What is not yet a whole line is kept by thread, so lines do not mix."""

    encoding = "utf-8"  # any text will do: what leaves is escaped JSON

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self._log = get_logger("stdout")
        self._partial: dict[int, str] = {}

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        """Where child processes may write, if there is such a place."""
        return super().fileno() if self._descriptor is None else self._descriptor

    def write(self, text: str, /) -> int:
        thread = threading.get_ident()
        *lines, rest = (self._partial.pop(thread, "") + text).split("\n")
        if len(rest) > _LONGEST_PRINT:
            lines.append(rest)
        elif rest:
            self._partial[thread] = rest
        for line in lines:
            self._log.info("stdout", text=line)
        return len(text)

    def finish(self) -> None:
        """Log what never ended in a line end."""
        while self._partial:
            self._log.info("stdout", text=self._partial.popitem()[1])
