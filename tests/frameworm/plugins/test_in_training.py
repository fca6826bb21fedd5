"""Plugins in real runs: which are loaded, what their hooks see, and that whatever they do training goes on."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import frameworm
from bus import EventBus, default_bus
from frameworm import app
from frameworm.cli import main
from frameworm.errors import PluginError, UnknownNameError
from frameworm.events import ModelExport
from frameworm.plugins.hooks import HookRegistry
from frameworm.plugins.loader import get_plugin_loader
from frameworm.testing import isolated_plugins
from tests.frameworm.plugins.conftest import Write
from tests.frameworm.plugins.test_loader import DOCUMENT

CONFIG = """
data: {name: synthetic, samples: 48, inputs: 4, targets: 3, batch_size: 8}
model: {name: mlp, inputs: 4, outputs: 3, loss: mse}
trainer: {epochs: 1, device: cpu, accumulate: 2}
run: {name: tiny}
"""

MODEL = """
import torch.nn as nn
from torch.utils.data import Dataset
import torch
from frameworm.core import register_dataset, register_model

class Linear(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def compute_loss(self, x, y=None):
        return {"loss": nn.functional.mse_loss(self.layer(x), y)}

class Items(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.full((4,), float(index)), torch.zeros(3)

def register():
    register_model("plugins_linear", Linear)
    register_dataset("plugins_items", Items)
"""

FOURTEEN = """
import torch
from pathlib import Path
from frameworm.plugins.hooks import HookRegistry

seen = []
kept = {}

def weights(trainer):
    return torch.cat([p.detach().flatten().clone() for p in trainer.model.parameters()])

def register():
    @HookRegistry.on("on_train_begin")
    def train_begin(trainer): seen.append(("train_begin", trainer.step))

    @HookRegistry.on("on_train_end")
    def train_end(trainer): seen.append(("train_end", trainer.status))

    @HookRegistry.on("on_epoch_begin")
    def epoch_begin(trainer, epoch): seen.append(("epoch_begin", epoch))

    @HookRegistry.on("on_epoch_end")
    def epoch_end(trainer, epoch, metrics): seen.append(("epoch_end", epoch, sorted(metrics)))

    @HookRegistry.on("on_batch_begin")
    def batch_begin(trainer, batch_idx, batch):
        kept["before"] = weights(trainer)
        seen.append(("batch_begin", batch_idx, [tuple(part.shape) for part in batch]))

    @HookRegistry.on("on_batch_end")
    def batch_end(trainer, batch_idx, loss): seen.append(("batch_end", batch_idx, loss.requires_grad, loss.dim()))

    @HookRegistry.on("on_backward_begin")
    def backward_begin(trainer, loss): seen.append(("backward_begin", loss.requires_grad))

    @HookRegistry.on("on_backward_end")
    def backward_end(trainer):
        seen.append(("backward_end", all(p.grad is not None for p in trainer.model.parameters())))

    @HookRegistry.on("on_optimizer_step")
    def optimizer_step(trainer): seen.append(("optimizer_step", bool((weights(trainer) == kept["before"]).all())))

    @HookRegistry.on("on_validation_begin")
    def validation_begin(trainer): seen.append(("validation_begin",))

    @HookRegistry.on("on_validation_end")
    def validation_end(trainer, metrics): seen.append(("validation_end", sorted(metrics)))

    @HookRegistry.on("on_checkpoint_save")
    def checkpoint_save(trainer, path):
        kept["weights"] = weights(trainer)
        seen.append(("checkpoint_save", Path(path).exists()))

    @HookRegistry.on("on_checkpoint_load")
    def checkpoint_load(trainer, checkpoint):
        seen.append(("checkpoint_load", bool((weights(trainer) == kept["weights"]).all())))

    @HookRegistry.on("on_model_export")
    def model_export(model, exporter, format): seen.append(("model_export", model, exporter, format))
"""


@pytest.fixture
def project(tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project to be in, with a config; its plugins are unloaded at the end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FRAMEWORM_PLUGINS", raising=False)
    (tmp_path / "frameworm_plugins").mkdir()
    (tmp_path / "config.yaml").write_text(CONFIG, encoding="utf-8")
    with isolated_plugins():
        yield tmp_path


def frameworm_command(*words: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "frameworm", *words],
        cwd=cwd,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        check=False,
    )


def test_all_fourteen_hooks_in_their_order(project: Path, write: Write) -> None:
    """Two micro-batches a step: arguments, order and state are those that the document's reference promises."""
    write("fourteen", FOURTEEN, "hooks: callback")
    app.train(project / "config.yaml")
    module = sys.modules["frameworm_plugins.fourteen"]
    first, last = list(module.seen), module.seen[-3:]
    micro = [("backward_begin", True), ("backward_end", True)]
    window = [
        ("batch_begin", 0, [(8, 4), (8, 3)]),
        *micro,
        ("batch_end", 0, False, 0),
        ("batch_begin", 1, [(8, 4), (8, 3)]),
        *micro,
        ("optimizer_step", True),
        ("batch_end", 1, False, 0),
    ]
    assert first[: 2 + len(window)] == [("train_begin", 0), ("epoch_begin", 0), *window]
    assert sum(event[0] == "optimizer_step" for event in first) == 3
    metrics = ["loss", "lr", "train_loss", "val_loss"]
    assert first[-5:-3] == [("validation_begin",), ("validation_end", ["val_loss"])]
    assert last == [("epoch_end", 0, metrics), ("checkpoint_save", False), ("train_end", "finished")]

    (environment,) = (project / "runs").glob("*/environment.json")
    assert json.loads(environment.read_text())["plugins"]["fourteen"] == "0.0.0"

    module.seen.clear()
    config = frameworm.config.load(project / "config.yaml", ["trainer.epochs=2"])
    with app.session(config, resume="latest") as trainer:
        trainer.fit()
        trainer.bus.publish(ModelExport(trainer, trainer.model, "exporter", "onnx"))
    assert module.seen[1] == ("checkpoint_load", True)  # the weights are those that were saved
    assert module.seen[-1] == ("model_export", trainer.model, "exporter", "onnx")
    assert [event[0] for event in module.seen[:3]] == ["train_begin", "checkpoint_load", "epoch_begin"]


def test_two_trainers_in_two_threads_share_nothing_but_the_registry(project: Path, write: Write) -> None:
    """A hook of a plugin hears both, each with its own trainer."""
    write(
        "listening",
        """
        from frameworm.plugins.hooks import HookRegistry
        heard = []

        @HookRegistry.on("on_epoch_end")
        def epoch_end(trainer, epoch, metrics):
            heard.append((trainer.name, epoch))
    """,
    )
    configs = [frameworm.config.load(project / "config.yaml", [f"run.name={name}"]) for name in ("one", "two")]
    trainers = [app.build(config) for config in configs]
    threads = [threading.Thread(target=trainer.fit) for trainer in trainers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    heard = sys.modules["frameworm_plugins.listening"].heard
    assert sorted(heard) == [("one", 0), ("two", 0)]
    assert trainers[0].bus is not trainers[1].bus
    assert trainers[0].metrics is not trainers[1].metrics


def test_a_model_and_data_in_a_dashed_folder(project: Path, write: Write) -> None:
    """Spawned workers unpickle the dataset, a fresh process restores the model from its checkpoint."""
    write("my-data", MODEL, "hooks: [model, dataset]")
    program = """
import multiprocessing, frameworm
multiprocessing.set_start_method("spawn")
result = frameworm.train("config.yaml", ["data.name=plugins_items", "data.num_workers=2", "model.name=plugins_linear"])
print(result.status)
"""
    config = "data: {name: plugins_items, batch_size: 4}\ntrainer: {epochs: 1, device: cpu}\n"
    (project / "config.yaml").write_text(config, encoding="utf-8")
    trained = subprocess.run([sys.executable, "-c", program], cwd=project, capture_output=True, text=True, check=False)
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout.split()[-1] == "finished"
    (run_dir,) = map(str, (project / "runs").iterdir())
    restored = subprocess.run(
        [sys.executable, "-c", f"import frameworm; print(type(frameworm.load_model({run_dir!r})))"],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert restored.stdout.strip() == "<class 'frameworm_plugins.my-data.Linear'>", restored.stderr


BROKEN = {
    "syntax": ("def register(:", ""),
    "leaving": ("import sys; sys.exit(0)", ""),
    "failing": ("def register(): raise RuntimeError('oh')", ""),
    "needy": ("def register(): ...", "dependencies: [no-such-package-at-all]"),
    "tagged": ("def register(): ...", "description: !!python/object/apply:os.system [echo hacked]"),
    "typo": ("def register(): ...", "hooks: [modle]"),
}


def test_broken_neighbours_do_not_stop_the_run(project: Path, write: Write, caplog: pytest.LogCaptureFixture) -> None:
    """Each is told of once, with its reason, and the good one works."""
    for name, (code, manifest) in BROKEN.items():
        write(name, code, manifest)
    (project / "frameworm_plugins" / "dangling").symlink_to(project / "nowhere")
    write("good", DOCUMENT, "")
    with caplog.at_level(logging.WARNING, logger="frameworm"):
        assert app.train(project / "config.yaml").status == "finished"
    told = [record.getMessage() for record in caplog.records if record.getMessage().startswith("plugin ")]
    assert sorted(text.split("'")[1] for text in told) == sorted([*BROKEN, "dangling"])
    assert HookRegistry.list_hooks()["on_epoch_end"] == ["good:register.<locals>.my_hook (50)"]


@pytest.mark.parametrize("named", ["config", "command"])
def test_what_the_run_names_must_load(project: Path, write: Write, named: str) -> None:
    """It is an error before anything is written, from the config as from the command."""
    write("failing", "def register(): raise RuntimeError('oh')", "")
    if named == "config":
        (project / "config.yaml").write_text(f"{CONFIG}plugins: {{failing: }}\n", encoding="utf-8")
        with pytest.raises(PluginError, match="oh"):
            app.train(project / "config.yaml")
    else:
        result = frameworm_command("train", "--plugin", "failing", cwd=project)
        assert result.returncode == 2
        assert "RuntimeError: oh" in result.stderr
        assert "Traceback" not in result.stderr
    assert not (project / "runs").exists()


def test_options_from_the_config(project: Path, write: Write) -> None:
    """They reach `register`, and a wrong one is told with what is right."""
    write("greeter", "SEEN = []\ndef register(greeting: str = 'hello'): SEEN.append(greeting)", "")
    config = frameworm.config.load(project / "config.yaml", ["plugins.greeter.greeting=hi"])
    app.build(config)
    assert sys.modules["frameworm_plugins.greeter"].SEEN == ["hi"]
    with pytest.raises(PluginError, match="has no option 'greting'"):
        app.build(frameworm.config.load(project / "config.yaml", ["plugins.greeter.greting=hi"]))


@pytest.mark.parametrize(
    ("words", "environ"),
    [
        (["--no-plugins"], {}),
        ([], {"FRAMEWORM_PLUGINS": ""}),
        ([], {"FRAMEWORM_PLUGINS": "epoch-report"}),
        (["--set", "plugins.disable=[my_plugin]"], {}),
    ],
)
def test_plugins_can_be_left_out(project: Path, write: Write, words: list[str], environ: dict[str, str]) -> None:
    """By the command, by the environment, by the config; the error counts what is found but not loaded."""
    write("my-plugin", DOCUMENT.replace("class MyModel:\n        pass", MODEL), "")
    result = CliRunner(env=environ).invoke(main, ["train", "--model", "my_model", *words])
    assert result.exit_code == 2
    assert "unknown model 'my_model'" in result.stderr
    assert "my-plugin (available)" in result.stderr


def test_what_was_unloaded_stays_away_until_it_is_loaded_again(project: Path, write: Write) -> None:
    """A later process remembers; a plugin that is named is loaded all the same."""
    write("my-plugin", MODEL, "")
    get_plugin_loader().memory.disable("my-plugin")
    config = frameworm.config.load(project / "config.yaml", ["model.name=plugins_linear"])
    with pytest.raises(UnknownNameError, match=r"my-plugin \(disabled\)"):
        app.build(config)
    app.build(config, plugins=app.selected(config, named=["my_plugin"]))
    get_plugin_loader().memory.enable("my-plugin")
    assert json.loads((project / ".frameworm" / "plugins.json").read_text()) == {"disabled": []}


def test_a_project_that_everyone_can_write_to_is_refused(project: Path, write: Write) -> None:
    """Its plugins are not run, the reason is told, and training goes on without them."""
    write("evil", "raise AssertionError('it ran')", "")
    (project / "frameworm_plugins").chmod(0o777)
    result = frameworm_command("train", cwd=project)
    assert result.returncode == 0, result.stderr
    assert "can be written to by everyone" in result.stderr
    assert "it ran" not in result.stderr
    trusted = frameworm_command("train", cwd=project, FRAMEWORM_TRUST=str(project))
    assert "it ran" in trusted.stderr


def test_a_plugin_may_print(project: Path, write: Write) -> None:
    """In a log of JSON lines it is a line; a terminal without the character is shown it escaped."""
    write(
        "printing",
        """
        print("at import ✓")
        from frameworm.plugins.hooks import HookRegistry

        @HookRegistry.on("on_epoch_end")
        def tell(trainer): print("at the end ✓")
    """,
    )
    result = frameworm_command("train", "--log-format", "json", cwd=project)
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    printed = [
        line["text"] if "text" in line else line["event"]
        for line in lines
        if "✓" in json.dumps(line, ensure_ascii=False)
    ]
    assert len(printed) == 2
    plain = frameworm_command("train", cwd=project, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert plain.returncode == 0, plain.stderr
    assert "at import \\u2713" in plain.stdout
    assert "at the end \\u2713" in plain.stdout
    assert "UnicodeEncodeError" not in plain.stderr


def test_a_failing_hook_is_named_at_the_end(project: Path, write: Write) -> None:
    """With plugin, hook, place and how often; the run finishes."""
    path = write(
        "shaky",
        """
        from frameworm.plugins.hooks import HookRegistry

        @HookRegistry.on("on_batch_end")
        def shake(trainer, batch_idx, loss):
            raise ValueError("oh")
    """,
    )
    result = frameworm_command("train", cwd=project)
    assert result.returncode == 0
    assert f"shaky:shake failed on batch_end at {path / '__init__.py'}:6" in result.stderr
    assert re.search(r"shaky:shake failed \d times, last with ValueError: oh", result.stdout)


def test_an_installed_integration_switches_nothing_on(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugins that ship register factories; without a config that names one, nobody listens."""
    monkeypatch.delitem(sys.modules, "mlflow", raising=False)  # another test may have needed it
    before = len(default_bus.subscriptions())
    trainer = app.build(frameworm.config.load(project / "config.yaml"), bus=EventBus(default_bus))
    assert {plugin.source for plugin in get_plugin_loader().list_plugins() if plugin.state == "loaded"} == {"shipped"}
    assert len(default_bus.subscriptions()) == before
    assert "mlflow" not in sys.modules
    assert trainer.status != "running"
