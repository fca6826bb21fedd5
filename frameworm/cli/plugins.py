"""`frameworm plugins`: make plugins, see which there are, and try them; looking at them runs none of their code."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any, get_args

import click
import msgspec

from frameworm import terminal
from frameworm.cli.failure import tell
from frameworm.cli.output import others_on_stderr
from frameworm.cli.render import print_json, print_table
from frameworm.errors import PluginError, UserError
from frameworm.plugins import manifest, scaffold, static
from frameworm.plugins.catalogue import Catalogue
from frameworm.plugins.discovery import Candidate
from frameworm.plugins.loader import Plugin, get_plugin_loader
from frameworm.plugins.names import key_of
from frameworm.plugins.project import PLUGINS, project_root
from frameworm.plugins.scaffold import Kind
from frameworm.terminal import counted, printable, write_line


def _path_or_name(_context: click.Context, _argument: click.Parameter, text: str | None) -> str | Path | None:
    """Take what looks like a path as one: a shell completes them, and inside a plugin's folder it is `.`."""
    if text is None or not (os.sep in text or text in (".", "..")):
        return text
    return Path(os.path.abspath(text))  # noqa: PTH100  "..", not links, are taken out: the link is the plugin's name


_named = click.argument("name", metavar="NAME|PATH", callback=_path_or_name)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
@click.pass_context
def plugins(ctx: click.Context) -> None:
    """Create, load, list and check plugins."""
    _check_here()
    ctx.with_resource(terminal.tolerant(sys.stdout))  # a terminal that has no "✓" is shown it escaped


@plugins.command()
@click.argument("name")
@click.option("--kind", type=click.Choice(get_args(Kind)), default="model", show_default=True, help="What it brings.")
@click.option("--package", is_flag=True, help="Make a package to publish, in the current folder.")
def create(name: str, *, kind: Kind, package: bool) -> None:
    """Write a plugin that loads as it is, to go on from."""
    here = Path.cwd()
    if package:
        files = scaffold.create_package(name, here, kind=kind)
        more = ["pip install -e '.[dev]'", "python -m pytest", f"frameworm plugins load {name}"]
    else:
        files = scaffold.create(name, project_root(here) or here, kind=kind)
        more = [f"frameworm plugins load {name}", f"frameworm train --config config.yaml {_use(name, kind)}"]
    for file in files:
        write_line(f"wrote {os.path.relpath(file)}")
    write_line("\ngo on with:")
    for command in [f"cd {shlex.quote(os.path.relpath(files[0].parent))}", *more]:
        write_line(f"  {command}")


@plugins.command("list")
@click.option("-v", "--verbose", is_flag=True, help="Say also where they are.")
@_as_json
def list_them(*, verbose: bool, as_json: bool) -> None:
    """List the plugins of the project, those that are installed and those that ship."""
    found = get_plugin_loader().list_plugins()
    if as_json:
        print_json([_plain(plugin) for plugin in found])
        return
    more = ("module", "path") if verbose else ()
    rows = [
        (
            plugin.name,
            plugin.version,
            plugin.source,
            _state(plugin),
            plugin.manifest.description,
            *((plugin.module, str(plugin.path)) if verbose else ()),
        )
        for plugin in found
    ]
    print_table(("name", "version", "source", "state", "description", *more), rows)
    for plugin in found:
        if plugin.reason is not None:
            write_line(f"\n{plugin.reason}")
        for warning in plugin.warnings if verbose else ():
            write_line(f"\nplugin {plugin.name!r}: {warning}")


@plugins.command()
@_named
@_as_json
def info(name: str | Path, *, as_json: bool) -> None:
    """Show what is known of a plugin."""
    plugin = get_plugin_loader().get(name)
    if as_json:
        print_json(_plain(plugin))
        return
    own = plugin.manifest
    facts = {
        "name": (plugin.name,),
        "version": (plugin.version,),
        "author": (own.author,),
        "description": own.description.splitlines(),
        "source": (plugin.source,),
        "state": (_state(plugin),),
        "reason": (plugin.reason or "").splitlines(),
        "path": (str(plugin.path),),
        "module": (plugin.module,),
        "entry point": (own.entry_point,),
        "hooks": own.hooks,
        "dependencies": own.dependencies,
        "requires": own.requires,
        "frameworm": (own.frameworm,),
        "dispatch": (own.dispatch or "",),
        "warnings": plugin.warnings,
    }
    width = max(map(len, facts))
    for fact, lines in facts.items():
        if any(lines):
            write_line(f"{fact:{width}}  " + ("\n" + " " * (width + 2)).join(lines))


@plugins.command()
@_named
@_as_json
@click.pass_context
def load(ctx: click.Context, name: str | Path, *, as_json: bool) -> None:
    """Load a plugin, to see that it can be; if it was left out of training, it no longer is."""
    loader = get_plugin_loader()
    failure, memory = None, loader.memory  # of the project that this is, wherever the plugin may go
    plugin = loader.get(name)
    with others_on_stderr(as_json):
        try:
            plugin = loader.load(name)
            memory.enable(plugin.key)
        except PluginError as error:
            failure, plugin = error, loader.get(plugin.path)
    for warning in plugin.warnings:
        _warn(f"{plugin.name}: {warning}")
    if as_json:
        print_json(_plain(plugin))
    elif failure is None:
        brought = ", ".join(plugin.registered) or "nothing is registered yet"
        write_line(f"loaded {plugin.name} {plugin.version}: {brought}")
    if failure is not None:
        tell(failure)
        ctx.exit(1)  # nothing is wrong with what was typed


@plugins.command()
@_named
def unload(name: str | Path) -> None:
    """Leave a plugin out of training, until it is loaded again."""
    loader = get_plugin_loader()
    plugin = loader.get(name)
    loader.unload(name)
    loader.memory.disable(plugin.key)
    if plugin.key not in loader.memory.disabled():
        _warn(f"{plugin.name} is loaded all the same, but with plugins: {{disable: [{plugin.name}]}} in the config")
        return
    for other in _dependents(plugin):
        _warn(f"{other.name} requires it, and cannot be loaded without it")
    write_line(f"{plugin.name} is left out from now on; `frameworm plugins load {plugin.name}` brings it back")


@plugins.command()
@click.argument("name", metavar="[NAME|PATH]", required=False, callback=_path_or_name)
@_as_json
@click.pass_context
def check(ctx: click.Context, name: str | Path | None, *, as_json: bool) -> None:
    """Check a plugin, or all of the project, without running it: manifest, dependencies, code."""
    candidates = _to_check(name)
    findings = [(candidate, finding) for candidate in candidates for finding in static.check(candidate)]
    wrong = sum(finding.level == "error" for _, finding in findings)
    if as_json:
        print_json(
            {
                "checked": [candidate.name for candidate in candidates],
                "findings": [{"plugin": found.name, **msgspec.to_builtins(finding)} for found, finding in findings],
            }
        )
    else:
        for candidate, finding in findings:
            where = finding.where.removeprefix(f"{Path.cwd()}{os.sep}")
            write_line(f"{where}: {finding.level}: {candidate.name}: {finding.message}")
            if finding.hint is not None:
                write_line(f"  try: {finding.hint}")
        counts = counted(wrong, "error"), counted(len(findings) - wrong, "warning")
        write_line(f"checked {counted(len(candidates), 'plugin')}: {', '.join(counts)}")
    ctx.exit(1 if wrong else 0)


@plugins.command()
@_as_json
def schema(*, as_json: bool) -> None:  # noqa: ARG001  taken, so that scripts may always say it
    """Print the JSON Schema of a plugin.yaml."""
    print_json(manifest.schema())


def _use(name: str, kind: Kind) -> str:
    """Return the options of `train` that use a new plugin."""
    label = key_of(name).replace("-", "_")
    return {
        "model": f"--model {label}",
        "callback": f"--set 'callbacks=[{label}]'",
        "metric": f"--set 'metrics=[{label}]'",
        "dataset": f"--set data.name={label}",
    }[kind]


def _to_check(name: str | Path | None) -> list[Candidate]:
    root = get_plugin_loader().root
    catalogue = Catalogue(root)
    if name is not None:
        return [catalogue.find(name)]
    if root is None:
        expected, hint = f"{PLUGINS}/, here or above", "frameworm plugins check NAME, or PATH"
        raise UserError("there is no project here", where=str(Path.cwd()), expected=expected, hint=hint)
    return [candidate for candidate in catalogue.candidates if candidate.source == "project"]


def _check_here() -> None:
    """Raise `UserError` where the current folder has been removed: nothing could be found from there."""
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise UserError("the current folder is not there any more", hint="cd to one that is") from error


def _dependents(plugin: Plugin) -> list[Candidate]:
    catalogue = Catalogue(get_plugin_loader().root)
    return [candidate for candidate in catalogue.candidates if plugin.key in catalogue.needs(candidate)]


def _state(plugin: Plugin) -> str:
    return plugin.state if plugin.has_manifest else f"{plugin.state}, no manifest"


def _plain(plugin: Plugin) -> Any:
    return msgspec.to_builtins(plugin, enc_hook=str)


def _warn(text: str) -> None:
    click.echo(printable(f"warning: {text}"), err=True)
