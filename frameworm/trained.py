"""A trained model again: loaded to be used, or judged on data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from torch import nn

from bus import EventBus, default_bus
from frameworm import app, runs
from frameworm import config as configs
from frameworm.config import Config, Section
from frameworm.core import get_metric
from frameworm.data.loading import EpochLoader
from frameworm.errors import CheckpointError, DataError, RunError, StopTraining, UserError, nearest
from frameworm.events import ValidationEnd
from frameworm.plugins.loader import get_plugin_loader, load_plugins
from frameworm.plugins.selection import Selection
from frameworm.restored import Restored, restored
from frameworm.runs import RunDirectory
from frameworm.training.checkpoint import load
from frameworm.training.configuring import loss_of
from frameworm.training.device import resolve_device
from frameworm.training.ema import use_average
from frameworm.training.evaluation import Evaluation
from frameworm.training.feed import Feed
from frameworm.training.loop import numbers
from frameworm.training.manifest import Checkpoint, find_checkpoint, read_manifest
from frameworm.training.precision import Precision
from frameworm.training.seeding import deterministic, isolated_rng, seed_everything
from frameworm.training.store import CheckpointStore

CHECKPOINTS = ("best", "latest")


class Evaluated(msgspec.Struct, frozen=True):
    """How good a checkpoint is: of which run (its id) and model, after which epoch (from 0) and step, its metrics."""

    run: str
    model: str
    checkpoint: Path
    epoch: int
    step: int
    metrics: Mapping[str, float]


def load_model(run: Path | str, *, checkpoint: Literal["best", "latest"] = "best") -> nn.Module:
    """Return a run's trained model, on the CPU and in evaluation mode; plugins that are not disabled are loaded first.

    `run` is a run's directory, or its name or id in `runs/`. The best checkpoint is that of the config's
    `checkpoint.monitor`, the latest one where no checkpoint has that metric. The weights are their average where the
    run kept one (`trainer.ema`). Raises `UserError`.
    """
    if checkpoint not in CHECKPOINTS:
        hint = nearest(str(checkpoint), CHECKPOINTS)
        raise UserError("that is no checkpoint of a run", expected="best or latest", got=repr(checkpoint), hint=hint)
    directory = runs.find(Path("runs"), str(run))
    settings = Section(configs.read(directory.config))
    found = kept_checkpoint(directory, checkpoint, settings.checkpoint)
    app.open_folder()
    load_plugins(_as_in(settings))
    model = app.build_model(settings.model.name, settings, where=str(directory.config))
    use_average(model, load(found.path, model, model_name=settings.model.name))
    return model.eval()


def _as_in(settings: Section) -> Selection:
    """Return the plugins of a run's config, none of which must be there: the model may do without."""
    given = settings.plugins.to_dict()
    disabled = frozenset(given.pop("disable"))
    return Selection(disabled=disabled, remembered=get_plugin_loader().memory.disabled(), options=given)


def evaluate(
    config: Config | Path | str,
    *,
    checkpoint: Path | str = "best",
    run: Path | str | None = None,
    split: Literal["val", "test"] = "val",
    plugins: Selection | None = None,
) -> Evaluated:
    """Return the loss and the metrics of a trained model on the validation data of a config (or of a file with one).

    With `split="test"` it is judged on the test part of the dataset, under the same names.

    `checkpoint` is `best`, `latest`, or a path; `best` and `latest` are of `run`, which is `latest`, a name, an id or a
    path, by default the latest run that has the config's name. `plugins` are those to load, by default those that the
    config selects; their hooks are told of the validation. The same checkpoint gives the same numbers each time, since
    what is drawn comes from the config's seed; the random generators are left as they were.

    Raises `UserError` for a checkpoint, a model or data that cannot be had, and `ModelContractError`.
    """
    config = config if isinstance(config, Config) else configs.load(Path(config))
    found = _checkpoint(config, str(checkpoint), run)
    app.open_code(config, plugins)
    for name in config.metrics:
        get_metric(name, where=config.where("metrics"))  # an error of what comes later could not tell the line
    with isolated_rng(), EventBus(default_bus) as bus:
        seed_everything(config.run.seed)
        data = data_of(config, split)
        model = app.build_model(config.model.name, config.tree, where=config.where("model.name"))
        use_average(model, load(found.path, model, model_name=config.model.name))
        seed_everything(config.run.seed)  # again: what making the model has drawn says nothing of the checkpoint
        with deterministic(config.trainer.deterministic):
            metrics = _metrics(restored(config, found, model, bus), config.metrics, data)
    return Evaluated(
        run=found.manifest.run,
        model=config.model.name,
        checkpoint=found.path,
        epoch=found.manifest.epoch,
        step=found.manifest.step,
        metrics=metrics,
    )


def _metrics(judged: Restored, metrics: Sequence[str], data: EpochLoader) -> dict[str, float]:
    """Validate as a trainer does; return what came of it, with what listeners added."""
    model, bus, device = judged.model, judged.bus, resolve_device(judged.options.device)
    precision = Precision(judged.options.precision, device)
    evaluation = Evaluation(
        judged,
        bus,
        model=model,
        loss_function=loss_of(model, judged.model_name, precision.wrap),
        predict=precision.wrap(model),
        feed=Feed(data, device),
        metrics=metrics,
        device=device,
    )
    bus.on_propagate = lambda raised: isinstance(raised, StopTraining)  # there is no training to stop
    event = ValidationEnd(judged, evaluation.run() or {})  # which nobody abandons
    judged.metrics |= event.metrics
    bus.publish(event)
    return numbers(event.metrics)


def _checkpoint(config: Config, text: str, run: Path | str | None) -> Checkpoint:
    """Return the checkpoint that `text` means, in `run` where that is given."""
    if text in CHECKPOINTS:
        folder = Path(config.run.dir)
        directory = _latest(folder, config.run.name) if run is None else runs.find(folder, str(run))
        return kept_checkpoint(directory, text, config.checkpoint)
    if run is not None:
        hint = "best or latest, or the path without a run"
        raise UserError("a checkpoint's path says which run is meant", got=f"{text}, and the run {run}", hint=hint)
    return checkpoint_at(text)


def data_of(config: Config, split: Literal["val", "test"]) -> EpochLoader:
    """Return the config's validation or test data; raises `DataError` where it has none."""
    loaders = app.build_data(config)
    data = loaders.test if split == "test" else loaders.val
    if data is None:
        part = {"val": "validation", "test": "test"}[split]
        raise DataError(
            f"there are no {part} data to evaluate on",
            where=config.where("data.name"),
            expected=f"a dataset with a {part} part",
            got=f"{config.data.name!r}, which has none",
        )
    return data


def checkpoint_at(text: str) -> Checkpoint:
    """Return the checkpoint whose path `text` is; raises `CheckpointError`."""
    path = Path(text)
    if len(path.parts) < 2 and not path.exists():
        expected = "best, latest, or the path of a checkpoint or a run"
        raise CheckpointError(f"no checkpoint {text!r}", expected=expected, hint=nearest(text, CHECKPOINTS))
    found = find_checkpoint(path)
    return Checkpoint(found, read_manifest(found))


def _latest(folder: Path, name: str) -> RunDirectory:
    """Return the latest run of that name: other configs may keep their runs in the same folder."""
    found = [summary.path for summary in runs.list_runs(folder) if summary.name == name]
    if not found:
        hint = "train first, or say which run: run, or the path of a checkpoint"
        raise RunError(f"no run {name!r} is kept", where=str(folder), hint=hint)
    return RunDirectory.open(found[-1])


def kept_checkpoint(run: RunDirectory, which: str, kept: Any) -> Checkpoint:
    """Return a run's best or latest checkpoint; `kept` is the config's section of that name."""
    store = CheckpointStore(run.checkpoints, keep=kept.keep, monitor=kept.monitor, mode=kept.mode)
    found = (store.best() if which == "best" else None) or store.latest()
    if found is None:
        raise CheckpointError("the run has no complete checkpoint", where=str(run.path), hint="train it first")
    return found
