"""A trained model is exported: what is written computes what the model computes, or it is not written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_model as fill

import frameworm
from frameworm import app, config
from frameworm.cli import main
from frameworm.core import get_model, registries
from frameworm.core.builtins import BUILTINS
from frameworm.errors import ExportError, UserError
from frameworm.export.manifest import read_export_manifest
from frameworm.export.parity import TOLERANCES
from frameworm.exporting import export, source_of
from frameworm.plugins.selection import Selection
from frameworm.testing import isolated_plugins
from frameworm.training.manifest import measure

FORMATS = ("safetensors", "torch-export", "onnx")

MODELS = """
import torch
from torch import nn
from frameworm.core import register_model

class Base(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layer = nn.Linear(3, 2)
    def compute_loss(self, x, y):
        return {"loss": (self.layer(x.to(self.layer.weight.dtype)) - y).square().mean()}

class Buffers(Base):
    "Batch norm, dropout, and buffers of both kinds."
    def __init__(self, config):
        super().__init__(config)
        self.norm, self.dropout = nn.BatchNorm1d(3), nn.Dropout(0.5)
        self.register_buffer("shift", torch.tensor([1.0, 2.0]))
        self.register_buffer("scale", torch.tensor([3.0, 0.5]), persistent=False)
    def forward(self, x):
        return self.dropout(self.layer(self.norm(x))) * self.scale + self.shift
    def compute_loss(self, x, y):
        return {"loss": (self(x) - y).square().mean()}

class Branching(Base):
    def forward(self, x):
        y = self.layer(x)
        if y.sum() > 0:  # the line that is named
            return y
        return -y

class OneSize(Base):
    def forward(self, x):
        return self.layer(x) + torch.tensor([float(row) for row in range(len(x))])[:, None]

class Random(Base):
    def forward(self, x):
        return self.layer(x) + torch.rand(2)

class Structured(Base):
    def forward(self, x):
        y = self.layer(x)
        return {"logits": y, "pair": (y * 2, y.argmax(1))}

class Textual(Base):
    def forward(self, x):
        return {"logits": self.layer(x), "name": "text"}

class Empty(Base):
    def forward(self, x):
        return {}

class Double(Base):
    def __init__(self, config):
        super().__init__(config)
        self.double()
    def forward(self, x):
        return self.layer(x.double())

class Half(Base):
    def __init__(self, config):
        super().__init__(config)
        self.to(torch.bfloat16)
    def forward(self, x):
        return self.layer(x.to(torch.bfloat16))

class Wide(Base):
    "Gives what a plain `forward(x)` cannot be given."
    def forward(self, x, mask):
        return self.layer(x) * mask
    def forward_inputs(self, batch):
        return batch[0], (batch[0][:, :1] > 0.5).float()

class Refusing(Base):
    def forward(self, latent):
        return self.layer(latent.reshape(len(latent), 7))

class Untranslatable(Base):
    def forward(self, x):
        return torch.linalg.svdvals(self.layer(x))[None] * x[:, :1]  # has no ONNX

class Tied(Base):
    def __init__(self, config):
        super().__init__(config)
        self.other = nn.Linear(3, 2)
        self.other.weight = self.layer.weight
    def forward(self, x):
        return self.layer(x) + self.other(x)

class Stateful(Base):
    def get_extra_state(self):
        return {"vocabulary": "words"}
    def set_extra_state(self, state):
        pass
    def forward(self, x):
        return self.layer(x)

class Tokens(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embedding, self.layer = nn.Embedding(11, 4), nn.Linear(4, 2)
    def forward(self, tokens):
        return self.layer(self.embedding(tokens).mean(1))
    def compute_loss(self, x, y):
        return {"loss": (self(x) - y).square().mean()}
"""

DATASET = """
import torch
from frameworm.core import register_dataset
from frameworm.data import Splits
from torch.utils.data import TensorDataset

def tokens(val=9):
    x = torch.randint(0, 11, (40, 5), generator=torch.Generator().manual_seed(0))
    whole = TensorDataset(x, torch.ones(40, 2))
    return Splits(whole, None if val == 0 else TensorDataset(x[:val], torch.ones(val, 2)))
"""

PLUGIN = """
import torch
from safetensors.torch import load_file, save_file
from frameworm.core import register_exporter
from frameworm.plugins.hooks import HookRegistry

seen = []

class Perturbed:
    amount = 1e-3
    def write(self, forward, folder):
        weights = {name: value.clone() for name, value in forward.model.state_dict().items()}
        weights["layers.4.bias"][0] += self.amount
        save_file(weights, folder / "weights")
        return {"amount": str(self.amount)}
    def load(self, forward, folder):
        model = forward.build().eval()
        model.load_state_dict(load_file(folder / "weights"))
        return model

class Exact(Perturbed):
    amount = 0.0

class Broken(Exact):
    def write(self, forward, folder):
        (folder / "half").write_text("half")
        raise RuntimeError("the plugin's own mistake")

class Silent(Exact):
    def write(self, forward, folder):
        return {}

def register():
    for kind in (Perturbed, Exact, Broken, Silent):
        register_exporter(kind.__name__.lower(), kind)

    @HookRegistry.on("on_model_export")
    def before(model, exporter, format):
        seen.append(("before", type(model).__name__, type(exporter).__name__, format, model.training))

    @HookRegistry.on("on_model_exported")
    def after(trainer, path, format):
        import os
        seen.append(("after", trainer.model_name, os.path.isfile(path), os.path.basename(path), format))
        raise ValueError("a hook that fails")
"""

NONE = Selection(others=False)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project of its own."""
    monkeypatch.chdir(tmp_path)
    Path("models_to_export.py").write_text(MODELS)
    Path("data_to_export.py").write_text(DATASET)
    x = np.random.default_rng(0).random((20, 3), np.float32)
    np.savez("train.npz", x=x, y=np.ones((20, 2), np.float32))
    with isolated_plugins(tmp_path):
        yield tmp_path


def train(model: str | dict[str, Any], data: dict[str, Any] | None = None, **trainer: Any) -> Path:
    """Train a model for an epoch or two, and return its run's folder."""
    result = frameworm.train(
        config.parse(
            {
                "run": {"name": "run"},
                "model": {"name": model} if isinstance(model, str) else model,
                "data": data or {"name": "npz", "path": "train.npz", "batch_size": 4},
                "trainer": {"epochs": 1, "device": "cpu", **trainer},
            }
        )
    )
    assert result.directory is not None
    return result.directory


def mine(name: str) -> Path:
    """Train one of the models above."""
    return train(f"models_to_export:{name}")


DIGITS = {"name": "digits", "batch_size": 64}
MLP = {"name": "mlp", "hidden": [8]}


def command(*arguments: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(main, ["export", *arguments])


def validation(run: Path) -> list[Any]:
    """Return the batches of a run's validation data."""
    loader = app.build_data(config.load(run / "config.yaml")).val
    assert loader is not None
    return list(loader)


# Loads what was exported in a process that has neither the model's code nor frameworm, and computes with it.
ELSEWHERE = """
import sys
import onnxruntime, torch
folder = sys.argv[1]
inputs = torch.load("inputs.pt")
program = torch.export.load(f"{folder}/torch-export/model.pt2").module()
session = onnxruntime.InferenceSession(f"{folder}/onnx/model.onnx")
names = [node.name for node in session.get_inputs()]
outputs = {}
for size in (1, 5, len(inputs)):
    with torch.no_grad():
        outputs["torch-export", size] = torch.cat([program(batch) for batch in inputs.split(size)])
    made = [session.run(None, dict(zip(names, [batch.numpy()])))[0] for batch in inputs.split(size)]
    outputs["onnx", size] = torch.cat([torch.from_numpy(output) for output in made])
assert not [name for name in sys.modules if name.partition(".")[0] in ("frameworm", "bus")]
torch.save({f"{name} {size}": value for (name, size), value in outputs.items()}, "outputs.pt")
"""


def computed_elsewhere(folder: Path, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return what the exports in a folder make of the inputs, in a new process, by format and batch size."""
    torch.save(inputs, "inputs.pt")
    subprocess.run([sys.executable, "-W", "ignore", "-c", ELSEWHERE, folder], check=True)
    found: dict[str, torch.Tensor] = torch.load("outputs.pt")
    return found


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("model", "data"),
    [
        (MLP, DIGITS),
        ("cnn", DIGITS),
        ("vae", DIGITS),
        ("models_to_export:Buffers", None),
        ("models_to_export:Tokens", {"name": "data_to_export:tokens", "batch_size": 4}),
    ],
    ids=["mlp", "cnn", "vae", "buffers", "tokens"],
)
def test_all_formats_agree_with_the_model_in_another_process(model: Any, data: Any) -> None:
    """On all validation data, in batches of one, of several and of all, within 1e-5."""
    run = train(model, data)
    done = command("--run", str(run), "--format", "all", "--no-plugins")
    assert done.exit_code == 0, done.output
    (folder,) = (run / "exports").iterdir()
    inputs = torch.cat([batch[0] for batch in validation(run)])
    live = frameworm.load_model(run)
    with torch.no_grad():
        expected = live(inputs)
    found = computed_elsewhere(folder, inputs)
    assert len(found) == 6
    for output in found.values():
        assert output.dtype == expected.dtype
        assert float((output - expected).abs().max()) <= 1e-5
    settings = config.Section(config.read(folder / "config.yaml"))
    again = get_model(settings.model.name)(settings)
    fill(again, folder / "safetensors" / "model.safetensors")
    with torch.no_grad():
        assert torch.equal(again.eval()(inputs), expected)


def test_the_manifest_says_what_is_there() -> None:
    """Of which checkpoint, with which files, what goes in and out, and how well it agrees on how many samples."""
    run = train(MLP, DIGITS)
    done = command("--run", str(run), "--format", "all", "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    folder = Path(said.pop("path"))
    assert said == json.loads((folder / "manifest.json").read_text())
    assert run.name.endswith(said["run"])
    assert (said["model"], said["epoch"], said["averaged"]) == ("mlp", 0, False)
    assert said["inputs"] == [{"name": "x", "shape": ["batch", 1, 8, 8], "dtype": "float32"}]
    assert said["outputs"] == [{"name": "output", "shape": ["batch", 10], "dtype": "float32"}]
    assert tuple(said["formats"]) == FORMATS
    about = read_export_manifest(folder)
    for made in about.formats.values():
        assert {name: measure(folder / name) for name in made.files} == made.files
        assert made.parity.samples == sum(len(batch[0]) for batch in validation(run))
        assert {1, 39, 64} <= set(made.parity.batch_sizes)
        assert 0 <= made.parity.max_abs_error <= made.parity.tolerance == TOLERANCES[torch.float32]
    assert about.formats["onnx"].facts["opset"]


def test_the_table_is_short() -> None:
    """Format, file, size and error of each."""
    train(MLP, DIGITS)
    done = command("--format", "safetensors", "-o", "out")
    assert done.stdout.splitlines()[1].split() == ["format", "file", "bytes", "error"]
    size = Path("out/safetensors/model.safetensors").stat().st_size
    assert done.stdout.splitlines()[2].split() == ["safetensors", "safetensors/model.safetensors", str(size), "0"]


def test_the_average_is_exported_where_the_run_kept_one() -> None:
    """As `evaluate` and `load_model` take it."""
    run = train(MLP, DIGITS, ema=0.9)
    found = frameworm.export_model(run, FORMATS, output="out")
    assert found.manifest.averaged
    inputs = torch.cat([batch[0] for batch in validation(run)])
    average = frameworm.load_model(run)
    trained = average.state_dict() | {}
    last = next((run / "checkpoints").glob("step-*"))
    fill(average, last / "model.safetensors")
    with torch.no_grad():
        weights = average(inputs)
        average.load_state_dict(frameworm.load_model(run).state_dict())
        expected = average(inputs)
    assert trained
    for output in computed_elsewhere(Path("out"), inputs).values():
        assert float((output - expected).abs().max()) <= 1e-5
        assert float((output - weights).abs().max()) > 1e-3


def test_outputs_may_be_structured() -> None:
    """Tensors in dicts and tuples are compared each, under their names; whole numbers too."""
    found = frameworm.export_model(mine("Structured"))
    assert [(spec.name, spec.shape, spec.dtype) for spec in found.manifest.outputs] == [
        ("output_logits", ("batch", 2), "float32"),
        ("output_pair_0", ("batch", 2), "float32"),
        ("output_pair_1", ("batch",), "int64"),
    ]


def test_a_model_says_what_its_forward_takes() -> None:
    """`forward_inputs(batch)`: several tensors, or, of the gan, latents instead of images."""
    found = frameworm.export_model(mine("Wide"))
    assert [(spec.name, spec.shape) for spec in found.manifest.inputs] == [("x", ("batch", 3)), ("mask", ("batch", 1))]
    run = train("gan", DIGITS)
    gan = frameworm.export_model(run)
    assert [(spec.name, spec.shape) for spec in gan.manifest.inputs] == [("z", ("batch", 32))]


@pytest.mark.parametrize(("name", "tolerance"), [("Double", 1e-5), ("Half", 5e-2)])
def test_other_precisions(name: str, tolerance: float) -> None:
    """They are exported as they are, and judged by what their numbers can be."""
    found = frameworm.export_model(mine(name), ("safetensors", "torch-export"))
    assert {made.parity.tolerance for made in found.manifest.formats.values()} == {tolerance}
    if name == "Double":
        double = frameworm.export_model(source_run := found.path.parent.parent, "onnx", output="onnx")
        assert double.manifest.outputs[0].dtype == "float64"
        assert source_run.is_dir()


def test_tied_weights_stay_tied() -> None:
    """One tensor under two names is written once, and both get it."""
    assert list(frameworm.export_model(mine("Tied")).manifest.formats) == list(FORMATS)


@pytest.mark.parametrize(
    ("name", "formats", "message"),
    [
        ("Branching", "torch-export", "goes a way that depends on the values"),
        ("Branching", "onnx", "if y.sum() > 0:  # the line that is named"),
        ("OneSize", "torch-export", "works for one batch size alone"),
        ("Random", "safetensors", "draws random numbers"),
        ("Textual", "safetensors", "gives what cannot be exported"),
        ("Empty", "safetensors", "gives no tensor"),
        ("Base", "safetensors", "the model has no `forward`"),
        ("Refusing", "safetensors", "forward_inputs(batch)"),
        ("Untranslatable", "onnx", "svd"),
        ("Stateful", "safetensors", "cannot hold the model's state"),
    ],
)
def test_a_model_that_cannot_be_exported(
    name: str, formats: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """One clear message that says where, exit code 2, nothing else is said, and nothing is left."""
    run = mine(name)
    before = sorted(run.rglob("*"))
    capfd.readouterr()
    done = command("--run", str(run), "--format", "safetensors", "--format", formats)
    said = capfd.readouterr()
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert (done.stdout, said.out, said.err) == ("", "", "")
    assert sorted(run.rglob("*")) == before
    if name == "Branching":
        line = MODELS.splitlines().index("        if y.sum() > 0:  # the line that is named") + 1
        assert f"models_to_export.py:{line}" in done.stderr


@pytest.fixture
def plugin(here: Path) -> str:
    """A plugin with exporters, right and wrong ones, and hooks, of which one fails."""
    folder = here / "frameworm_plugins" / "exporters_in_test"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(PLUGIN)
    (folder / "plugin.yaml").write_text("name: exporters-in-test\nversion: '1'\nhooks: [exporter, callback]\n")
    return "exporters-in-test"


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("perturbed", 1, "does not compute what the model computes"),
        ("broken", 1, "the plugin's own mistake"),
        ("silent", 1, "has written nothing"),
    ],
)
def test_an_exporter_that_is_wrong_is_refused(plugin: str, name: str, code: int, message: str) -> None:
    """The error that was found is told, and what the formats before it had written is gone as well."""
    run = train(MLP, DIGITS)
    before = sorted(run.rglob("*"))
    done = command("--run", str(run), "--format", "safetensors", "--format", name)
    assert done.exit_code == code
    assert message in done.stderr
    assert sorted(run.rglob("*")) == before
    if name == "perturbed":
        assert "no error above 1e-05, on 359 samples" in done.stderr
        assert command("--format", name, "--tolerance", "0.1").exit_code == 0


def test_a_plugins_exporter_and_hooks(plugin: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is registered in the plugin's name; hooks hear of each format, before and after, one that fails apart."""
    train(MLP, DIGITS)
    found = export(source_of(root=Path("runs")), ["exact", "safetensors"])
    about = found.manifest.formats["exact"]
    assert (about.exporter, about.facts) == (plugin, {"amount": "0.0"})
    module = sys.modules["frameworm_plugins.exporters_in_test"]
    assert module.seen == [
        ("before", "MLP", "Exact", "exact", False),
        ("before", "MLP", "Safetensors", "safetensors", False),
        ("after", "mlp", True, "weights", "exact"),
        ("after", "mlp", True, "model.safetensors", "safetensors"),
    ]
    assert "a hook that fails" in caplog.text
    assert set(frameworm.export_model(output="all").manifest.formats) == set(BUILTINS["exporter"]) == set(FORMATS)


def test_a_plugins_exporter_goes_with_the_plugin(plugin: str) -> None:
    """Loading shows it, disabling the plugin takes it away."""
    train(MLP, DIGITS)
    loaded = CliRunner().invoke(main, ["plugins", "load", plugin])
    assert "exporter exact" in loaded.output
    assert "exact" in registries["exporter"].names()
    checked = CliRunner().invoke(main, ["plugins", "check", plugin])
    assert checked.exit_code == 0, checked.output
    assert CliRunner().invoke(main, ["plugins", "unload", plugin]).exit_code == 0
    assert registries["exporter"].names() == tuple(sorted(FORMATS))
    done = command("--format", "exact")
    assert (done.exit_code, "unknown exporter 'exact'" in done.stderr) == (2, True)


def test_an_export_is_not_replaced_by_itself() -> None:
    """Only when told to, only an export, whole, and never together with other files."""
    run = train(MLP, DIGITS)
    assert command("--format", "safetensors", "-o", "out").exit_code == 0
    for arguments, message in (((), "there is an export already"), (("--overwrite",), "")):
        done = command("--format", "torch-export", "-o", "out", *arguments)
        assert (done.exit_code, message in done.stderr) == (2 if message else 0, True)
    assert sorted(path.name for path in Path("out").iterdir()) == ["config.yaml", "manifest.json", "torch-export"]
    Path("out/notes.txt").write_text("mine")
    done = command("--format", "onnx", "-o", "out", "--overwrite")
    assert (done.exit_code, "notes.txt" in done.stderr) == (2, True)
    Path("mine").mkdir()
    Path("mine/file").touch()
    done = command("--format", "onnx", "-o", "mine", "--overwrite")
    assert (done.exit_code, "something else" in done.stderr) == (2, True)
    assert sorted(path.name for path in Path().glob(".export-*")) == []
    assert run.exists()


def test_an_export_that_fails_leaves_the_earlier_one(plugin: str) -> None:
    """With --overwrite too: the old one goes when the new one is complete."""
    train(MLP, DIGITS)
    assert command("--format", "safetensors", "-o", "out").exit_code == 0
    before = Path("out/manifest.json").read_bytes()
    assert command("--format", "perturbed", "-o", "out", "--overwrite").exit_code == 1
    assert Path("out/manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run", "none"], "no run 'none'"),
        (["--format", "onxx"], "unknown exporter 'onxx'"),
        (["--checkpoint", "bets"], "no checkpoint 'bets'"),
        (["--checkpoint", "runs/nowhere"], "no such checkpoint"),
        (["--run", "run", "--checkpoint", "runs/nowhere"], "says which run is meant"),
        (["-o", "train.npz"], "train.npz"),
        (["-o", "train.npz/below"], "cannot be written"),
        (["-o", "/proc/export"], "cannot be written"),
    ],
)
def test_wrong_input(arguments: list[str], message: str) -> None:
    """One clear message and exit code 2."""
    train(MLP, DIGITS)
    done = command("--format", "safetensors", *arguments)
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_what_the_run_lacks() -> None:
    """Validation data, a checkpoint that is whole, one at all: each is told."""
    run = train("models_to_export:Tokens", {"name": "data_to_export:tokens", "val": 0, "batch_size": 4})
    assert "no validation data" in command("--format", "safetensors").stderr
    run = train(MLP, DIGITS)
    (checkpoint,) = (run / "checkpoints").iterdir()
    weights = checkpoint / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    done = command("--format", "safetensors", "--checkpoint", str(checkpoint))
    assert (done.exit_code, "damaged" in done.stderr) == (2, True)
    weights.unlink()
    done = command("--format", "safetensors")
    assert (done.exit_code, "no complete checkpoint" in done.stderr) == (2, True)
    assert not (run / "exports").exists()


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is done."""
    train(MLP, DIGITS)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    done = command("--format", "all")
    assert done.exit_code == 2
    assert "pip install 'frameworm[onnx]'" in done.stderr


def test_a_single_sample_will_do() -> None:
    """Validation data of one sample are exported for any batch size."""
    run = train("models_to_export:Tokens", {"name": "data_to_export:tokens", "val": 1, "batch_size": 4})
    found = frameworm.export_model(run)
    assert {made.parity.batch_sizes for made in found.manifest.formats.values()} == {(1,)}
    inputs = torch.randint(0, 11, (7, 5))
    with torch.no_grad():
        expected = frameworm.load_model(run)(inputs)
    for output in computed_elsewhere(found.path, inputs).values():
        assert torch.allclose(output, expected, atol=1e-5)


def test_the_python_door_raises(plugin: str) -> None:
    """As all others do: what a person got wrong, and what does not agree."""
    train(MLP, DIGITS)
    with pytest.raises(UserError, match="no run"):
        frameworm.export_model("none")
    with pytest.raises(ExportError, match="does not compute"):
        frameworm.export_model(formats="perturbed")
    with pytest.raises(UserError, match="no format"):
        frameworm.export_model(formats=())
