"""The registries by which plugins add models, metrics, datasets and more, and configs name them; torch stays out."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from frameworm.core.builtins import BUILTINS
from frameworm.core.create import create, options_of
from frameworm.core.registry import Entry, Registry

registries: Mapping[str, Registry] = MappingProxyType({kind: Registry(kind, table) for kind, table in BUILTINS.items()})
"""Every registry, by its kind."""

register_model, get_model = registries["model"].register, registries["model"].get
register_metric, get_metric = registries["metric"].register, registries["metric"].get
register_dataset, get_dataset = registries["dataset"].register, registries["dataset"].get
register_optimizer, get_optimizer = registries["optimizer"].register, registries["optimizer"].get
register_scheduler, get_scheduler = registries["scheduler"].register, registries["scheduler"].get
register_callback, get_callback = registries["callback"].register, registries["callback"].get
register_exporter, get_exporter = registries["exporter"].register, registries["exporter"].get

__all__ = [
    "Entry",
    "Registry",
    "create",
    "get_callback",
    "get_dataset",
    "get_exporter",
    "get_metric",
    "get_model",
    "get_optimizer",
    "get_scheduler",
    "options_of",
    "register_callback",
    "register_dataset",
    "register_exporter",
    "register_metric",
    "register_model",
    "register_optimizer",
    "register_scheduler",
    "registries",
]
