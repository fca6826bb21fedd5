"""The door to Weights & Biases: one run of theirs, opened, fed and finished."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any, Self

from frameworm.facts import RunView

STEP = "step"
"""The key of the run's global step, the axis of all metrics."""

EXITS = {"finished": 0, "stopped": 0, "interrupted": 130}  # all others: 1

# What theirs would find out is of the process that serves the listener, not of the one that trains.
SETTINGS = {
    "console": "off",
    "silent": True,
    "save_code": False,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "init_timeout": 20,  # seconds; who is not answered then tries again
    "x_transaction_log_flush_interval": 1.0,  # seconds of rows that are lost when the process is killed
}


class Remote:
    """An open run. Whatever raises, the next one may be opened: a service process that has died is forgotten."""

    def __init__(self, wandb: Any, run: Any) -> None:
        self._wandb = wandb
        self._run = run

    @classmethod
    def open(cls, view: RunView, options: Mapping[str, Any]) -> Self:
        """Begin a run under the id of ours, or go on with it; raises `ConnectionError` where there is no answer."""
        wandb = import_module("wandb")
        known = wandb.Settings.model_fields  # they grow with every version
        settings = wandb.Settings(**{name: value for name, value in SETTINGS.items() if name in known})
        try:
            run = wandb.init(
                id=view.run_id or None,
                resume="allow" if view.run_id else None,
                config=dict(view.config),
                reinit="create_new",  # whatever else runs in this process is none of ours
                settings=settings,
                **options,
            )
        except wandb.errors.AuthenticationError:
            raise
        except wandb.errors.CommError as error:
            raise ConnectionError(str(error)) from error
        run.define_metric(STEP, hidden=True)
        run.define_metric("*", step_metric=STEP)
        return cls(wandb, run)

    def log(self, row: Mapping[str, Any]) -> None:
        """Add a row to the history."""
        with _answered():
            self._run.log(dict(row))

    def settle(self) -> None:
        """Return when their service process has taken what was logged; raises `ConnectionError` when that is gone."""
        with _answered():
            _ = self._run.step  # it is asked, in line

    def finish(self, status: str, error: str | None) -> None:
        """End the run as it ended; returns when everything is uploaded."""
        with _answered():
            self._run.summary.update({"frameworm.status": status, **({"frameworm.error": error} if error else {})})
            self._run.finish(EXITS.get(status, 1))

    def abandon(self) -> None:
        """Forget a run that cannot be fed any more, and the service process with it."""
        with suppress(Exception):
            self._wandb.teardown()


@contextmanager
def _answered() -> Iterator[None]:
    """Raise `ConnectionError` for what is raised when their service process is gone."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.startswith("wandb.sdk.mailbox"):
            raise ConnectionError("wandb's own process is gone") from error
        raise
