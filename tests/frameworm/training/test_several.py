"""Several optimizers of one model: each trains its own part in its own way, as in a hand-written loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam

from bus.testing import record
from frameworm.config import Named, OptimizerConfig
from frameworm.errors import ModelContractError, NonFiniteError, UnknownNameError, UserError
from frameworm.events import BackwardBegin, BackwardEnd, BatchEnd, EpochEnd, OptimizerStep, OptimizerStepped
from frameworm.training.store import CheckpointStore
from frameworm.training.trainer import Trainer
from tests.frameworm.training.toys import a_trainer, same, weights

SIZE = 3


class Pair(nn.Module):
    """A tiny generator and a discriminator, whose graphs go through each other."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Linear(2, SIZE)
        self.discriminator = nn.Sequential(nn.Linear(SIZE, 4), nn.Tanh(), nn.Linear(4, 1))

    def configure_optimizers(self) -> dict[str, Any]:
        """The discriminator first."""
        return {"discriminator": self.discriminator, "generator": self.generator.parameters()}

    def compute_loss(self, x: Tensor, y: Tensor | None = None, *, optimizer: str) -> dict[str, Tensor]:
        """Return the loss of one side."""
        fake = self.generator(torch.randn(len(x), 2))
        if optimizer == "generator":
            return {"loss": functional.softplus(-self.discriminator(fake)).mean()}
        real = self.discriminator(x)
        loss = functional.softplus(-real).mean() + functional.softplus(self.discriminator(fake)).mean()
        return {"loss": loss, "real": real.detach().mean()}


def images(count: int = 5) -> list[tuple[Tensor]]:
    """Return batches of inputs alone."""
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(4, SIZE, generator=generator),) for _ in range(count)]


def a_pair(seed: int = 0) -> Pair:
    """Return a pair, the same one for the same seed."""
    torch.manual_seed(seed)
    return Pair()


def train_by_hand(model: Pair, *, epochs: int = 1, accumulate: int = 1, clip: float | None = None) -> None:
    """Alternate; the generator takes a step every `accumulate` batches, and clips."""
    judge = SGD(model.discriminator.parameters(), lr=0.1)
    maker = Adam(model.generator.parameters(), lr=0.01, fused=True)
    judging, making = list(model.discriminator.parameters()), list(model.generator.parameters())
    for _ in range(epochs):
        for index, (x,) in enumerate(images()):
            judge.zero_grad()
            add_gradients(model.compute_loss(x, optimizer="discriminator")["loss"], judging)
            judge.step()
            first = index - index % accumulate
            window = min(accumulate, 5 - first)
            if index == first:
                maker.zero_grad()
            add_gradients(model.compute_loss(x, optimizer="generator")["loss"] / window, making)
            if index == first + window - 1:
                if clip is not None:
                    nn.utils.clip_grad_norm_(making, clip)
                maker.step()


def add_gradients(loss: Tensor, parameters: list[nn.Parameter]) -> None:
    """Add a loss's gradients to these parameters alone."""
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def trainer_for(model: nn.Module, own: OptimizerConfig | None = None, **options: Any) -> Trainer:
    """Return a trainer with SGD for the discriminator and Adam for the generator."""
    return a_trainer(
        model,
        images(),
        **{
            "optimizer": Named("sgd", {"lr": 0.1}),
            "optimizers": {"generator": own or OptimizerConfig("adam", options={"lr": 0.01})},
            **options,
        },
    )


@pytest.mark.parametrize(("accumulate", "clip"), [(1, None), (2, None), (3, 0.01)])
def test_it_is_the_hand_written_loop(accumulate: int, clip: float | None) -> None:
    """Bit for bit: what the one's loss gives the other's parameters is not added to an open window."""
    model, other = a_pair(), a_pair()
    torch.manual_seed(1)
    train_by_hand(model, epochs=2, accumulate=accumulate, clip=clip)
    torch.manual_seed(1)
    own = OptimizerConfig("adam", accumulate=accumulate, clip_norm=clip, options={"lr": 0.01})
    trainer = trainer_for(other, own, epochs=2)
    trainer.fit()
    assert same(weights(other), weights(model))
    assert trainer.step == 10


def test_each_event_says_whose_it_is() -> None:
    """In the order of training; the batch's loss is the sum."""
    trainer = trainer_for(a_pair(), OptimizerConfig("adam", accumulate=2, clip_norm=1.0, options={"lr": 0.01}))
    kinds = BackwardBegin, BackwardEnd, OptimizerStep, OptimizerStepped
    with record(trainer.bus, *kinds) as events, record(trainer.bus, BatchEnd) as ends:
        trainer.fit()
    told = [(event.name, event.optimizer) for event in events]
    backward = ["backward_begin", "backward_end"]
    step = ["optimizer_step", "optimizer_stepped"]
    judged = [(name, "discriminator") for name in backward + step]
    assert told[: 4 + 2 + 4 + 4] == [
        *judged,
        *((name, "generator") for name in backward),
        *judged,
        *((name, "generator") for name in backward + step),
    ]
    norms = {event.optimizer: event.grad_norm for event in events if isinstance(event, OptimizerStepped)}
    assert norms["discriminator"] is None
    assert norms["generator"] is not None
    losses = [event.loss.item() for event in events if isinstance(event, BackwardBegin)]
    assert float(ends[0].loss) == pytest.approx(losses[0] + 2 * losses[1])


def test_metrics_have_the_optimizers_names() -> None:
    """The loss is the sum; learning rates are told apart; validation has the same."""
    trainer = trainer_for(a_pair(), val_data=images(2))
    with record(trainer.bus, EpochEnd) as ends:
        trainer.fit()
    metrics = ends[0].metrics
    assert metrics["loss"] == metrics["train_loss"]
    assert metrics["loss"] == pytest.approx(metrics["train_discriminator_loss"] + metrics["train_generator_loss"])
    assert metrics["val_loss"] == pytest.approx(metrics["val_discriminator_loss"] + metrics["val_generator_loss"])
    assert {"train_discriminator_real", "val_discriminator_real"} <= metrics.keys()
    assert (metrics["lr"], metrics["discriminator_lr"], metrics["generator_lr"]) == (0.1, 0.1, 0.01)


def test_each_has_its_own_schedule() -> None:
    """The section for all, or one of its own; each ends with its own steps."""
    own = OptimizerConfig("adam", Named("linear", {"min_lr": 0.004}), accumulate=2, options={"lr": 0.01})
    trainer = trainer_for(a_pair(), own, scheduler="linear", epochs=2)
    trainer.fit()
    rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in trainer.optimizers.items()}
    assert rates == {"discriminator": 0.0, "generator": pytest.approx(0.004)}
    assert trainer.optimizer is trainer.optimizers["discriminator"]


@pytest.mark.parametrize("stop_at", [1, 2, 5])
def test_it_resumes_exactly(tmp_path: Path, stop_at: int) -> None:
    """Also when the windows of one are longer: a checkpoint waits until none is open."""

    def make(seed: int, **rest: Any) -> Trainer:
        torch.manual_seed(seed)
        own = OptimizerConfig("adam", Named("cosine", {}), accumulate=2, options={"lr": 0.01})
        return trainer_for(Pair(), own, epochs=2, ema=0.9, **rest)

    straight = make(0)
    straight.fit()
    cut = make(0, checkpoints=CheckpointStore(tmp_path, monitor=None))

    @cut.bus.on(OptimizerStepped)
    def stop(event: OptimizerStepped) -> None:
        if event.source.step == stop_at:
            event.source.stop()

    assert cut.fit().status == "stopped"
    resumed = make(7)
    resumed.resume(tmp_path)
    resumed.fit()
    assert same(weights(resumed.model), weights(straight.model))
    assert resumed.metrics == straight.metrics


def test_a_model_may_make_an_optimizer_itself() -> None:
    """It is taken as it is, with what the config says of its steps."""

    class Makes(Pair):
        def configure_optimizers(self) -> dict[str, Any]:
            return {"discriminator": SGD(self.discriminator.parameters(), lr=0.5), "generator": self.generator}

    model = Makes()
    trainer = trainer_for(model)
    assert trainer.optimizers["discriminator"].param_groups[0]["lr"] == 0.5
    trainer.fit()


def test_one_sides_loss_that_is_not_finite_costs_only_its_step() -> None:
    """The other side goes on."""

    class Spoilt(Pair):
        def compute_loss(self, x: Tensor, y: Tensor | None = None, *, optimizer: str) -> dict[str, Tensor]:
            outputs = super().compute_loss(x, y, optimizer=optimizer)
            return outputs if optimizer == "generator" else {"loss": outputs["loss"] * float("nan")}

    model = Spoilt()
    before = weights(model)
    trainer = trainer_for(model, non_finite="skip_step")
    with record(trainer.bus, OptimizerStepped) as steps:
        result = trainer.fit()
    assert {(event.optimizer, event.skipped) for event in steps} == {("discriminator", True), ("generator", False)}
    after = weights(model)
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        "generator.weight",
        "generator.bias",
    }
    assert result.metrics["skipped_steps"] == 5
    with pytest.raises(NonFiniteError):
        trainer_for(Spoilt()).fit()


# What does not fit


def _configured(found: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        model = Pair()
        model.configure_optimizers = lambda: found  # type: ignore[method-assign]
        return model

    return make


@pytest.mark.parametrize(
    "found", [None, {}, [SGD([nn.Parameter(torch.ones(1))], lr=1)], {1: nn.Linear(1, 1)}, {"a": 3}]
)
def test_what_configure_optimizers_has_to_return(found: Any) -> None:
    """The error shows it, and names the model."""
    with pytest.raises(ModelContractError, match="configure_optimizers") as caught:
        a_trainer(_configured(found)())
    assert "configure_optimizers() -> " in str(caught.value.expected)


def test_compute_loss_has_to_take_the_optimizers_name() -> None:
    """Otherwise there is one loss for all of them."""

    class One(Pair):
        def compute_loss(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
            return {"loss": self.discriminator(x).mean()}

    with pytest.raises(ModelContractError, match="several optimizers, and one loss") as caught:
        trainer_for(One())
    assert caught.value.got == "compute_loss(x)"


def test_an_optimizer_that_the_model_has_not_is_named() -> None:
    """With the nearest one; a model with a single optimizer has none."""
    with pytest.raises(UnknownNameError) as caught:
        trainer_for(a_pair(), optimizers={"genrator": OptimizerConfig()})
    assert (caught.value.hint, caught.value.where) == ("generator", "optimizers.genrator")
    with pytest.raises(UnknownNameError):
        a_trainer(optimizers={"generator": OptimizerConfig()})


def test_objects_do_not_fit_several() -> None:
    """One optimizer or scheduler cannot be that of all of them."""
    model = a_pair()
    with pytest.raises(UserError, match="makes its optimizers itself"):
        a_trainer(model, optimizer=SGD(model.parameters(), lr=1))

    class Makes(Pair):
        def configure_optimizers(self) -> dict[str, Any]:
            return {"discriminator": SGD(self.discriminator.parameters(), lr=0.5), "generator": self.generator}

    with pytest.raises(UserError, match="makes the optimizer 'discriminator' itself") as caught:
        a_trainer(Makes(), optimizers={"discriminator": OptimizerConfig("adam", options={"lr": 1})})
    assert caught.value.got == "name, lr"
