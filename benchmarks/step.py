"""What a training step costs in the trainer, against a bare PyTorch loop with the same optimizer.

The step is small (a 64-64-10 perceptron, batches of 32, one thread: a fraction of a millisecond), so that what is not
PyTorch's own work shows. Journals are written to a temporary folder on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmarks.paired import PAIRS, Pair, Ratio, measure, summarize
from benchmarks.stepping import Batch, Classifier, Stepping, adamw, one_core
from bus import EventBus, default_bus
from frameworm.config import TrainerConfig
from frameworm.delivery.journal import Journal
from frameworm.plugins.hooks import CallbackHook
from frameworm.plugins.loader import PluginLoader
from frameworm.training.trainer import Trainer

PLUGIN = """
from frameworm.plugins.hooks import HookRegistry

def register():
    @HookRegistry.on("on_batch_begin")
    def batch_begin(trainer, batch_idx, batch): ...

    @HookRegistry.on("on_batch_end")
    def batch_end(trainer, batch_idx, loss): ...

    @HookRegistry.on("on_backward_begin")
    def backward_begin(trainer, loss): ...

    @HookRegistry.on("on_backward_end")
    def backward_end(trainer): ...

    @HookRegistry.on("on_optimizer_step")
    def optimizer_step(trainer): ...
"""

_WINDOW, _DECAY, _LONG = 4, 0.999, 10_000_000
LIVES = 15  # how often a comparison's loops are made anew


class FiveHooks(CallbackHook):
    """One of the document's hooks on each of the five events of a batch and its gradients, doing nothing."""

    def on_batch_begin(self, trainer: Any, batch_idx: int, batch: Any) -> None:
        """Before the batch."""

    def on_batch_end(self, trainer: Any, batch_idx: int, loss: Any) -> None:
        """After the batch."""

    def on_backward_begin(self, trainer: Any, loss: Any) -> None:
        """Before the backward pass."""

    def on_backward_end(self, trainer: Any) -> None:
        """After the backward pass."""

    def on_optimizer_step(self, trainer: Any) -> None:
        """Before the optimizer's step."""


def fit_bare(batches: Iterator[Batch], *, fused: bool = False) -> None:
    """Train as one does without a framework, and look at nothing."""
    model = Classifier()
    optimizer = adamw(model, fused=fused)
    for x, y in batches:
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        optimizer.step()


def fit_trainer(
    batches: Iterator[Batch],
    *,
    fused: bool = False,
    hooks: bool = False,
    record_every: int | None = None,
    journal: Journal | None = None,
    parent: EventBus | None = None,
    accumulate: int = 1,
) -> None:
    """Train with the trainer: with hooks on five events, with a journal that records every so many-th batch.

    `journal` is one that is there already, and stays open. Whoever listens to `parent` hears the trainer, too. Several
    batches that `accumulate` make a step that takes longer.
    """
    bus = EventBus(parent)
    model = Classifier()
    options = TrainerConfig(epochs=1, device="cpu", accumulate=accumulate)
    trainer = Trainer(model, batches, optimizer=adamw(model, fused=fused), bus=bus, options=options)
    with ExitStack() as stack:
        if hooks:
            stack.callback(FiveHooks().register(bus).unregister)
        if record_every is not None:
            folder = Path(stack.enter_context(TemporaryDirectory()))
            journal = stack.enter_context(Journal(folder, run="benchmark", log_every=record_every))
        if journal is not None:
            journal.position = trainer.position
            journal.attach(bus)
        trainer.fit()


def fit_bare_with_options(batches: Iterator[Batch]) -> None:
    """Train by hand in bfloat16, with windows of four batches, clipping, a schedule and an average of the weights."""
    model = Classifier()
    optimizer = adamw(model)
    schedule = CosineAnnealingLR(optimizer, _LONG)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(_DECAY))  # type: ignore[no-untyped-call]
    for index, (x, y) in enumerate(batches):
        if index % _WINDOW == 0:
            optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = functional.cross_entropy(model(x), y)
        (loss / _WINDOW).backward()  # type: ignore[no-untyped-call]
        if index % _WINDOW == _WINDOW - 1:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            average.update_parameters(model)


def fit_trainer_with_options(batches: Iterator[Batch]) -> None:
    """Train with the trainer in the same way."""
    model = Classifier()
    optimizer = adamw(model)
    schedule = CosineAnnealingLR(optimizer, _LONG)
    options = TrainerConfig(epochs=1, device="cpu", precision="bf16", accumulate=_WINDOW, clip_norm=1.0, ema=_DECAY)
    Trainer(model, batches, optimizer=optimizer, scheduler=schedule, bus=EventBus(), options=options).fit()


def options_against_bare() -> Ratio:
    """Measure the trainer with options against the hand-written loop that does the same."""
    return versus(fit_trainer_with_options, fit_bare_with_options)


def bare_with_options_against_itself() -> Ratio:
    """Measure the noise of that."""
    return versus(fit_bare_with_options, fit_bare_with_options)


def versus(
    a: Callable[[Iterator[Batch]], object],
    b: Callable[[Iterator[Batch]], object],
    *,
    pairs: int = PAIRS,
    lives: int = LIVES,
) -> Ratio:
    """Measure one loop against another, block by block.

    Both are made anew every few pairs, now one first, now the other: where in memory a model happens to lie changes
    its speed by a hundredth or two, for as long as it lives.
    """
    measured: list[Pair] = []
    with one_core():
        for life in range(lives):
            first, second = Stepping(a), Stepping(b)
            with ExitStack() as running:
                for loop in (first, second) if life % 2 else (second, first):
                    running.enter_context(loop)
                    loop()
                measured += measure(first, second, pairs=pairs // lives, seed=life)
    return summarize(measured)


def bare_against_itself() -> Ratio:
    """Measure the noise of the comparisons below."""
    return versus(fit_bare, fit_bare)


def plain_against_bare() -> Ratio:
    """Measure the trainer, nobody listening and nothing recorded."""
    return versus(fit_trainer, fit_bare)


def fused_against_bare() -> Ratio:
    """Measure the same with the fused optimizer, which leaves two thirds of the step to hide behind."""
    return versus(partial(fit_trainer, fused=True), partial(fit_bare, fused=True))


def hooks_against_bare() -> Ratio:
    """Measure the trainer with a hook on each of the five events of a batch."""
    return versus(partial(fit_trainer, hooks=True), fit_bare)


def plugins_hooks_against_bare() -> Ratio:
    """Measure the trainer with a plugin's hooks on the five events."""
    with plugin_with_five_hooks():
        return versus(partial(fit_trainer, parent=default_bus), fit_bare)


def plugins_hooks_against_hooks() -> Ratio:
    """Measure a plugin's five hooks against the same registered by hand."""
    with plugin_with_five_hooks():
        return versus(partial(fit_trainer, parent=default_bus), partial(fit_trainer, hooks=True))


@contextmanager
def plugin_with_five_hooks() -> Iterator[None]:
    """Load a plugin whose hooks every trainer below the default bus calls."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "frameworm_plugins", "five-hooks")
        path.mkdir(parents=True)
        (path / "__init__.py").write_text(PLUGIN, encoding="utf-8")
        loader = PluginLoader(Path(folder))
        loader.load("five-hooks")
        yield
        loader.unload("five-hooks")


def journal_against_none(record_every: int) -> Ratio:
    """Measure the trainer with a journal against the trainer without."""
    return versus(partial(fit_trainer, record_every=record_every), fit_trainer)
