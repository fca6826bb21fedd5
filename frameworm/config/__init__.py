"""The config: one YAML file, every key typed, checked at the door, all that is wrong said at once."""

from importlib.resources import files

from frameworm.config.loading import dump, load, parse, read, resolve
from frameworm.config.schema import (
    CheckpointConfig,
    Config,
    DataConfig,
    JournalConfig,
    Named,
    OptimizerConfig,
    PluginsConfig,
    RunConfig,
    TrainerConfig,
)
from frameworm.config.secrets import conceal, redact, redact_text
from frameworm.config.section import Section

__all__ = [
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "JournalConfig",
    "Named",
    "OptimizerConfig",
    "PluginsConfig",
    "RunConfig",
    "Section",
    "TrainerConfig",
    "conceal",
    "dump",
    "load",
    "parse",
    "read",
    "redact",
    "redact_text",
    "resolve",
    "template",
]


def template() -> str:
    """The commented config that `frameworm init` writes: it trains on the bundled digits."""
    return files("frameworm").joinpath("config_template.yaml").read_text("utf-8")
