"""The command line: it parses and prints. A command is imported when it is called, so that `--help` costs nothing."""

from __future__ import annotations

import sys
from importlib import import_module

import click

COMMANDS = {
    "init": "Write a commented config that trains on real data.",
    "train": "Train a model.",
    "evaluate": "Judge a trained model on the validation data.",
    "predict": "Write what a trained model makes of the samples in a file.",
    "export": "Write a trained model in other formats, each proven to agree with it.",
    "profile": "Show where the time of a training step goes.",
    "verify-resume": "Kill and resume a job, and compare the final weights.",
    "runs": "List, show, compare, plot and prune runs.",
    "checkpoints": "List and verify a run's checkpoints.",
    "relay": "Deliver the rest of a run to its process-lane listeners.",
    "events": "Show what a run publishes and records.",
    "plugins": "Create, load, list and check plugins.",
}
"""Each is `frameworm.cli.<name>:<name>`, `_` for `-`; its help is repeated here, where nothing need be imported."""

BROKEN_PIPE = 141  # what a shell reports for a program that SIGPIPE ended
INTERRUPTED = 130


class Commands(click.Group):
    """The commands above, and the one place where what they raise becomes a message and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        """Return the names in the order of their use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  likewise
        """Import the command."""
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(import_module(f"{__name__}.{name}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  likewise
        """Write the help of the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; Ctrl-C, a reader that left and our own errors end it without a traceback."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            import_module("frameworm.terminal").abandon(sys.stdout)
            ctx.exit(BROKEN_PIPE)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            ctx.exit(import_module("frameworm.cli.failure").tell(error))


@click.group(
    cls=Commands,
    commands={name: click.Command(name) for name in COMMANDS},  # click looks here for what a misspelt name is near to
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with `frameworm init`, then `frameworm train --config config.yaml`.",
)
@click.version_option(package_name="frameworm", message="frameworm %(version)s")
def main() -> None:
    """Train PyTorch models; every step is an event that hooks and loggers can listen to."""
