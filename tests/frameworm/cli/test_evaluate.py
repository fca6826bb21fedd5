"""`frameworm evaluate` says how good a trained model is, to people and to programs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from frameworm.cli import main
from frameworm.plugins.loader import get_plugin_loader
from frameworm.runs import list_runs
from frameworm.training.manifest import list_checkpoints

CONFIG = """
data: {name: synthetic, samples: 64, inputs: 4, targets: 3, batch_size: 16}
model: {name: generator}
trainer: {epochs: 2, device: cpu}
run: {name: tiny}
metrics: [my_score]
"""

PLUGIN = """
import torch
from torch import nn

from frameworm.core import register_metric, register_model
from frameworm.plugins.hooks import HookRegistry

print("✓ is here")


@register_model("generator")
class Generator(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def compute_loss(self, x, y=None):
        return {"loss": nn.functional.mse_loss(self.layer(x), y)}

    def sample(self, n):
        return torch.randn(n, 4) * self.layer.weight.mean()


register_model("other", lambda config: nn.Sequential(Generator(config)))


@register_metric("my_score")
class MyScoreMetric:
    def __call__(self, real_images, fake_images):
        print("scoring", len(real_images), len(fake_images))
        return fake_images.std() / real_images.std()


@HookRegistry.on("on_validation_end")
def told(trainer, metrics):
    print("told of", trainer.model_name, "at step", trainer.step)
"""


@pytest.fixture(autouse=True)
def _plugin(project: Path) -> None:
    """The project has a config, and a plugin that brings a model, a metric and a hook."""
    (project / "config.yaml").write_text(CONFIG, "utf-8")
    plugin = project / "frameworm_plugins" / "makes-images"
    plugin.mkdir()
    (plugin / "__init__.py").write_text(PLUGIN, "utf-8")


@pytest.fixture
def checkpoints() -> list[Path]:
    """The checkpoints of a run that was trained."""
    done = CliRunner().invoke(main, ["train"])
    assert done.exit_code == 0, done.output
    [run] = list_runs(Path("runs"))
    return [checkpoint.path for checkpoint in list_checkpoints(run.path / "checkpoints")]


def evaluate(*arguments: str) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(main, ["evaluate", *arguments])


def test_the_metrics_for_people(checkpoints: list[Path]) -> None:
    """Which checkpoint it was comes first, then the metrics; plugins' models, metrics and hooks take part."""
    done = evaluate("--checkpoint", "latest")
    assert (done.exit_code, done.stderr.count("with the plugin makes-images")) == (0, 1)
    *printed, checkpoint, metrics = done.stdout.splitlines()
    assert printed == ["scoring 13 13", "told of generator at step 8"]
    assert checkpoint == f"generator, epoch 2, step 8: {checkpoints[-1]}"
    assert metrics.split()[::2] == ["val_loss", "val_my_score"]


def test_the_metrics_for_programs(checkpoints: list[Path]) -> None:
    """As JSON the same has names, and what plugins print goes to stderr."""
    done = evaluate("--json", "--checkpoint", str(checkpoints[0]))
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["model"], found["checkpoint"], found["epoch"], found["step"]) == (
        "generator",
        str(checkpoints[0].absolute()),
        0,
        4,
    )
    assert set(found["metrics"]) == {"val_loss", "val_my_score"}
    assert "scoring 13 13" in done.stderr


def test_the_same_each_time(checkpoints: list[Path]) -> None:
    """A second command finds the same, also by the run's name."""
    first = json.loads(evaluate("--json").stdout)
    assert json.loads(evaluate("--json", "--run", checkpoints[0].parent.parent.name).stdout) == first


def test_a_program_gets_json_alone(checkpoints: list[Path]) -> None:
    """In a process of its own a plugin's prints, at import too, come on stderr, and stdout is one JSON text."""
    command = (sys.executable, "-m", "frameworm", "evaluate", "--json")
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["checkpoint"] in map(str, checkpoints)
    assert "✓ is here\n" in done.stderr


@pytest.mark.usefixtures("checkpoints")
def test_from_below_the_root(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a plugin's folder the project's config and runs are used, and that is said."""
    monkeypatch.chdir(project / "frameworm_plugins" / "makes-images")
    done = evaluate()
    assert done.exit_code == 0, done.output
    assert f"using config.yaml of the project at {project}" in done.stderr


def test_other_settings(checkpoints: list[Path]) -> None:
    """Keys of the config can be changed, the model by an option of its own."""
    metrics = json.loads(evaluate("--json", "--set", "metrics=[]", "--set", "data.seed=1").stdout)["metrics"]
    assert list(metrics) == ["val_loss"]
    done = evaluate("--model", "other", "--set", "metrics=[]")
    assert done.exit_code == 2
    assert "expected: the weights of other\n  got:      those of generator: missing" in done.stderr
    assert checkpoints


@pytest.mark.usefixtures("checkpoints")
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--checkpoint", "bets"], "error: no checkpoint 'bets'"),
        (["--run", "none"], "error: no run 'none'"),
        (["--set", "data.val_fraction=0"], "error: there are no validation data to evaluate on"),
        (["--plugin", "nobody"], "error: plugin 'nobody': there is none of that name"),
        (["--config", "none.yaml"], "none.yaml"),
        (["--set", "metrics=[nothing]"], "error: unknown metric 'nothing'"),
    ],
)
def test_wrong_input(arguments: list[str], text: str) -> None:
    """One message on stderr, nothing on stdout."""
    done = evaluate(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert text in done.stderr


def test_without_plugins(checkpoints: list[Path]) -> None:
    """What a plugin would bring is unknown then, and the message says that one was left out."""
    assert checkpoints
    get_plugin_loader().unload("makes-images")
    done = evaluate("--no-plugins")
    assert done.exit_code == 2
    assert "unknown metric 'my_score'" in done.stderr
    assert "found but not loaded: makes-images (available)" in done.stderr
