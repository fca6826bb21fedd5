"""Where the parts meet: from a config to data, model, trainer, listeners and a run that is kept."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import msgspec
from torch import nn

from bus import EventBus, default_bus
from frameworm import config as configs
from frameworm import logs, runs
from frameworm.config import Config, Section
from frameworm.config.secrets import redact_word
from frameworm.core import create, get_dataset, get_model
from frameworm.data import Loaders, as_splits, loaders
from frameworm.delivery.journal import Journal
from frameworm.delivery.listener import ProcessListener, recorded_every
from frameworm.delivery.replay import events as recorded_events
from frameworm.delivery.supervisor import RelayProcess
from frameworm.environment import environment
from frameworm.errors import ModelContractError, UserError
from frameworm.events import HooksSwitched
from frameworm.listeners.checkpointing import Checkpointing
from frameworm.listening import conceal_options, register_callbacks
from frameworm.plugins.hooks import HookRegistry
from frameworm.plugins.loader import get_plugin_loader, load_plugins
from frameworm.plugins.selection import Selection, select
from frameworm.runs import RunDirectory
from frameworm.training.device import available_devices, copy_scalar, resolve_device
from frameworm.training.distributed.world import World, current, joined
from frameworm.training.run import RunInfo, TrainResult
from frameworm.training.seeding import seed_everything
from frameworm.training.store import CheckpointStore, wait_for_writer
from frameworm.training.trainer import Trainer
from frameworm.training.warm import warm_start

log = logging.getLogger("frameworm")

_SEED_STEP = 1_000_003  # between the seeds of two processes: far enough that runs with the next seeds share none

_TOLD_EVERY = 5.0  # seconds between two lines about what is waited for


class DryRun(msgspec.Struct, frozen=True):
    """What a config would train: `parameters` are those that are trained, `loss` is that of the first batch.

    `checkpoint` is what it would go on from.
    """

    model: str
    parameters: int
    device: str
    batches_per_epoch: int | None
    epochs: int
    loss: float
    checkpoint: str | None


def train(
    config: Config | Path | str, overrides: Sequence[str] = (), *, resume: str | None = None, strict: bool = False
) -> TrainResult:
    """Train what a config (or the file that holds one) says, in a run that is kept, and return how it ended.

    `overrides` are texts like `trainer.epochs=3`; `resume` is as in `session`; `strict` ends the run when a listener
    fails. Raises `UserError` before anything is written, and what makes the training fail.
    """
    if isinstance(config, Config) and overrides:
        raise UserError(
            "overrides change what a file says, and this config is made already",
            expected="the config's path with them, or a Config alone",
            got=f"a Config and {', '.join(map(redact_word, overrides))}",
            hint="frameworm.config.load(path, overrides)",
        )
    checked = config if isinstance(config, Config) else configs.load(Path(config), overrides)
    with session(checked, bus=EventBus(default_bus, strict=strict), resume=resume) as trainer:
        return trainer.fit()


def dry_run(config: Config, *, resume: str | None = None, plugins: Selection | None = None) -> DryRun:
    """Build everything that the config names and try one batch; nothing is trained or written.

    `resume` and `plugins` are as in `session`; what the run would go on from is loaded. Raises `UserError`.
    """
    with joined() as world:
        checkpoint = world.decided_by_first(partial(_checkpoint_of, config, resume))
        trainer, _ = _built(config, None, plugins or selected(config), is_new=resume is None)
        if checkpoint is not None:
            trainer.resume(checkpoint)
        return DryRun(
            model=trainer.model_name,
            parameters=sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad),
            device=str(trainer.device),
            batches_per_epoch=trainer.batches_per_epoch,
            epochs=trainer.epochs,
            loss=trainer.try_batch(),
            checkpoint=None if checkpoint is None else str(checkpoint),
        )


@contextmanager
def session(
    config: Config,
    *,
    bus: EventBus | None = None,
    resume: str | None = None,
    plugins: Selection | None = None,
    relay: bool = True,
) -> Iterator[Trainer]:
    """Give a trainer whose run is kept: recorded, with its checkpoints, config and environment, in a directory.

    All that can be wrong with the config is found first; then the directory is made. `resume` is `latest`, or a run's
    name or path, to go on with that run; the path of a checkpoint begins a new run with it. `plugins` is as in `build`.
    Without a `relay` listeners in a process of their own are not served. Raises `UserError`.

    Of several processes that `torchrun` has started each gives its trainer; the first one keeps the run.
    """
    with ExitStack() as stack:
        world = stack.enter_context(joined())
        run, checkpoint = world.decided_by_first(partial(_to_resume, config, resume))
        journal = stack.enter_context(_journal(config, run, world)) if run is not None else None
        if run is not None:
            checkpoint = world.decided_by_first(partial(_latest_of, config, run))
        selection = plugins or selected(config)
        trainer, apart = _built(config, bus, selection, is_new=resume is None)
        stack.callback(trainer.bus.close)
        if checkpoint is not None:
            trainer.resume(checkpoint)
        elif run is not None and world.is_first:
            log.warning("%s has no complete checkpoint: it begins again", run.path)
        if run is None:
            parent = config.run.init_from if checkpoint is None else str(checkpoint)
            create = partial(RunDirectory.create, Path(config.run.dir), config.run.name, parent=parent)
            run = world.decided_by_first(create)
        if journal is None:
            journal = stack.enter_context(_journal(config, run, world))
        journal.position = trainer.position
        if config.journal.enabled:
            journal.attach(trainer.bus, recorded_every(apart))
            trainer.seq_of = journal.seq_of
            trainer.bus.history = partial(recorded_events, run.path)
            stack.enter_context(_noting_switched_hooks(trainer))
        trainer.run = RunInfo(
            id=run.id,
            name=run.name,
            directory=run.path,
            attempt=journal.attempt,
            model=config.model.name,
            config=configs.redact(config.stored),
        )
        trainer.checkpoints = _store(config, run)
        rhythm = config.checkpoint
        Checkpointing(rhythm.every_epochs, rhythm.every_steps, rhythm.every_minutes).register(trainer.bus)
        world.decided_by_first(partial(_describe, run, config, journal.attempt))
        stack.enter_context(logs.bind_run(run.id, trainer.position))
        stack.enter_context(_relayed(trainer, run, apart if relay and world.is_first else (), selection))
        yield trainer


def build(config: Config, *, bus: EventBus | None = None, plugins: Selection | None = None) -> Trainer:
    """Return a trainer made as the config says, its plugins loaded, its callbacks registered; its run is not kept.

    `bus` is where it publishes, by default one of its own under the process-wide bus; `plugins` are those to load, by
    default those that the config selects. Seeds the random generators. Raises `UserError` for whatever cannot be had.
    """
    trainer, apart = _built(config, bus, plugins or selected(config))
    for listener in apart:
        log.warning("%s does not listen: it reads the run's record, and this run is not kept", listener.name)
    return trainer


def _built(
    config: Config, bus: EventBus | None, plugins: Selection, *, is_new: bool = True
) -> tuple[Trainer, tuple[ProcessListener, ...]]:
    """Return the trainer, and the listeners that are to be served by a process of their own.

    A run that `is_new` may begin with the weights of another; one that goes on has its own.
    """
    open_code(config, plugins)
    seed_everything(config.run.seed)
    data = build_data(config)
    model = build_model(config.model.name, config.tree, where=config.where("model.name"))
    if config.run.init_from is not None and is_new:
        with _at_its_line(config, "run.init_from"):
            log.info("warm start: %s", warm_start(model, _weights_at(config, config.run.init_from)))
    with _at_its_line(config, "trainer"):
        trainer = Trainer(
            model,
            data.train,
            data.val,
            optimizer=config.optimizer,
            scheduler=config.scheduler,
            optimizers=config.optimizers,
            metrics=config.metrics,
            options=config.trainer,
            bus=bus,
            run=RunInfo(name=config.run.name, model=config.model.name, config=configs.redact(config.stored)),
        )
    if rank := current().rank:  # the others draw other numbers, as soon as all have the same model
        seed_everything((config.run.seed + rank * _SEED_STEP) % 2**32)
    apart = register_callbacks(config, trainer.bus)
    if apart and not config.journal.enabled:
        raise UserError(
            f"{apart[0].name} reads the run's record, and there is none",
            expected="journal.enabled: true, for listeners in the process lane",
            got="journal.enabled: false",
            where=config.where("journal.enabled"),
        )
    return trainer, apart


def open_code(config: Config, plugins: Selection | None = None) -> None:
    """Make the names in the config mean something: load the plugins, and open the current folder to import paths."""
    open_folder()
    for plugin in load_plugins(plugins or selected(config)).loaded:
        level = logging.DEBUG if plugin.source == "shipped" else logging.INFO
        log.log(level, "with the plugin %s %s from %s", plugin.name, plugin.version, plugin.path)


def open_folder() -> None:
    """Have import paths begin where the command is given, as with `python -m`."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)


def selected(config: Config, *, named: Sequence[str] = (), none: bool = False) -> Selection:
    """Return the plugins of a run: the `named` ones, and unless `none`, those that are found and not disabled."""
    remembered = get_plugin_loader().memory.disabled()
    return select(config.plugins, named=named, none=none, remembered=remembered)


def build_data(config: Config) -> Loaders:
    """Return the config's data in batches."""
    where = config.where("data.name")
    factory = get_dataset(config.data.name, where=where)
    splits = as_splits(create("dataset", config.data.name, factory, config.data.options, where=where))
    with _at_its_line(config, "trainer.device"):
        device = resolve_device(config.trainer.device)
    with _at_its_line(config, "data"):
        return loaders(
            splits,
            batch_size=config.data.batch_size,
            num_workers=config.data.num_workers,
            shuffle=config.data.shuffle,
            drop_last=config.data.drop_last,
            seed=config.run.seed,
            pin_memory=device.type == "cuda",
            rank=current().rank,
            ranks=current().size,
        )


def build_model(name: str, tree: Section, *, where: str | None = None) -> nn.Module:
    """Return the model of that name, made with the whole config."""
    model = create("model", name, get_model(name, where=where), {}, tree, where=where)
    if not isinstance(model, nn.Module):
        raise ModelContractError(
            name, "it is no model", expected="a torch.nn.Module", got=type(model).__name__, where=where
        )
    return model


def _to_resume(config: Config, text: str | None) -> tuple[RunDirectory | None, Path | None]:
    """Return the run to go on with, or the checkpoint whose path `text` is, if there is any."""
    if text is None:
        return None, None
    path = Path(text)
    if path.exists() and not (path / "run.json").exists():
        return None, path
    return runs.find(Path(config.run.dir), text), None


def _latest_of(config: Config, run: RunDirectory) -> Path | None:
    """Return the newest checkpoint of a run that nobody trains; what was killed may still be writing one."""
    wait_for_writer(run.checkpoints)
    latest = _store(config, run).latest()
    return None if latest is None else latest.path


def _checkpoint_of(config: Config, text: str | None) -> Path | None:
    """Return what the run that `text` means would go on from, as it is now: nobody is waited for."""
    run, checkpoint = _to_resume(config, text)
    latest = None if run is None else _store(config, run).latest()
    return checkpoint if latest is None else latest.path


def _weights_at(config: Config, text: str) -> Path:
    """Return where the weights are that `text` means: a path, or a run by its name."""
    path = Path(text)
    return path if path.exists() or len(path.parts) > 1 else runs.find(Path(config.run.dir), text).path


def _store(config: Config, run: RunDirectory) -> CheckpointStore:
    kept = config.checkpoint
    return CheckpointStore(
        run.checkpoints,
        keep=kept.keep,
        keep_best=kept.keep_best,
        monitor=kept.monitor,
        mode=kept.mode,
        background=kept.background,
    )


def _journal(config: Config, run: RunDirectory, world: World) -> Journal:
    """Open this process's journal of a run; that of the first one also keeps other runs from writing there."""
    opened = partial(
        Journal,
        run.path,
        run=run.id,
        log_every=config.trainer.log_every,
        fsync=config.journal.fsync,
        copy_scalar=copy_scalar,
    )
    mine: list[Journal] = []

    def first() -> int:
        mine.append(opened())
        return mine[0].attempt

    attempt = world.decided_by_first(first)
    return mine[0] if mine else opened(rank=world.rank, attempt=attempt)


@contextmanager
def _relayed(
    trainer: Trainer, run: RunDirectory, listeners: Sequence[ProcessListener], plugins: Selection
) -> Iterator[None]:
    """Have listeners served by a process of their own, which the trainer waits for at its end."""
    if not listeners:
        yield
        return
    hidden, secrets = conceal_options(listeners, plugins)
    relay = RelayProcess(run.path, hidden.listeners, plugins=hidden.plugins, secrets=secrets)

    def delivered(left: Callable[[], float]) -> bool:
        if relay.drain(left, _telling()):
            return True
        goes_on = "are not delivered yet, the relay goes on with them" if relay.pid else "were not delivered"
        log.warning("%d records %s: frameworm runs show %s", relay.lag(), goes_on, run.path)
        return False

    trainer.drains.append(delivered)
    try:
        yield
    finally:
        relay.leave()


def _telling() -> Callable[[int], None]:
    """Return what tells, from time to time, how many records are still to be delivered."""
    told = time.monotonic()

    def tell(pending: int) -> None:
        nonlocal told
        if time.monotonic() - told > _TOLD_EVERY:
            told = time.monotonic()
            log.info("%d records are still to be delivered", pending)

    return tell


@contextmanager
def _noting_switched_hooks(trainer: Trainer) -> Iterator[None]:
    """Publish on the trainer's bus, where it is recorded, that hooks were switched, also if it was before the run."""

    def switched(event: HooksSwitched) -> None:
        if event.source is None:  # of all trainers; not the one that is published here
            trainer.bus.publish(HooksSwitched(trainer, event.enabled))

    if not HookRegistry.is_enabled():
        trainer.bus.publish(HooksSwitched(trainer, enabled=False))
    with default_bus.subscribe(HooksSwitched, switched, name="journal"):
        yield


def _describe(run: RunDirectory, config: Config, attempt: int) -> None:
    """Write down the config and the environment; another config that was there before is kept beside it."""
    text = configs.dump(config)
    if run.config.exists() and run.config.read_text("utf-8") != text:
        run.config.rename(run.config.with_name(f"config.{attempt - 1}.yaml"))
    run.config.write_text(text, "utf-8")
    plugins = {plugin.name: plugin.version for plugin in get_plugin_loader().loaded()}
    environment(available_devices(), plugins).write(run.environment(attempt))


@contextmanager
def _at_its_line(config: Config, otherwise: str) -> Iterator[None]:
    """Let an error that says which key of the config is wrong (else it is `otherwise`) tell where it was written."""
    try:
        yield
    except UserError as error:
        key = error.where or otherwise
        if key.partition(".")[0] in config.tree:
            error.where = config.where(key)
        raise
