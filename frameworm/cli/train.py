"""`frameworm train`: from a config file to a trained model, told as it happens."""

from __future__ import annotations

from contextlib import chdir, nullcontext
from pathlib import Path

import click

from bus import EventBus, default_bus
from frameworm import app, config, logs
from frameworm.cli import options
from frameworm.cli.project import root_having
from frameworm.cli.view import View, view_of
from frameworm.errors import FramewormError, UserError
from frameworm.listeners.summary import Summary
from frameworm.runs import RunDirectory
from frameworm.training.trainer import Trainer


@click.command()
@options.config_file
@options.model_name
@options.changes("optimizer.lr=1e-3")
@click.option("--resume", metavar="latest|PATH", help="Go on from the latest run, or from a run or a checkpoint.")
@click.option("--init-from", metavar="RUN|PATH", help="Begin with the weights of a run or a file, where they fit.")
@click.option("--epochs", type=int, help="Train for so many epochs.")
@options.plugins
@click.option("--dry-run", is_flag=True, help="Build everything, try one batch, write nothing.")
@click.option("--strict", is_flag=True, help="End the run when a listener fails.")
@click.option("--log-format", type=click.Choice(["rich", "plain", "json"]), default="rich", show_default=True)
@click.option("-v", "--verbose", count=True, help="Log more; -vv everything.")
@click.option("--debug", is_flag=True, help="Show the traceback of every error.")
@click.pass_context
def train(
    ctx: click.Context,
    *,
    file: Path,
    model: str | None,
    settings: tuple[str, ...],
    resume: str | None,
    init_from: str | None,
    epochs: int | None,
    named: tuple[str, ...],
    no_plugins: bool,
    dry_run: bool,
    strict: bool,
    log_format: logs.LogFormat,
    verbose: int,
    debug: bool,
) -> None:
    """Train a model."""
    if init_from is not None and Path(init_from).exists():
        init_from = str(Path(init_from).absolute())
    given = {"model__name": model, "run__init_from": init_from, "trainer__epochs": epochs}
    overrides = options.overrides(settings, **given)
    if resume is not None and Path(resume).exists():
        resume = str(Path(resume).absolute())
    root = root_having(file)  # to which all paths in the config are relative
    with (
        logs.configure(log_format, verbose=verbose, quiet=logs.launched_as() > 0),
        chdir(root) if root else nullcontext(),
    ):
        view = view_of(log_format, debug=debug)
        try:
            _require_one(resume, init_from)
            checked = config.load(file, overrides)
            plugins = app.selected(checked, named=named, none=no_plugins)
            if dry_run:
                view.dry_run(app.dry_run(checked, resume=resume, plugins=plugins))
                return
            bus = EventBus(default_bus, strict=strict)
            with app.session(checked, bus=bus, resume=resume, plugins=plugins) as trainer:
                code = _fit(trainer, view)
        except Exception as error:
            view.failure(error)
            code = UserError.exit_code if isinstance(error, FramewormError) else 1  # no run broke: the input did
        ctx.exit(code)


def _require_one(resume: str | None, init_from: str | None) -> None:
    if resume is not None and init_from is not None:
        raise UserError(
            "a run that goes on has its weights",
            expected="--resume or --init-from",
            got="both",
            hint="--init-from alone, to begin a new run",
        )


def _fit(trainer: Trainer, view: View) -> int:
    """Train, tell how it went, and return the exit code; Ctrl-C and `sys.exit` are passed on behind the summary."""
    earlier = RunDirectory.open(trainer.run_dir).history() if trainer.run_dir and trainer.attempt > 1 else None
    summary = Summary(earlier)
    summary.register(trainer.bus)
    if (listener := view.listener()) is not None:
        listener.register(trainer.bus)
    failure = None
    try:
        trainer.fit()
    except Exception as error:
        failure = error
    finally:
        if summary.report is not None:
            view.summary(summary.report)
    if failure is None:
        return 0
    view.failure(failure, trainer.run_dir)
    return 1
