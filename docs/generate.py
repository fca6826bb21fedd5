"""Writes the parts of `reference.md` that the program knows best: config keys, what ships, events, Python, commands.

Run it as `python -m docs.generate`; a test compares the page with what it would write.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner

import frameworm
from frameworm.cli import main
from frameworm.config.expectations import expectation
from frameworm.config.schema import DEFAULTS, SECTIONS, OptimizerConfig, keys_of
from frameworm.core import registries
from frameworm.core.builtins import BUILTINS

PAGE = Path(__file__).parent / "reference.md"
WIDTH = 78  # what click takes of a terminal's 80


def run(*arguments: str) -> str:
    """Return what `frameworm` prints, as on a terminal of 80 columns."""
    result = CliRunner().invoke(main, arguments, prog_name="frameworm", catch_exceptions=False, terminal_width=WIDTH)
    if result.exit_code:
        raise RuntimeError(f"frameworm {' '.join(arguments)}: exit status {result.exit_code}\n{result.output}")
    return result.stdout


def commands_of(command: click.Command, *path: str) -> Iterator[tuple[str, ...]]:
    """The words of a command and of all that are below it, in the order of its help."""
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None and not below.hidden:
                yield from commands_of(below, *path, name)


def commands() -> Iterator[str]:
    """Every command's help."""
    for path in commands_of(main):
        yield f"### {' '.join(['frameworm', *path])}\n\n```text\n{run(*path, '--help')}```\n"


def events() -> Iterator[str]:
    """Every event with its hook."""
    yield "| event | hook | recorded | when |\n|---|---|---|---|"
    for event in json.loads(run("events", "list", "--json")):
        yield f"| `{event['event']}` | `{event['hook']}` | {event['recorded']} | {event['about']} |"


def keys() -> Iterator[str]:
    """Every key of the config that is not a dataset's, a model's or another part's own."""
    yield "| key | default | what it may be |\n|---|---|---|"
    for section, kind in SECTIONS.items():
        for name, key in keys_of(kind).items():
            defaults = DEFAULTS[section] or {}
            default = f"`{json.dumps(defaults[name])}`" if name in defaults else "required" if section == "data" else ""
            yield f"| `{section}.{name}` | {default} | {expectation(key.type)} |"
    for name, key in keys_of(OptimizerConfig).items():
        yield f"| `optimizers.<name>.{name}` | as for all | {expectation(key.type)} |"


def parts() -> Iterator[str]:
    """Every part that ships under a name, but for those of plugins, with its options and their defaults."""
    yield "| section | name | options | what it is |\n|---|---|---|---|"
    for kind, section in {"model": "model", "dataset": "data", "metric": "metrics", "callback": "callbacks"}.items():
        for name in BUILTINS[kind]:
            part = registries[kind].get(name)
            module = sys.modules[part.__module__]
            # A model takes the whole config; what it reads of that is beside it.
            options, described = (module.Options, module) if kind == "model" else (part, part)
            shown = ", ".join(map(_option, inspect.signature(options).parameters.values()))
            yield f"| `{section}` | `{name}` | {shown} | {_about(described)} |"


def python() -> Iterator[str]:
    """What `import frameworm` gives, then what a trainer has."""
    yield "| name | what it is |\n|---|---|"
    for name in frameworm.__all__:
        thing = getattr(frameworm, name)
        is_called = inspect.isfunction(thing) or thing is frameworm.Trainer
        yield f"| `{name}{_signature(thing) if is_called else ''}` | {_about(thing)} |"
    yield "\n| a trainer's | what it is |\n|---|---|"
    for name, member in vars(frameworm.Trainer).items():
        if not name.startswith("_"):
            yield f"| `{name}{_signature(member) if inspect.isfunction(member) else ''}` | {_about(member)} |"


def _option(option: inspect.Parameter) -> str:
    if option.default is option.empty:
        return f"`{option.name}` (required)"
    return f"`{option.name}: {json.dumps(option.default)}`"


def _signature(function: Callable[..., Any]) -> str:
    """The parameters without their types, and without `self`."""
    signature = inspect.signature(function)
    plain = [one.replace(annotation=one.empty) for name, one in signature.parameters.items() if name != "self"]
    return str(inspect.Signature(plain))


def _about(thing: object) -> str:
    """The first paragraph of what it says of itself, to stand in a table."""
    first, _, _ = (inspect.getdoc(thing) or "").partition("\n\n")
    return " ".join(first.split()).replace("|", "\\|")


def page(text: str) -> str:
    """Return the page with what stands between the marks written anew."""
    for name, part in {"commands": commands, "events": events, "keys": keys, "parts": parts, "python": python}.items():
        body = "\n".join(part()).strip()
        mark = re.compile(rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text = mark.sub(lambda found, body=body: f"{found[1]}\n{body}\n\n{found[2]}", text)  # type: ignore[misc]
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
