"""From a file, a text or a mapping to a checked `Config`: everything that is wrong is found before anything is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from frameworm.config.check import Check
from frameworm.config.document import Document, Places, read_file, read_mapping, read_text, write_text
from frameworm.config.expectations import show
from frameworm.config.overrides import override
from frameworm.config.schema import (
    DEFAULTS,
    SECTIONS,
    CheckpointConfig,
    Config,
    DataConfig,
    JournalConfig,
    Named,
    OptimizerConfig,
    PluginsConfig,
    RunConfig,
    TrainerConfig,
    keys_of,
)
from frameworm.config.secrets import redact as redacted
from frameworm.config.section import Section
from frameworm.errors import ConfigError

S = TypeVar("S", bound=msgspec.Struct)


def load(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read and check the config file at `path`; `overrides` ("trainer.epochs=3") win over it, it over the defaults.

    Raises ConfigError with all findings at once, each with its line or its override.
    """
    return _config(read_file(path), overrides)


def parse(source: Mapping[str, Any] | str, overrides: Sequence[str] = (), *, name: str = "the config") -> Config:
    """Check a config given as a mapping or as YAML; errors call it `name`. Otherwise like `load`."""
    return _config(read_text(source, name) if isinstance(source, str) else read_mapping(source, name), overrides)


def read(path: Path) -> dict[str, Any]:
    """The mapping in the YAML file at `path` as it is written: not checked, no defaults, references unresolved.

    For looking at the config of a run whose environment is gone. Raises ConfigError when there is no such mapping.
    """
    document = read_file(path)
    if document.findings:
        raise ConfigError.of(document.findings, document.places.source)
    return _mapping(document)


def dump(config: Config, *, redact: bool = True) -> str:
    """YAML that `load` reads back to an equal config, but for secrets, which read `***` unless `redact` is off."""
    return write_text(redacted(config.stored) if redact else config.stored.to_dict())


def resolve(options: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the options with their references to the environment replaced; `source` is what errors call them.

    Raises ConfigError for variables that are not set.
    """
    findings: list[ConfigError] = []
    resolved: dict[str, Any] = Check(Places(source), findings).resolved(dict(options), ())
    if findings:
        raise ConfigError.of(findings, source)
    return resolved


def _mapping(document: Document) -> dict[str, Any]:
    source = document.places.source
    if document.value is None:
        raise ConfigError("the config is empty", where=source, hint="`frameworm init` writes a config.yaml that trains")
    if not isinstance(document.value, dict):
        got = show(document.value)
        raise ConfigError(
            "the config has no sections", where=source, expected="a mapping, such as `data: ...`", got=got
        )
    return document.value


def _config(document: Document, overrides: Sequence[str]) -> Config:
    given, places = _mapping(document), document.places
    findings = list(document.findings)
    for text in overrides:
        try:
            override(given, places, text)
        except ConfigError as error:
            findings.append(error)
    check = Check(places, findings)
    check.names(given)
    stored = _filled(given)
    tree = check.resolved(stored, ())
    check.sections(tree, has_data=given.get("data") is not None)
    if findings:
        raise ConfigError.of(findings, places.source)
    return _made(tree, stored, places)


def _filled(given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` with the defaults behind it; a section that names something itself gets none of the default's options."""
    filled = {}
    for section, default in DEFAULTS.items():
        value = given.get(section)
        if value is None:
            filled[section] = default
        elif isinstance(value, dict) and isinstance(default, dict):
            own = SECTIONS.get(section) is Named and "name" in value
            filled[section] = value if own else {**value, **default, **value}  # in the order it was written
            if section == "plugins":  # `my-plugin:` alone names it, without options
                filled[section] = {key: {} if item is None else item for key, item in filled[section].items()}
        elif section == "callbacks" and isinstance(value, list):
            filled[section] = [_callback(entry) for entry in value]
        else:
            filled[section] = value
    return filled


def _callback(entry: Any) -> Any:
    """`early_stopping` and `{early_stopping: null}` in their long form, `{early_stopping: {}}`."""
    if isinstance(entry, str):
        return {entry: {}}
    if isinstance(entry, dict) and len(entry) == 1:
        return {name: {} if options is None else options for name, options in entry.items()}
    return entry


def _made(tree: Mapping[str, Any], stored: Mapping[str, Any], places: Places) -> Config:
    return Config(
        run=_struct(RunConfig, tree["run"]),
        model=_struct(Named, tree["model"]),
        data=_struct(DataConfig, tree["data"]),
        optimizer=_struct(Named, tree["optimizer"]),
        optimizers={name: _optimizer(section) for name, section in tree["optimizers"].items()},
        scheduler=None if tree["scheduler"] is None else _struct(Named, tree["scheduler"]),
        trainer=_struct(TrainerConfig, tree["trainer"]),
        metrics=tuple(tree["metrics"]),
        callbacks=tuple(Named(name, options) for entry in tree["callbacks"] for name, options in entry.items()),
        plugins=_struct(PluginsConfig, tree["plugins"]),
        journal=_struct(JournalConfig, tree["journal"]),
        checkpoint=_struct(CheckpointConfig, tree["checkpoint"]),
        tree=Section(tree),
        stored=Section(stored),
        places=places,
    )


def _optimizer(section: Mapping[str, Any]) -> OptimizerConfig:
    given = dict(section)
    scheduler = given.pop("scheduler", None)
    made = _struct(OptimizerConfig, given)
    return msgspec.structs.replace(made, scheduler=None if scheduler is None else _struct(Named, scheduler))


def _struct(kind: type[S], section: Mapping[str, Any]) -> S:
    keys = keys_of(kind)
    fields: dict[str, Any] = {key: value for key, value in section.items() if key in keys}
    if "options" in kind.__struct_fields__:
        fields["options"] = {key: value for key, value in section.items() if key not in keys}
    return msgspec.convert(fields, kind)
