"""What is wrong with a plugin, as far as its files tell: everything at once, with lines, and none of it is run."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Literal

import msgspec

from frameworm.core.builtins import BUILTINS
from frameworm.errors import FindingsError, HookError, UserError
from frameworm.plugins import requirements
from frameworm.plugins.binding import arguments_for, event_of
from frameworm.plugins.discovery import Candidate
from frameworm.plugins.entry import places
from frameworm.plugins.loading import check as check_installed
from frameworm.plugins.manifest import FILE
from frameworm.plugins.source import Function, Hook, Source, signature_of

Level = Literal["error", "warning"]


class Finding(msgspec.Struct, frozen=True):
    """Something about a plugin: an error keeps it from working, a warning does not; `where` is "file:line"."""

    level: Level
    message: str
    where: str
    hint: str | None = None


def check(candidate: Candidate) -> tuple[Finding, ...]:
    """Return all that can be found, by file and line."""
    findings = [*_manifest(candidate)]
    sources = []
    files: Sequence[Path] = ()
    with suppress(OSError):  # of a folder that cannot be read; discovery has found that
        files = _files(candidate.path)
    for file in files:
        try:
            sources.append(Source(file))
        except SyntaxError as error:
            findings.append(Finding("error", f"SyntaxError: {error.msg}", f"{file}:{error.lineno}"))
        except (OSError, ValueError) as error:
            findings.append(Finding("error", f"it cannot be read: {error}", str(file)))
    for source in sources:
        findings += [*_hooks(source, candidate), *_imports(source, candidate)]
    findings += _names(sources)
    if len(sources) == len(files) and candidate.problem is None:
        findings += [*_entry_point(sources, candidate), *_announced(sources, candidate)]
    return tuple(sorted(set(findings), key=_place))


def _manifest(candidate: Candidate) -> Iterator[Finding]:
    """What discovery and a comparison with what is installed find."""
    problem = candidate.problem
    if problem is not None:
        cause = problem.__cause__
        errors = (cause.findings or (cause,)) if isinstance(cause, FindingsError) else (problem,)
        yield from (_finding(error, candidate) for error in errors)
    else:
        try:
            check_installed(candidate)
        except UserError as error:
            yield _finding(error, candidate)
    for warning in candidate.warnings:
        where, _, message = warning.partition(": ")
        yield Finding("warning", message, where)


def _finding(error: UserError, candidate: Candidate) -> Finding:
    details = [f"expected {error.expected}" if error.expected else "", f"got {error.got}" if error.got else ""]
    said = error.message.splitlines()[0].removeprefix(f"plugin {candidate.name!r}: ")
    message = ", ".join(filter(None, (said, *details)))
    return Finding("error", message, error.where or str(candidate.path), error.hint)


def _files(path: Path) -> Sequence[Path]:
    if path.is_file():
        return [path]
    found = (
        file for file in path.rglob("*.py") if not any(part.startswith(".") for part in file.parts[len(path.parts) :])
    )
    return sorted(found)


def _hooks(source: Source, candidate: Candidate) -> Iterator[Finding]:
    """Hooks with a wrong name, or parameters that nothing fills."""
    for line in source.bare:
        message, hint = "@HookRegistry.on needs the name of a hook", '@HookRegistry.on("on_epoch_end")'
        yield Finding("error", message, f"{source.file}:{line}", hint)
    for hook in source.hooks:
        where = f"{source.file}:{hook.line}"
        try:
            _check_hook(hook, where)
        except HookError as error:
            # What another plugin publishes is not known here.
            unknown = error.message.startswith("unknown hook") and candidate.manifest.requires
            details = f", expected {error.expected}, got {error.got}" if error.got else ""
            yield Finding("warning" if unknown else "error", error.message + details, where, error.hint)


def _check_hook(hook: Hook, where: str) -> None:
    if hook.hook is None:
        return
    event_type = event_of(hook.hook, where)
    if isinstance(hook.function, Function):
        here = not type(hook.function).__name__.startswith("Async")
        signature = signature_of(hook.function, is_method=hook.is_method)
        arguments_for(signature, event_type, hook.name, where, here=here)


def _imports(source: Source, candidate: Candidate) -> Iterator[Finding]:
    """Imports of what the manifest's dependencies do not bring."""
    if not candidate.has_manifest or candidate.problem is not None:
        return
    known = {*sys.stdlib_module_names, "frameworm", "frameworm_plugins", "bus", "torch", "numpy", candidate.module}
    covered = requirements.names(candidate.manifest.dependencies)
    homes: dict[str, list[str]] | None = None
    for module, line in source.imports:
        top = module.partition(".")[0]
        if top in known or requirements.key(top) in covered:
            continue
        homes = dict(metadata.packages_distributions()) if homes is None else homes
        if not covered.intersection(map(requirements.key, homes.get(top, ()))):
            message = f"it imports {top}, which the manifest does not have under dependencies"
            yield Finding("warning", message, f"{source.file}:{line}")


def _names(sources: Sequence[Source]) -> Iterator[Finding]:
    """Names that are taken: by what ships, or by another object of the plugin's own."""
    first: dict[tuple[str, str], tuple[str, str]] = {}
    for source in sources:
        for entry in source.registrations:
            where = f"{source.file}:{entry.line}"
            if entry.name is None or entry.override:
                continue
            if entry.name in BUILTINS[entry.kind]:
                message = f"the {entry.kind} {entry.name!r} is there already; it ships with frameworm"
                yield Finding("error", message, where, "another name, or override=True to replace it")
            obj, place = first.setdefault((entry.kind, entry.name), (entry.obj, where))
            if obj != entry.obj:
                message = f"the {entry.kind} {entry.name!r} is registered twice, first at {place}"
                yield Finding("error", message, where, "another name")


def _entry_point(sources: Sequence[Source], candidate: Candidate) -> Iterator[Finding]:
    """An entry point that leads nowhere."""
    if any(source.at_import for source in sources):
        return
    tried = places(candidate.manifest.entry_point, candidate.module, candidate.keys)
    known = {_module(source.file, candidate): source for source in sources}
    for module, attribute in tried:
        source = known.get(module)
        if source is not None and (source.has_star or attribute.partition(".")[0] in source.defined):
            return
    where = str(candidate.path / FILE) if candidate.has_manifest else str(candidate.path)
    message = f"there is no {candidate.manifest.entry_point!r}, looked for at {', '.join(map(str, tried))}"
    yield Finding("error", message, where, f"def {tried[-1].attribute}(): ... in __init__.py")


def _module(file: Path, candidate: Candidate) -> str:
    if file == candidate.path:
        return candidate.module
    parts = file.relative_to(candidate.path).with_suffix("").parts
    return ".".join([candidate.module, *(parts[:-1] if parts[-1] == "__init__" else parts)])


def _announced(sources: Sequence[Source], candidate: Candidate) -> Iterator[Finding]:
    """A manifest whose `hooks` are not what the code registers, where that is all written out."""
    declared = candidate.manifest.hooks
    hooks = [hook for source in sources for hook in source.hooks]
    registrations = [entry for source in sources for entry in source.registrations]
    if not declared or any(hook.hook is None for hook in hooks):
        return
    brought = {entry.kind for entry in registrations} | {str(hook.hook) for hook in hooks}
    if hooks:
        brought.add("callback")
    where = str(candidate.path / FILE)
    for word in declared:
        if word not in brought:
            yield Finding("warning", f"{word!r} is under hooks, but nothing of that kind is registered", where)
    free = [hook for hook in hooks if not hook.is_method]  # a callback's methods are its own affair
    for word in dict.fromkeys([*(entry.kind for entry in registrations), *(str(hook.hook) for hook in free)]):
        if word not in declared and not (word.startswith("on_") and "callback" in declared):
            yield Finding("warning", f"it registers {word}, which is not under hooks", where)


def _place(finding: Finding) -> tuple[str, int, str]:
    file, _, line = finding.where.rpartition(":")
    return (file, int(line), finding.message) if line.isdigit() else (finding.where, 0, finding.message)
