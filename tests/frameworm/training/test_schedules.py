"""Learning rate schedules by name."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from frameworm.core import registries
from frameworm.errors import UnknownNameError, UserError
from frameworm.training.schedules import Schedule, build_scheduler


def optimizer(*rates: float) -> torch.optim.Optimizer:
    """An optimizer with a parameter group for each of `rates`."""
    return torch.optim.SGD([{"params": [nn.Parameter(torch.ones(1))], "lr": rate} for rate in rates or (1.0,)])


def rates(name: str, steps: int, start: tuple[float, ...] = (1.0,), **options: Any) -> list[list[float]]:
    """The rates of the groups at each of `steps` optimizer steps, and after the last."""
    chosen = optimizer(*start)
    schedule = build_scheduler(name, chosen, options, total_steps=steps, steps_per_epoch=None)
    seen = [[group["lr"] for group in chosen.param_groups]]
    for _ in range(steps):
        chosen.step()
        schedule.scheduler.step()
        seen.append([group["lr"] for group in chosen.param_groups])
    return seen


def test_cosine_goes_from_the_rate_to_zero() -> None:
    """Half a cosine over all steps; the last step still learns, after it the rate is zero."""
    expected = [(1 + math.cos(math.pi * step / 8)) / 2 for step in range(9)]
    assert [rate for (rate,) in rates("cosine", 8)] == pytest.approx(expected)
    assert expected[-1] == 0


def test_cosine_agrees_with_torch_s_own() -> None:
    """A run under `cosine` ends with the weights of a hand loop under CosineAnnealingLR."""

    def train(by_hand: bool) -> Tensor:  # noqa: FBT001  which of the two
        torch.manual_seed(0)
        layer = nn.Linear(4, 4)
        chosen = torch.optim.AdamW(layer.parameters(), lr=1e-2, fused=True)
        scheduler: lr_scheduler.LRScheduler = (
            lr_scheduler.CosineAnnealingLR(chosen, T_max=50)
            if by_hand
            else build_scheduler("cosine", chosen, {}, total_steps=50, steps_per_epoch=5).scheduler
        )
        for _ in range(50):
            chosen.zero_grad()
            layer(torch.ones(2, 4)).square().sum().backward()
            chosen.step()
            scheduler.step()
        return layer.weight.detach()

    torch.testing.assert_close(train(False), train(True), rtol=1e-6, atol=0)


def test_warm_up_reaches_the_rate_and_loses_no_step() -> None:
    """The first step learns already, the last of the warm-up with the full rate, and the decay follows."""
    assert [rate for (rate,) in rates("linear", 8, warmup_steps=4)] == [0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25, 0]


def test_each_group_decays_from_its_own_rate_to_the_same_minimum() -> None:
    """`min_lr` is a rate, not a factor; a group with rate zero stays there."""
    *_, last = rates("cosine", 4, (1.0, 0.1, 0.0), min_lr=0.01)
    assert last == pytest.approx([0.01, 0.01, 0.0])


def test_the_rate_stays_at_the_minimum_after_the_end() -> None:
    """A run that goes on after the planned end does not see the rate rise again."""
    chosen = optimizer()
    schedule = build_scheduler("cosine", chosen, {"min_lr": 0.1}, total_steps=3, steps_per_epoch=None)
    for _ in range(7):
        chosen.step()
        schedule.scheduler.step()
    assert chosen.param_groups[0]["lr"] == pytest.approx(0.1)


def test_a_restored_schedule_goes_on_where_it_was() -> None:
    """The state of schedule and optimizer, loaded into new ones, continues the same rates."""
    straight = rates("cosine", 10, warmup_steps=3)
    first, second = optimizer(), optimizer()
    facts: dict[str, Any] = {"total_steps": 10, "steps_per_epoch": None}
    before = build_scheduler("cosine", first, {"warmup_steps": 3}, **facts).scheduler
    for _ in range(5):
        first.step()
        before.step()
    after = build_scheduler("cosine", second, {"warmup_steps": 3}, **facts).scheduler
    second.load_state_dict(first.state_dict())
    after.load_state_dict(before.state_dict())
    for step in range(5, 10):
        assert [second.param_groups[0]["lr"]] == straight[step]
        second.step()
        after.step()


@pytest.mark.parametrize(
    ("name", "options", "kind", "interval"),
    [
        ("StepLR", {"step_size": 3}, lr_scheduler.StepLR, "epoch"),
        ("step_lr", {"step_size": 3, "interval": "step"}, lr_scheduler.StepLR, "step"),
        ("multi_step_lr", {"milestones": [1, 2]}, lr_scheduler.MultiStepLR, "epoch"),
        ("reduce_lr_on_plateau", {"patience": 1}, lr_scheduler.ReduceLROnPlateau, "epoch"),
        ("one_cycle_lr", {"max_lr": 0.1, "cycle_momentum": False}, lr_scheduler.OneCycleLR, "step"),
        ("torch.optim.lr_scheduler:ExponentialLR", {"gamma": 0.9}, lr_scheduler.ExponentialLR, "epoch"),
        ("cosine", {}, lr_scheduler.LambdaLR, "step"),
    ],
)
def test_torch_s_schedulers_go_by_name(name: str, options: dict[str, Any], kind: type, interval: str) -> None:
    """Each moves by the epoch or the step as it should, unless told otherwise."""
    schedule = build_scheduler(name, optimizer(), options, total_steps=100, steps_per_epoch=10)
    assert (type(schedule.scheduler), schedule.interval) == (kind, interval)


def test_one_cycle_learns_the_length_of_the_training() -> None:
    """A scheduler of torch that asks for `total_steps` gets it, unless the option is given."""
    options = {"max_lr": 0.1, "cycle_momentum": False}
    known = build_scheduler("OneCycleLR", optimizer(), options, total_steps=70, steps_per_epoch=7).scheduler
    given = build_scheduler(
        "OneCycleLR", optimizer(), {**options, "total_steps": 9}, total_steps=70, steps_per_epoch=7
    ).scheduler
    assert (known.state_dict()["total_steps"], given.state_dict()["total_steps"]) == (70, 9)


@pytest.fixture
def registered() -> Iterator[None]:
    """A schedule that a user registered as `halve`."""

    def halve(optimizer: torch.optim.Optimizer, steps_per_epoch: int, times: int = 1) -> Schedule:
        return Schedule(lr_scheduler.StepLR(optimizer, steps_per_epoch * times, 0.5), "step")

    registries["scheduler"].register("halve", halve)
    yield
    registries["scheduler"].unregister("halve")


@pytest.mark.usefixtures("registered")
def test_a_registered_schedule_gets_the_facts_it_asks_for() -> None:
    """A user's factory is called with those facts of the training that its signature has, and its options."""
    schedule = build_scheduler("halve", optimizer(), {"times": 2}, total_steps=None, steps_per_epoch=7)
    assert schedule.interval == "step"
    assert schedule.scheduler.state_dict()["step_size"] == 14


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cosine", {"warmup_step": 3}, "try:      warmup_steps"),
        ("cosine", {"warmup_steps": "3"}, "a number, like 0"),
        ("cosine", {"warmup_steps": 1.5}, "warmup_steps"),
        ("cosine", {"min_lr": -1}, "min_lr"),
        ("cosine", {"warmup_steps": 10}, "below 10"),
        ("step_lr", {}, "needs the option 'step_size'"),
        ("step_lr", {"step_size": 1, "gamma": "half"}, "a number, like 0.1"),
        ("step_lr", {"step_size": 1, "interval": "steps"}, "try:      step"),
        ("sequential_lr", {}, "unknown scheduler"),
    ],
)
def test_a_wrong_option_is_an_error_about_that_option(name: str, options: dict[str, Any], message: str) -> None:
    """What is wrong is said in one message."""
    with pytest.raises(UserError, match=message):
        build_scheduler(name, optimizer(), options, total_steps=10, steps_per_epoch=None)


def test_a_schedule_that_ends_needs_to_know_when() -> None:
    """Data without a length: the error says what to give, and giving it helps."""
    with pytest.raises(UserError, match="total_steps: 10000"):
        build_scheduler("cosine", optimizer(), {}, total_steps=None, steps_per_epoch=None)
    assert build_scheduler("cosine", optimizer(), {"total_steps": 9}, total_steps=None, steps_per_epoch=None)


def test_an_unknown_name_is_offered_the_nearest() -> None:
    """The error lists what there is."""
    with pytest.raises(UnknownNameError) as caught:
        build_scheduler("cosin", optimizer(), {}, total_steps=1, steps_per_epoch=1)
    assert caught.value.nearest == "cosine"
    assert "StepLR" in caught.value.known
