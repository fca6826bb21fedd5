"""The sections of a config, typed, with their defaults and bounds; what they say here is all that the loader checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import FieldInfo, fields

from frameworm.config.document import Places
from frameworm.config.secrets import redact
from frameworm.config.section import Section

Count = Annotated[int, Meta(ge=1)]
FolderName = Annotated[
    str,
    Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*\Z", description="letters, digits, '.', '-' and '_', to name a folder"),
]
Name = Annotated[str, Meta(min_length=1, description="a name")]
Positive = Annotated[float, Meta(gt=0)]


class RunConfig(Struct, frozen=True):
    """The run: its directory is `dir/name-...`, `seed` seeds every generator.

    `init_from` is a run or a checkpoint whose weights a new run begins with, where their names and shapes fit.
    """

    name: FolderName = "run"
    dir: Annotated[str, Meta(min_length=1, description="a folder")] = "runs"
    seed: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0
    init_from: Annotated[str, Meta(min_length=1, description="a run or a checkpoint")] | None = None


class Named(Struct, frozen=True):
    """Something that a registry (or an import path) knows by `name`, and the options it is made with."""

    name: Name
    options: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"Named({self.name!r}, {redact(self.options)!r})"


class OptimizerConfig(Struct, frozen=True):
    """What is different for one optimizer of a model with several; what is not said is as for all.

    `name` and `options` replace the `optimizer` section, `scheduler` the section of that name.
    """

    name: Name | None = None
    scheduler: Named | None = None
    accumulate: Count | None = None
    clip_norm: Positive | None = None
    clip_value: Positive | None = None
    options: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"OptimizerConfig({self.name!r}, ..., {redact(self.options)!r})"


class DataConfig(Struct, frozen=True):
    """The dataset, by name, and how it is cut into batches; `options` are the dataset's own."""

    name: Name
    batch_size: Count = 64
    num_workers: Annotated[int, Meta(ge=0)] = 0
    shuffle: bool = True
    drop_last: bool = False
    options: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"DataConfig({self.name!r}, batch_size={self.batch_size}, ..., {redact(self.options)!r})"


class TrainerConfig(Struct, frozen=True):
    """The loop; what is None or empty is off.

    Units: `max_steps`, `log_every` and `validate_every_steps` are optimizer steps, `validate_every` epochs, `max_time`
    and `drain_timeout` seconds, `accumulate`, `sanity_batches` and those that end in `_batches` batches. `ema` is the
    decay of the weights' moving average. `freeze` and `checkpoint_activations` are patterns of the names of parameters
    and modules. `strategy` is how several processes train together: with `ddp`, `find_unused_parameters` allows
    parameters that a loss does not depend on; with `fsdp`, `shard_modules` are patterns of the modules that are
    gathered one by one. `drain_timeout` is for how long listeners that are behind are waited for when
    training has ended.
    """

    epochs: Count = 10
    max_steps: Count | None = None
    max_time: Positive | None = None
    device: Annotated[
        str, Meta(pattern=r"^(auto|cpu|mps|cuda(:[0-9]+)?)\Z", description="auto, cpu, cuda, cuda:1 (and so on) or mps")
    ] = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    accumulate: Count = 1
    clip_norm: Positive | None = None
    clip_value: Positive | None = None
    ema: Annotated[float, Meta(gt=0, lt=1)] | None = None
    compile: bool | Literal["default", "reduce-overhead", "max-autotune"] = False
    checkpoint_activations: tuple[Name, ...] = ()
    freeze: tuple[Name, ...] = ()
    log_every: Count = 10
    validate_every: Count = 1
    validate_every_steps: Count | None = None
    sanity_batches: Annotated[int, Meta(ge=0)] = 0
    limit_train_batches: Count | None = None
    limit_val_batches: Count | None = None
    overfit_batches: Count | None = None
    non_finite: Literal["raise", "skip_step", "ignore"] = "raise"
    check_gradients: bool = False
    deterministic: bool = False
    strategy: Literal["ddp", "fsdp"] = "ddp"
    find_unused_parameters: bool = False
    shard_modules: tuple[Name, ...] = ()
    drain_timeout: Annotated[float, Meta(ge=0)] | Literal["forever"] = 30.0


class PluginsConfig(Struct, frozen=True):
    """Which plugins are left out, and those that the run cannot do without: `options` has each one's own, by name."""

    disable: tuple[Name, ...] = ()
    options: dict[str, dict[str, Any]] = {}

    def __repr__(self) -> str:
        return f"PluginsConfig(disable={self.disable!r}, {redact(self.options)!r})"


class JournalConfig(Struct, frozen=True):
    """The run's record, and when it is flushed to the disk: at lifecycle events, or once a second."""

    enabled: bool = True
    fsync: Literal["lifecycle", "interval"] = "lifecycle"


class CheckpointConfig(Struct, frozen=True):
    """When to save, how many of the latest to keep and how many of the best, and which metric makes one the best.

    `background` has them written by a process of their own, from a copy in memory, while training goes on.
    """

    keep: Annotated[int, Meta(ge=2)] = 2
    keep_best: Annotated[int, Meta(ge=0)] = 1
    every_epochs: Count = 1
    every_steps: Count | None = None
    every_minutes: Positive | None = None
    monitor: Name = "val_loss"
    mode: Literal["auto", "min", "max"] = "auto"
    background: bool = True


@dataclass(frozen=True)
class Config:
    """A whole config, checked.

    `tree` is all of it as a model receives it, with defaults filled in and references to the environment resolved;
    `stored` is the same with the references as they were written, for whatever leaves the process.
    """

    run: RunConfig
    model: Named
    data: DataConfig
    optimizer: Named
    optimizers: Mapping[str, OptimizerConfig]
    scheduler: Named | None
    trainer: TrainerConfig
    metrics: tuple[str, ...]
    callbacks: tuple[Named, ...]
    plugins: PluginsConfig
    journal: JournalConfig
    checkpoint: CheckpointConfig
    tree: Section = field(repr=False)
    stored: Section = field(repr=False)
    places: Places = field(repr=False, compare=False)

    def where(self, key: str) -> str:
        """Where `key` ("model.name", "callbacks.0") was written, for the `where` of an error about its value."""
        return f"{self.places.of(tuple(key.split('.')))} ({key})"


SECTIONS: Mapping[str, type[Struct]] = {
    "run": RunConfig,
    "model": Named,
    "data": DataConfig,
    "optimizer": Named,
    "scheduler": Named,
    "trainer": TrainerConfig,
    "plugins": PluginsConfig,
    "journal": JournalConfig,
    "checkpoint": CheckpointConfig,
}
"""The sections that are mappings. One with `options` takes further keys, which become its options."""


def keys_of(kind: type[Struct]) -> dict[str, FieldInfo]:
    """The keys that a section has of its own, by name."""
    return {key.name: key for key in fields(kind) if key.name != "options"}


def _defaults(kind: type[Struct]) -> dict[str, Any]:
    return {name: msgspec.to_builtins(key.default) for name, key in keys_of(kind).items() if not key.required}


DEFAULTS: Mapping[str, Any] = {
    "run": _defaults(RunConfig),
    "model": {"name": "cnn"},
    "data": _defaults(DataConfig),
    "optimizer": {"name": "adamw", "lr": 1e-3},
    "optimizers": {},
    "scheduler": None,
    "trainer": _defaults(TrainerConfig),
    "metrics": [],
    "callbacks": [],
    "plugins": _defaults(PluginsConfig),
    "journal": _defaults(JournalConfig),
    "checkpoint": _defaults(CheckpointConfig),
}
"""Every section, in the order in which it is written, with what it is when it is not given."""
