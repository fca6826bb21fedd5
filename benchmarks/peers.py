"""The same training step, one event to one listener, and a step kept in MLflow, in other libraries: orientation only.

Run it as `make peers`, or as `python -m benchmarks.peers` where the extra `peers` is installed; what is not there is
named and left out. Each library trains as its documentation shows, with logging, checkpoints, progress bars and
gradient clipping switched off, on batches that are in memory already.

What is kept in MLflow, on SQLite, is the loss of every step. Whatever logs in the background may use all cores, and has
caught up before the step without it is measured; the time for that is nobody's.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import repeat
from queue import Empty, Queue
from tempfile import TemporaryDirectory
from time import perf_counter, time
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.delivery import IN_TURNS, mlflow_against_none
from benchmarks.emit import EMISSIONS, emission, sending
from benchmarks.paired import Block, Pair, Ratio, compare, summarize
from benchmarks.step import fit_bare, fit_trainer, versus
from benchmarks.stepping import BLOCK, Batch, Classifier, Stepping, adamw, one_core

AT_ONCE = 2  # of a loop's own blocks, in one that is measured, where the loop waits for the logger: 80 steps
IN_THE_BACKGROUND = 25  # where it does not: long enough for the logger to be at work in all of it
LOGGED_PAIRS = 9

Fit = Callable[[Iterator[Batch]], object]


def fit_ignite(batches: Iterator[Batch]) -> None:
    """Ignite's supervised trainer."""
    from ignite.engine import create_supervised_trainer

    model = Classifier()
    create_supervised_trainer(model, adamw(model), functional.cross_entropy).run(batches)


def fit_accelerate(batches: Iterator[Batch]) -> None:
    """Accelerate around a loop of one's own."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model: Any = Classifier()
    model, optimizer = accelerator.prepare(model, adamw(model))
    for x, y in batches:
        optimizer.zero_grad()
        accelerator.backward(functional.cross_entropy(model(x), y))
        optimizer.step()


def fit_lightning(batches: Iterator[Batch]) -> None:
    """Lightning's trainer."""
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = Classifier()

        def training_step(self, batch: Batch) -> Tensor:
            return functional.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return adamw(self.model)

    lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(Module(), batches)


class EndOfDataError(Exception):
    """Ends a loop that does not end with its data."""


def fit_transformers(batches: Iterator[Batch]) -> None:
    """The trainer of transformers."""
    import transformers

    class Model(Classifier):
        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:  # type: ignore[override]  # as the trainer calls it
            return {"loss": functional.cross_entropy(self.layers(x), labels)}

    class Trainer(transformers.Trainer):
        def get_train_dataloader(self) -> Any:
            yield from ({"x": x, "labels": y} for x, y in batches)
            raise EndOfDataError  # by itself it would count on to max_steps

    model = Model()
    optimizer = adamw(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _step: 1.0)
    with TemporaryDirectory() as folder, suppress(EndOfDataError):
        options = transformers.TrainingArguments(
            folder,
            max_steps=10**9,
            use_cpu=True,
            max_grad_norm=0,
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
            save_strategy="no",
        )
        Trainer(model, options, optimizers=(optimizer, schedule)).train()


def event_pluggy() -> Block:
    """A hook call of pluggy."""
    import pluggy

    class Hooks:
        @pluggy.HookspecMarker("benchmark")
        def batch_end(self, trainer: object, batch_idx: int, loss: float) -> None: ...

    class Plugin:
        @pluggy.HookimplMarker("benchmark")
        def batch_end(self, trainer: object, batch_idx: int, loss: float) -> None: ...

    manager = pluggy.PluginManager("benchmark")
    manager.add_hookspecs(Hooks)
    manager.register(Plugin())
    trainer = object()

    def block() -> None:
        for batch_idx in repeat(7, EMISSIONS):
            manager.hook.batch_end(trainer=trainer, batch_idx=batch_idx, loss=0.5)

    return block


def event_psygnal() -> Block:
    """A signal of psygnal."""
    from psygnal import SignalInstance

    def listener(trainer: object, batch_idx: int, loss: float) -> None: ...

    signal = SignalInstance((object, int, float))
    signal.connect(listener)
    trainer = object()

    def block() -> None:
        for batch_idx in repeat(7, EMISSIONS):
            signal.emit(trainer, batch_idx, 0.5)

    block.signal = signal, listener  # type: ignore[attr-defined]  # psygnal holds listeners weakly
    return block


def event_pyee() -> Block:
    """An event of pyee."""
    from pyee import EventEmitter

    def listener(trainer: object, batch_idx: int, loss: float) -> None: ...

    emitter = EventEmitter()
    emitter.on("batch_end", listener)
    trainer = object()

    def block() -> None:
        for batch_idx in repeat(7, EMISSIONS):
            emitter.emit("batch_end", trainer, batch_idx, 0.5)

    return block


def event_ignite() -> Block:
    """An event of Ignite's engine."""
    from ignite.engine import Engine, Events

    engine: Any = Engine(lambda _engine, _batch: None)
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda _engine: None)

    def block() -> None:
        for _ in repeat(7, EMISSIONS):
            engine.fire_event(Events.ITERATION_COMPLETED)

    return block


def event_lightning() -> Block:
    """A callback hook of Lightning, called as its training loop does."""
    import lightning
    from lightning.pytorch.trainer.call import _call_callback_hooks

    class Listener(lightning.Callback):
        def on_train_batch_end(self, *arguments: Any) -> None: ...

    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Listener()],
    )
    trainer.strategy._lightning_module = lightning.LightningModule()  # noqa: SLF001  as within `fit`

    def block() -> None:
        for batch_idx in repeat(7, EMISSIONS):
            _call_callback_hooks(trainer, "on_train_batch_end", 0.5, None, batch_idx)

    return block


class Log(NamedTuple):
    """Logs a step's loss; `settle` waits until all that was logged is stored."""

    put: Callable[[int, float], object]
    settle: Callable[[], object] = lambda: None


@contextmanager
def mlflow_client() -> Iterator[tuple[Any, str]]:
    """Provide MLflow's client to a new store, and the id of a run in it."""
    import mlflow

    with TemporaryDirectory() as folder:
        client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
        yield client, client.create_run(client.create_experiment("benchmark")).info.run_id


@contextmanager
def log_in_the_loop() -> Iterator[Log]:
    """MLflow's client, called in the loop."""
    with mlflow_client() as (client, run):
        yield Log(lambda step, loss: client.log_metric(run, "loss", loss, step=step, synchronous=True))


@contextmanager
def log_asynchronously() -> Iterator[Log]:
    """MLflow's own asynchronous mode."""
    with mlflow_client() as (client, run):
        running: list[Any] = []

        def settle() -> None:
            while running:
                running.pop().wait()

        yield Log(
            lambda step, loss: running.append(client.log_metric(run, "loss", loss, step=step, synchronous=False)),
            settle,
        )


@contextmanager
def log_with_lightning() -> Iterator[Log]:
    """Lightning's logger to MLflow."""
    from lightning.pytorch.loggers import MLFlowLogger

    with TemporaryDirectory() as folder:
        logger = MLFlowLogger(experiment_name="benchmark", tracking_uri=f"sqlite:///{folder}/mlflow.db")
        yield Log(lambda step, loss: logger.log_metrics({"loss": loss}, step))


@contextmanager
def log_through_a_queue() -> Iterator[Log]:
    """A queue, and a thread that stores what is in it, all at once."""
    from mlflow.entities import Metric

    with mlflow_client() as (client, run):
        queue: Queue[Any] = Queue()

        def store() -> None:
            while (first := queue.get()) is not None:
                metrics = [first]
                with suppress(Empty):
                    while len(metrics) < 1000:  # more are not taken at once
                        metrics.append(queue.get_nowait())
                client.log_batch(run, metrics=metrics, synchronous=True)
                for _ in metrics:
                    queue.task_done()

        thread = threading.Thread(target=store, daemon=True)
        thread.start()
        yield Log(lambda step, loss: queue.put(Metric("loss", loss, int(time() * 1000), step)), queue.join)
        queue.put(None)
        thread.join()


def fit_logged(batches: Iterator[Batch], log: Log) -> None:
    """Train with the bare loop, and log the loss of every step."""
    model = Classifier()
    optimizer = adamw(model)
    for step, (x, y) in enumerate(batches, start=1):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        optimizer.step()
        log.put(step, loss.item())


def logged_against_bare(
    logging_to: Callable[[], AbstractContextManager[Log]], *, long: int, pairs: int = LOGGED_PAIRS
) -> Ratio:
    """Measure the bare loop with a logger against the bare loop, in blocks of so many times 40 steps."""
    measured = []
    order = random.Random(0)
    with logging_to() as log:
        log.put(0, 0.0)  # threads that this starts are not pinned
        log.settle()
        with one_core(), Stepping(partial(fit_logged, log=log)) as logged, Stepping(fit_bare) as bare:
            logged()
            log.settle()
            bare()
            for _ in range(pairs):
                seconds = {}
                for loop in order.sample([logged, bare], 2):
                    begin = perf_counter()
                    for _ in range(long):
                        loop()
                    seconds[loop] = perf_counter() - begin
                    log.settle()
                measured.append(Pair(seconds[logged], seconds[bare]))
    return summarize(measured)


LOGGERS: dict[str, tuple[str, int, Callable[..., AbstractContextManager[Log]]]] = {
    "MLflow, in the loop": ("mlflow", AT_ONCE, log_in_the_loop),
    "Lightning's MLFlowLogger": ("lightning", AT_ONCE, log_with_lightning),
    "MLflow, asynchronously": ("mlflow", IN_THE_BACKGROUND, log_asynchronously),
    "a queue and a thread": ("mlflow", IN_THE_BACKGROUND, log_through_a_queue),
}

STEPS: dict[str, tuple[str, Fit]] = {
    "bare PyTorch loop": ("torch", fit_bare),
    "FRAMEWORM": ("frameworm", fit_trainer),
    "Ignite": ("pytorch-ignite", fit_ignite),
    "Accelerate": ("accelerate", fit_accelerate),
    "Lightning": ("lightning", fit_lightning),
    "transformers": ("transformers", fit_transformers),
}

EVENTS: dict[str, tuple[str, Callable[[], Block]]] = {
    "FRAMEWORM": ("frameworm", lambda: emission(1)),
    "blinker": ("blinker", lambda: sending(1)),
    "pluggy": ("pluggy", event_pluggy),
    "psygnal": ("psygnal", event_psygnal),
    "pyee": ("pyee", event_pyee),
    "Ignite": ("pytorch-ignite", event_ignite),
    "Lightning": ("lightning", event_lightning),
}


def main() -> None:
    """Measure what is installed and print the table, in Markdown."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    print("| what | in | version | µs | ratio | 95 % |\n|---|---|---|---|---|---|")
    for name, (distribution, fit) in STEPS.items():
        row("training step", name, distribution, BLOCK, lambda fit=fit: versus(fit, fit_bare))  # type: ignore[misc]
    for name, (distribution, event) in EVENTS.items():
        row("event to one listener", name, distribution, EMISSIONS, lambda event=event: event_ratio(event()))  # type: ignore[misc]
    what = "step, its loss in MLflow"
    row(what, "FRAMEWORM", "mlflow", IN_TURNS.long * BLOCK, partial(mlflow_against_none, 1))
    for name, (distribution, long, logging_to) in LOGGERS.items():
        row(what, name, distribution, long * BLOCK, partial(logged_against_bare, logging_to, long=long))
    print("\nA step's ratio is to the same loop without logging, or to the bare one; an event's to FRAMEWORM's.")


def event_ratio(block: Block) -> Ratio:
    """Measure an event against FRAMEWORM's."""
    with one_core():
        return compare(block, emission(1))


def row(what: str, name: str, distribution: str, count: int, measure: Callable[[], Ratio]) -> None:
    """Print a line of the table; `count` is how many a block has of what is measured."""
    try:
        installed = version(distribution)
    except PackageNotFoundError:
        print(f"| {what} | {name} | not installed | | | |")
        return
    ratio = measure()
    spread = (ratio.high - ratio.low) / 2
    micros = ratio.seconds_a / count * 1e6
    print(f"| {what} | {name} | {installed} | {micros:.2f} | {ratio.median:.2f} | ± {spread:.2f} |", flush=True)


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is fetched
    main()
