"""A service that trains: it starts and stops runs, and streams their events to whoever listens.

    pip install 'frameworm[serve]'
    uvicorn service:app --port 8000

    curl -X POST localhost:8000/runs -d '{"trainer": {"epochs": 3}}'
    curl -N localhost:8000/runs/1/events?after=0
    curl -X POST localhost:8000/runs/1/save
    curl -X POST localhost:8000/runs/1/validate
    curl -X POST localhost:8000/runs/1/stop

The events are server-sent events, which a browser reads with `new EventSource("/runs/1/events")`: `event` is the name
of the event, `data` its fields as JSON, `id` the number of its record. What comes behind `?after=` such a number, or
behind the one that a client had last when it comes back, is taken from the run's record. Nobody who listens can slow
the training down: a client that does not read gets a `lagged` event in the place of what it has missed, and one that
leaves is forgotten.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

import frameworm
from bus import ClosedError, Event, EventBus, Lagged, default_bus, record_fields
from bus.beside import beside
from frameworm import config
from frameworm.delivery.replay import events as recorded
from frameworm.errors import UserError
from frameworm.training.trainer import Trainer

DEFAULTS: Mapping[str, Any] = {
    "run": {"name": "service"},
    "data": {"name": "digits"},
    "model": {"name": "mlp", "inputs": 64, "outputs": 10},
    "metrics": ["accuracy"],
}


class Run:
    """A training that runs beside the event loop."""

    def __init__(self, number: int, settings: Mapping[str, Any]) -> None:
        self.number = number
        self.config = config.parse({**DEFAULTS, **settings})
        self.bus = EventBus(default_bus)
        self.trainer: Trainer | None = None
        self.directory: Path | None = None
        self.status = "starting"
        self.error: str | None = None
        self._stopped: str | None = None
        self.task = asyncio.create_task(beside(self._train, stop=lambda: self.stop("the service ends")))

    def stop(self, reason: str, by: str = "the service") -> None:
        """End the training after its current step."""
        self._stopped = reason
        if self.trainer is not None:
            self.trainer.stop(reason, by=by)

    def facts(self) -> dict[str, Any]:
        """What there is to say of it."""
        trainer = self.trainer
        progress = {} if trainer is None else {"epoch": trainer.epoch, "step": trainer.step, "metrics": trainer.metrics}
        place = str(self.directory or "")
        return {"run": self.number, "status": self.status, "error": self.error, "directory": place, **progress}

    def _train(self) -> None:
        """Train from beginning to end; on a thread of its own. What goes wrong is told to whoever asks for the run."""
        try:
            with self.bus, frameworm.session(self.config, bus=self.bus) as trainer:
                self.trainer, self.directory, self.status = trainer, trainer.run_dir, "running"
                if self._stopped:
                    trainer.stop(self._stopped, by="the service")
                self.status = trainer.fit().status
        except Exception as error:
            self.status, self.error = "failed", str(error)


class Runs:
    """Every run since the service began, by its number."""

    def __init__(self) -> None:
        self._runs: dict[int, Run] = {}
        self._numbers = itertools.count(1)

    def start(self, settings: Mapping[str, Any]) -> Run:
        """Begin a run; raises `UserError` for a config that cannot be trained."""
        number = next(self._numbers)
        run = self._runs[number] = Run(number, settings)
        return run

    def get(self, request: Request) -> Run:
        """Return the run that a request is about."""
        try:
            return self._runs[int(request.path_params["number"])]
        except (KeyError, ValueError):
            raise HTTPException(404, "there is no such run") from None

    def all(self) -> list[Run]:
        """Return all of them, the oldest first."""
        return list(self._runs.values())

    async def close(self) -> None:
        """End them all, each with a checkpoint."""
        for run in self._runs.values():
            run.task.cancel()
        await asyncio.gather(*(run.task for run in self._runs.values()), return_exceptions=True)


async def start(request: Request) -> JSONResponse:
    """Begin a run; the body is a config in JSON, or parts of one."""
    try:
        settings = json.loads(await request.body() or "{}")
    except ValueError as error:
        raise HTTPException(400, f"the body is no JSON: {error}") from error
    if not isinstance(settings, dict):
        raise HTTPException(400, "expected a config, an object with sections such as trainer")
    try:
        run = request.app.state.runs.start(settings)
    except UserError as error:
        raise HTTPException(400, str(error)) from error
    return JSONResponse(run.facts(), status_code=201)


async def show(request: Request) -> JSONResponse:
    """Tell of one run."""
    return JSONResponse(request.app.state.runs.get(request).facts())


async def show_all(request: Request) -> JSONResponse:
    """Tell of every run."""
    return JSONResponse([run.facts() for run in request.app.state.runs.all()])


async def control(request: Request) -> JSONResponse:
    """Have a run stop, save or validate after its current step; its record says from where that was asked."""
    run, verb = request.app.state.runs.get(request), request.path_params["verb"]
    by = request.client.host if request.client else "the service"
    if verb == "stop":
        run.stop("asked through the service", by)
    elif run.trainer is None:
        raise HTTPException(409, f"the run is {run.status}")
    elif verb == "save":
        run.trainer.save_now("asked through the service", by=by)
    elif verb == "validate":
        run.trainer.validate_now("asked through the service", by=by)
    else:
        raise HTTPException(404, "a run can be asked to stop, save or validate")
    return JSONResponse(run.facts(), status_code=202)


async def follow(request: Request) -> StreamingResponse:
    """Stream a run's events, behind the one that the client had last."""
    run = request.app.state.runs.get(request)
    last = request.headers.get("last-event-id") or request.query_params.get("after", "")
    after = int(last) if last.isdecimal() else None
    return StreamingResponse(_stream(run, after), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


async def _stream(run: Run, after: int | None) -> AsyncIterator[str]:
    try:
        live = run.bus.stream(from_seq=None if run.bus.history is None else after)  # no record yet: nothing is missed
    except ClosedError:  # the run is over: what it recorded is all there is
        if run.directory is not None:
            for event in await asyncio.to_thread(list, recorded(run.directory, after or 0)):
                yield _sent(event)
        return
    async with live:
        async for found in live:
            yield _sent(found)


def _sent(event: Event | Lagged) -> str:
    """Return an event in the form of the HTML standard (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""
    if isinstance(event, Lagged):
        return f"event: lagged\ndata: {event.missed}\n\n"
    fields = {field.name: getattr(event, field.name) for field in record_fields(type(event))}
    seq = getattr(event.source, "seq", 0)
    number = f"id: {seq}\n" if seq else ""
    return f"{number}event: {event.name}\ndata: {msgspec.json.encode(fields, enc_hook=str).decode()}\n\n"


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Have the runs end with the service."""
    app.state.runs = Runs()
    try:
        yield
    finally:
        await app.state.runs.close()


app = Starlette(
    routes=[
        Route("/runs", start, methods=["POST"]),
        Route("/runs", show_all),
        Route("/runs/{number}", show),
        Route("/runs/{number}/{verb}", control, methods=["POST"]),
        Route("/runs/{number}/events", follow),
    ],
    lifespan=lifespan,
)
