"""`frameworm evaluate`: how good a trained model is on the validation data."""

from __future__ import annotations

from contextlib import chdir, nullcontext
from pathlib import Path
from typing import Literal

import click
import msgspec

from frameworm import app, config, logs, trained
from frameworm.cli import options
from frameworm.cli.output import others_on_stderr
from frameworm.cli.project import root_having
from frameworm.cli.render import metrics_text, print_json
from frameworm.terminal import write_line


@click.command()
@options.config_file
@click.option("--checkpoint", metavar="best|latest|PATH", default="best", show_default=True, help="Judge this one.")
@click.option("--run", metavar="RUN", help="It is this run's.  [default: the latest of the config's name]")
@click.option("--split", type=click.Choice(["val", "test"]), default="val", show_default=True, help="Judge it on this.")
@click.option("--model", metavar="NAME", help="It is this model's, whatever the config says.")
@options.changes("metrics=[accuracy]")
@options.plugins
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def evaluate(
    *,
    file: Path,
    checkpoint: str,
    run: str | None,
    split: Literal["val", "test"],
    model: str | None,
    settings: tuple[str, ...],
    named: tuple[str, ...],
    no_plugins: bool,
    as_json: bool,
) -> None:
    """Judge a trained model on the validation data.

    Or, with `--split test`, on the test part of a dataset that has one.
    """
    overrides = options.overrides(settings, model__name=model)
    checkpoint, run = _from_here(checkpoint), run and _from_here(run)
    root = root_having(file)  # to which all paths in the config are relative
    with logs.configure(), others_on_stderr(as_json), chdir(root) if root else nullcontext():
        checked = config.load(file, overrides)
        plugins = app.selected(checked, named=named, none=no_plugins)
        found = trained.evaluate(checked, checkpoint=checkpoint, run=run, split=split, plugins=plugins)
    if as_json:
        print_json(msgspec.to_builtins(found, enc_hook=str))
    else:
        write_line(f"{found.model}, epoch {found.epoch + 1}, step {found.step}: {found.checkpoint}")
        write_line(metrics_text(found.metrics))


def _from_here(text: str) -> str:
    """Return a path that is there so that it stays one in another folder; other text as it is."""
    return str(Path(text).absolute()) if text not in ("best", "latest") and Path(text).exists() else text
