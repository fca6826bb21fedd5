"""Options of the commands that take a config, and what they change in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

C = TypeVar("C", bound=Callable[..., Any])

config_file = click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    default="config.yaml",
    show_default=True,
    help="The config file.",
)
"""`--config`, which is the parameter `file`."""

model_name = click.option("--model", metavar="NAME", help="Train this model, whatever the config says.")
"""`--model`."""


def changes(example: str) -> Callable[[C], C]:
    """Return the option `--set`, which is the parameter `settings`; `example` is one that makes sense here."""
    return click.option(
        "--set", "settings", metavar="KEY=VALUE", multiple=True, help=f"Change a value: --set {example}."
    )


def plugins(command: C) -> C:
    """`--plugin` and `--no-plugins`, which are the parameters `named` and `no_plugins`."""
    none = click.option("--no-plugins", is_flag=True, help="Load no plugins but those of --plugin.")
    named = click.option(
        "--plugin", "named", metavar="NAME", multiple=True, help="Load this plugin, or end (repeatable)."
    )
    return named(none(command))


def overrides(settings: Sequence[str], **given: object) -> list[str]:
    """Return the changes that a command's options make; `given` are keys, with `__` for the dot, None changes nothing.

    They come behind the `settings`, and win.
    """
    return [
        *settings,
        *(f"{key.replace('__', '.')}={json.dumps(value)}" for key, value in given.items() if value is not None),
    ]
