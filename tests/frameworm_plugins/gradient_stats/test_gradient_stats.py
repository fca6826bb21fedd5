"""The gradients' norms are right, before clipping, and alarms come when and as often as they are due."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from bus import Event, EventBus
from bus.testing import record
from frameworm import app, config
from frameworm.errors import UserError
from frameworm.plugins.hooks import HookRegistry
from frameworm.testing import isolated_plugins
from frameworm_plugins.gradient_stats import GradientAlarm, GradientNorms, GradientStats, group_norms

CONFIG = {
    "data": {"name": "synthetic", "samples": 64, "inputs": 4, "targets": 3, "batch_size": 8},
    "model": {"name": "mlp", "inputs": 4, "outputs": 3, "loss": "mse"},
    "trainer": {"epochs": 1, "device": "cpu"},
}


def optimizer(*gradients: list[float], **names: str) -> torch.optim.Optimizer:
    """Return an optimizer with a group for each list, in which are its gradients."""
    groups = []
    for number, values in enumerate(gradients):
        parameter = torch.nn.Parameter(torch.zeros(len(values)))
        parameter.grad = torch.tensor(values)
        groups.append({"params": [parameter], **({"name": names[f"g{number}"]} if f"g{number}" in names else {})})
    return torch.optim.SGD(groups, lr=0.1)


def test_norms_are_by_group() -> None:
    """The 2-norm over all of a group's gradients, under its name or number; a group without gradients has none."""
    sgd = optimizer([3.0, 4.0], [5.0, 12.0], [0.0], g1="head")
    sgd.param_groups[2]["params"][0].grad = None
    sgd.param_groups[0]["params"].append(extra := torch.nn.Parameter(torch.zeros(1)))
    extra.grad = torch.tensor([12.0])
    assert group_norms(sgd) == {"group 0": 13.0, "head": 13.0}
    assert group_norms(torch.optim.SGD([torch.zeros(1)], lr=1)) == {}


def test_clipping_is_taken_back() -> None:
    """What was scaled to a total norm of 1 is told as it was before."""
    sgd = optimizer([3.0, 4.0], [12.0])
    before = torch.nn.utils.clip_grad_norm_([group["params"][0] for group in sgd.param_groups], 1.0)
    assert before.item() == 13.0
    norms = group_norms(sgd, before)
    assert norms["group 0"] == pytest.approx(5.0, rel=1e-4)
    assert norms["group 1"] == pytest.approx(12.0, rel=1e-4)


def run(callback: GradientStats, *steps: list[float]) -> list[Event]:
    """Let the callback see one step after the other; return what it published."""
    bus = EventBus(strict=True)
    with record(bus, GradientNorms, GradientAlarm) as events:
        for number, gradients in enumerate(steps, start=1):
            trainer: Any = type("Trainer", (), {"step": number, "bus": bus, "optimizer": optimizer(gradients)})
            callback.on_optimizer_stepped(trainer, None)
    return list(events)


def test_it_measures_every_so_many_steps() -> None:
    """Nothing happens in the steps between."""
    events = run(GradientStats(every=2), [1.0], [2.0], [3.0], [4.0])
    assert [event.norms for event in events if isinstance(event, GradientNorms)] == [{"group 0": 2.0}, {"group 0": 4.0}]


@pytest.mark.parametrize(
    ("norm", "kind"),
    [(11.0, "exploding"), (math.inf, "exploding"), (math.nan, "exploding"), (0.05, "vanishing"), (0.0, "vanishing")],
)
def test_alarms(norm: float, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Each measurement out of order is an event; the log has the first of a row, and again after it was in order."""
    with caplog.at_level(logging.WARNING):
        events = run(GradientStats(every=1, explode=10, vanish=0.1), [1.0], [norm], [norm], [10.0], [norm])
    alarms = [event for event in events if isinstance(event, GradientAlarm)]
    assert [(alarm.group, alarm.kind) for alarm in alarms] == [("group 0", kind)] * 3
    assert len([record for record in caplog.records if kind in record.getMessage()]) == 2


def test_thresholds_must_leave_room() -> None:
    """Where every norm would be an alarm, that is said."""
    with pytest.raises(UserError, match="no norm is in order"):
        GradientStats(explode=1.0, vanish=1.0)


def test_in_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name in a config: the events are in the journal, and the weights are those of a run without it."""
    monkeypatch.chdir(tmp_path)
    plain = config.parse(CONFIG)
    with app.session(plain) as trainer:
        trainer.fit()
        without = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    watched = {**CONFIG, "callbacks": [{"gradient_stats": {"every": 2, "explode": 1e-3}}]}
    with app.session(config.parse(watched, ["trainer.clip_norm=1e6"])) as trainer:
        trainer.fit()
        with_it = [parameter.detach() for parameter in trainer.model.parameters()]
        assert trainer.run_dir is not None
        lines = (trainer.run_dir / "events.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    names = [entry["event"] for entry in records]
    assert names.count("gradient_norms") == names.count("gradient_alarm") == trainer.step // 2
    alarm = next(entry for entry in records if entry["event"] == "gradient_alarm")
    assert alarm["kind"] == "exploding"
    assert alarm["norm"] > 1e-3
    assert all(torch.equal(one, other) for one, other in zip(without, with_it, strict=True))


def test_another_plugin_may_listen(tmp_path: Path) -> None:
    """Once it is loaded its events have hooks, which go when it is reloaded or unloaded with their listeners."""
    folder = tmp_path / "frameworm_plugins" / "watcher"
    folder.mkdir(parents=True)
    (folder / "plugin.yaml").write_text("name: watcher\nrequires: gradient-stats\n")
    (folder / "__init__.py").write_text(
        "from frameworm.plugins.hooks import HookRegistry\n"
        "def register():\n    HookRegistry.on('on_gradient_alarm')(lambda trainer, group, norm, kind: None)\n"
    )
    with isolated_plugins(tmp_path) as loader:
        assert loader.load("watcher").registered == ("hook on_gradient_alarm",)
        assert loader.reload("gradient-stats").state == "loaded"
        assert list(HookRegistry.list_hooks()) == ["on_gradient_alarm"]
        assert loader.unload("gradient-stats") == ("watcher", "gradient-stats")
        assert HookRegistry.list_hooks() == {}
