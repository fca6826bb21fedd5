"""`frameworm profile`: where the time of a training step goes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import chdir, nullcontext
from pathlib import Path

import click
import msgspec

from frameworm import app, config, logs, profiling
from frameworm.cli import options
from frameworm.cli.output import others_on_stderr
from frameworm.cli.project import root_having
from frameworm.cli.render import print_json, print_table
from frameworm.terminal import write_line


@click.command()
@options.config_file
@click.option("--steps", type=int, default=100, show_default=True, help="So many optimizer steps are timed.")
@click.option(
    "--trace", type=click.Path(path_type=Path), metavar="FILE", help="Write a trace of torch's profiler, too."
)
@options.model_name
@options.changes("data.num_workers=2")
@options.plugins
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def profile(
    *,
    file: Path,
    steps: int,
    trace: Path | None,
    model: str | None,
    settings: tuple[str, ...],
    named: tuple[str, ...],
    no_plugins: bool,
    as_json: bool,
) -> None:
    """Show where the time of a training step goes.

    Trains some steps of the config's job, with its listeners, and keeps nothing. On a GPU each phase waits for the one
    before, which makes a step slower than it is. The trace is of a few further steps.
    """
    overrides = options.overrides(settings, model__name=model)
    trace = trace and trace.absolute()
    root = root_having(file)  # to which all paths in the config are relative
    with logs.configure(), others_on_stderr(as_json), chdir(root) if root else nullcontext():
        checked = config.load(file, overrides)
        plugins = app.selected(checked, named=named, none=no_plugins)
        found = profiling.profile(checked, steps=steps, trace=trace, plugins=plugins)
    if as_json:
        print_json(msgspec.to_builtins(found) | {"steps_per_second": found.steps_per_second})
        return
    write_line(f"{found.steps} steps in {found.seconds:.2f} s on {found.device}: {found.steps_per_second:.1f} a second")
    write_line("")
    _print("phase", found.phases)
    if found.listeners:
        write_line("")
        _print("listener", found.listeners)
        write_line("what listeners in step take lies within the phases and the rest")
    if found.trace:
        write_line(
            f"{found.trace} has a trace of the next steps ({found.traced_steps}); https://ui.perfetto.dev opens it"
        )


def _print(title: str, parts: Sequence[profiling.Part]) -> None:
    rows = [(x.name, f"{x.seconds:.3f} s", f"{x.per_step_ms:.3f} ms", f"{x.share:.1%}", str(x.count)) for x in parts]
    print_table((title, "in all", "per step", "share", "times"), rows)
