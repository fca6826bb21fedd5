"""A trained model in other formats: written, compared with it on the validation data, and kept if they agree."""

from __future__ import annotations

import re
import shutil
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

from bus import EventBus, default_bus
from frameworm import app, runs
from frameworm import config as configs
from frameworm.config import Config, Section
from frameworm.core import create, get_exporter, registries
from frameworm.core.builtins import BUILTINS
from frameworm.data.loading import EpochLoader
from frameworm.errors import ExportError, StopTraining, UnknownNameError, UserError
from frameworm.events import ModelExport, ModelExported
from frameworm.export.folder import CONFIG, check_folder, whole_folder
from frameworm.export.forward import Exporter, Forward, forward_of, inputs_of
from frameworm.export.manifest import ExportManifest, Format, write_export_manifest
from frameworm.export.parity import compare, tolerance_of
from frameworm.plugins.selection import Selection
from frameworm.restored import Restored, restored
from frameworm.runs import RunDirectory
from frameworm.trained import CHECKPOINTS, checkpoint_at, data_of, kept_checkpoint
from frameworm.training.checkpoint import load
from frameworm.training.ema import use_average
from frameworm.training.manifest import Checkpoint, measure
from frameworm.training.seeding import isolated_rng, seed_everything

ALL = "all"
"""Means the formats that ship; those of plugins are named one by one."""


@dataclass(frozen=True)
class Export:
    """An export that is complete: its folder, and what its manifest says."""

    path: Path
    manifest: ExportManifest


@dataclass(frozen=True)
class Source:
    """What is exported: a checkpoint of a run, and the run's own config, as it is used here."""

    directory: RunDirectory
    checkpoint: Checkpoint
    config: Config


def source_of(run: Path | str | None = None, checkpoint: Path | str = "best", *, root: Path) -> Source:
    """Return what the words mean; raises `UserError`."""
    if checkpoint in CHECKPOINTS:
        directory = runs.find(root, "latest" if run is None else str(run))
        config = _config(directory)
        return Source(directory, kept_checkpoint(directory, str(checkpoint), config.checkpoint), config)
    if run is not None:
        hint = "best or latest, or the path without a run"
        raise UserError(
            "a checkpoint's path says which run is meant", got=f"{checkpoint}, and the run {run}", hint=hint
        )
    found = checkpoint_at(str(checkpoint))
    directory = RunDirectory.open(found.path.parent.parent)
    return Source(directory, found, _config(directory))


def export_model(
    run: Path | str | None = None,
    formats: Sequence[str] | str = ALL,
    *,
    checkpoint: Path | str = "best",
    output: Path | str | None = None,
    overwrite: bool = False,
    tolerance: float | None = None,
) -> Export:
    """Write a run's trained model in other formats, in evaluation mode and with the weights that `load_model` gives.

    `run` is a run's directory, or its name or id in `runs/`, by default the latest one there; `checkpoint` is `best`,
    `latest`, or the path of one, which says which run it is. The rest is as in `export`.
    """
    source = source_of(run, checkpoint, root=Path("runs"))
    return export(source, formats, output=output, overwrite=overwrite, tolerance=tolerance)


def export(
    source: Source,
    formats: Sequence[str] | str = ALL,
    *,
    output: Path | str | None = None,
    overwrite: bool = False,
    tolerance: float | None = None,
    plugins: Selection | None = None,
) -> Export:
    """Write the model in formats: names of exporters (`safetensors`, `torch-export`, `onnx`, or a plugin's), or `all`.

    `all` is those three. Each is loaded again and compared with the model on all validation data. Where a number
    differs by more than `tolerance` (by default 1e-5, of models in half precision more), ExportError is raised and
    nothing is left. The `output` folder, by default `exports/<checkpoint>` of the run, appears when all formats are in
    it; one that is there is an error, unless `overwrite` says that the export in it is to be replaced. The `plugins`,
    by default those that the config selects, are told before each format is written, and of each once all are there;
    a hook `on_model_export` refuses a format, and with it the export, by raising `StopTraining` with its reason. Raises
    `UserError` for what cannot be had, cannot be exported, or is refused.
    """
    directory, found, config = source.directory, source.checkpoint, source.config
    folder = Path(output) if output is not None else directory.path / "exports" / found.path.name
    app.open_code(config, plugins)
    exporters = _exporters([formats] if isinstance(formats, str) else formats)
    check_folder(folder, overwrite=overwrite)
    with isolated_rng(), EventBus(default_bus) as bus:
        job = _job(source, bus)
        allowed = tolerance_of(job.forward) if tolerance is None else tolerance
        with whole_folder(folder, overwrite=overwrite) as made:
            written = {name: job.write(name, exporter, made, allowed) for name, exporter in exporters.items()}
            shutil.copyfile(directory.config, made / CONFIG)
            manifest = job.manifest(found, written)
            write_export_manifest(made, manifest)
        bus.on_propagate = lambda raised: isinstance(raised, StopTraining)  # there is nothing left to stop
        for name, about in written.items():
            bus.publish(ModelExported(job.facts, str(folder / _told(about)), name))
    return Export(folder, manifest)


def _config(directory: RunDirectory) -> Config:
    return configs.load(directory.config, ["trainer.device=cpu", "callbacks=[]"])


def _exporters(formats: Sequence[str]) -> dict[str, tuple[Exporter, str]]:
    """Return the exporters of the formats, each with its owner; raises UserError for those that cannot be had."""
    names = [name for given in formats for name in (BUILTINS["exporter"] if given == ALL else (given,))]
    made = {}
    for name in dict.fromkeys(names):
        try:
            factory, owner = _registered(name)
        except UnknownNameError as error:
            error.expected = f"{ALL}, or {error.expected}"
            raise
        exporter = create("exporter", name, factory, {})
        if not all(callable(getattr(exporter, method, None)) for method in ("write", "load")):
            raise UserError(
                f"exporter {name!r} cannot export",
                expected="an object with write(forward, folder) and load(forward, folder)",
                got=type(exporter).__name__,
            )
        made[name] = exporter, owner
    if not made:
        raise UserError("there is no format to export to", expected=", ".join([ALL, *BUILTINS["exporter"]]))
    return made


def _registered(name: str) -> tuple[Callable[..., Exporter], str]:
    if ":" in name:
        return get_exporter(name), name
    entry = registries["exporter"].entry(name)
    return entry.obj, entry.owner


def _job(source: Source, bus: EventBus) -> _Job:
    config, found = source.config, source.checkpoint
    seed_everything(config.run.seed)
    data = data_of(config, "val")
    build = partial(app.build_model, config.model.name, config.tree, where=config.where("model.name"))
    model = build()
    averaged = use_average(model, load(found.path, model, model_name=config.model.name))
    facts = restored(config, found, model, bus)
    facts.config = configs.redact(Section(configs.read(source.directory.config)))  # with all that is not needed here
    model.eval()
    forward = forward_of(model, inputs_of(model, next(iter(data))), build)
    return _Job(facts, forward, data, averaged)


@dataclass(frozen=True)
class _Job:
    """What is the same for all formats of an export."""

    facts: Restored
    forward: Forward
    data: EpochLoader
    averaged: bool

    def write(self, name: str, made: tuple[Exporter, str], folder: Path, tolerance: float) -> Format:
        """Write one format into a folder of its own below `folder`, and return how it agrees with the model."""
        exporter, owner = made
        self._announce(name, exporter)
        self.forward.model.eval()  # whatever a hook has tried with it
        own = folder / (re.sub(r"[^\w.-]+", "-", name).strip(".") or "export")
        own.mkdir()
        more = exporter.write(self.forward, own) or {}
        files = {str(file.relative_to(folder)): measure(file) for file in sorted(own.rglob("*")) if file.is_file()}
        if not files:
            raise ExportError(
                name, "the exporter has written nothing", expected="files in the folder that it was given"
            )
        parity = compare(name, self.forward, exporter.load(self.forward, own), self.data, tolerance)
        return Format(exporter=owner, files=files, facts=more, parity=parity)

    def _announce(self, name: str, exporter: Exporter) -> None:
        """Tell that a format is to be written; raises UserError where a hook refuses it."""
        try:
            self.facts.bus.publish(ModelExport(self.facts, self.forward.model, exporter, name))
        except StopTraining as refusal:
            raise UserError(
                f"format {name!r}: a hook refuses the export",
                got=refusal.reason,
                where=_raised_at(refusal),
                hint="what it asks for, or an export without its plugin",
            ) from refusal

    def manifest(self, found: Checkpoint, formats: Mapping[str, Format]) -> ExportManifest:
        """Return what the export says of itself."""
        return ExportManifest(
            frameworm=version("frameworm"),
            torch=version("torch"),
            run=found.manifest.run,
            model=self.facts.model_name,
            checkpoint=str(found.path),
            epoch=found.manifest.epoch,
            step=found.manifest.step,
            averaged=self.averaged,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            inputs=self.forward.inputs,
            outputs=self.forward.outputs,
            formats=formats,
        )


def _raised_at(error: BaseException) -> str:
    """Return the place, "file:line", that raised an error."""
    innermost = traceback.extract_tb(error.__traceback__)[-1]
    return f"{innermost.filename}:{innermost.lineno}"


def _told(about: Format) -> Path:
    """Return the file of a format, or the folder where there are several."""
    files = [Path(name) for name in about.files]
    return files[0] if len(files) == 1 else Path(files[0].parts[0])
