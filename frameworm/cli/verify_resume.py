"""`frameworm verify-resume`: whether a job that is killed and resumed ends as one that is not."""

from __future__ import annotations

from contextlib import chdir, nullcontext
from pathlib import Path

import click
import msgspec

from frameworm import logs, verifying
from frameworm.cli import options
from frameworm.cli.output import others_on_stderr
from frameworm.cli.project import root_having
from frameworm.cli.render import print_json, print_table
from frameworm.terminal import write_line


@click.command("verify-resume")
@options.config_file
@click.option("--at", "steps", type=int, multiple=True, metavar="STEP", help="Kill it behind this step (repeatable).")
@options.model_name
@options.changes("trainer.epochs=2")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def verify_resume(
    ctx: click.Context,
    *,
    file: Path,
    steps: tuple[int, ...],
    model: str | None,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Kill and resume a job, and compare the final weights.

    They should be those of the job without interruption, byte by byte. The job runs whole once, and once for each STEP;
    the runs are kept where the weights are not equal. Listeners in a process of their own are not served. The exit code
    is 0 only if all is equal.
    """
    overrides = options.overrides(settings, model__name=model)
    root = root_having(file)  # to which all paths in the config are relative
    with logs.configure(), others_on_stderr(as_json), chdir(root) if root else nullcontext():
        found = verifying.verify_resume(file, overrides, at=steps)
    if as_json:
        print_json(msgspec.to_builtins(found) | {"equal": found.equal})
    else:
        rows = [
            (str(one.step), "equal" if one.equal else "NOT EQUAL", ", ".join(one.differing[:3]), f"{one.largest:.3g}")
            for one in found.verdicts
        ]
        print_table(("killed behind step", "final weights", "that differ", "at most by"), rows)
        for one in found.verdicts:
            if one.reason:
                write_line(f"step {one.step}: {one.reason}")
        if found.kept:
            write_line(f"the runs are kept in {found.kept}")
    ctx.exit(0 if found.equal else 1)
