"""What several processes train is what one trains, and what some have saved others go on with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file
from torch import Tensor

from frameworm import load_model
from frameworm.delivery.journal import journal_path
from frameworm.training.checkpoint import weights_at
from frameworm.training.manifest import list_checkpoints
from tests.faults.ranks import CONFIG, a_free_port, launched, trained
from tests.faults.support import LONG
from tests.frameworm.training.distributed.own_loaders import CASES

SHORT = CONFIG.replace("WHAT", "nothing").replace("epochs: 4000", "epochs: 2").replace("validate_every: 5", "ema: 0.9")
ROUNDED = 2e-6
"""How far weights of about 0.1 come apart in float32 when two processes add in another order; measured: 2e-7."""


def last_weights(run: Path) -> dict[str, Tensor]:
    """Return the weights in a run's last checkpoint."""
    return weights_at(list_checkpoints(run / "checkpoints")[-1].path)


def apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Return the largest difference between two models' weights."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def means(run: Path, event: str, rank: int = 0) -> list[dict[str, float]]:
    """Return the metrics that were recorded with an event, by one rank."""
    lines = [json.loads(line) for line in journal_path(run, rank).read_text("utf-8").splitlines()]
    times = {"time", "samples_per_second", "seconds", "epoch_seconds"}
    return [
        {name: value for name, value in line["metrics"].items() if name not in times}
        for line in lines
        if line["event"] == event
    ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process that has the same batches."""
    return trained(tmp_path_factory.mktemp("alone"), "data.batch_size=64", config=SHORT, ranks=1)


@LONG
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("more", [(), ("trainer.clip_norm=0.1",)], ids=["plain", "clipped"])
def test_two_processes_train_what_one_trains(tmp_path: Path, alone: Path, strategy: str, more: tuple[str, ...]) -> None:
    """Weights and metrics are those of one process with batches of the same samples, but for rounding."""
    if more:
        alone = trained(tmp_path / "alone", "data.batch_size=64", *more, config=SHORT, ranks=1)
    run = trained(tmp_path, f"trainer.strategy={strategy}", *more, config=SHORT)
    assert apart(last_weights(alone), last_weights(run)) < ROUNDED
    for event in ("epoch_end", "validation_end"):
        expected, got = means(alone, event), means(run, event)
        assert len(expected) == 2
        for one, other in zip(expected, got, strict=True):
            assert other == pytest.approx(one, rel=1e-4)
        assert got == means(run, event, rank=1)
    assert [found["added"] for found in means(run, "epoch_end", rank=1)] == [0.0, 1.0]
    if strategy == "ddp":
        first, second = (load_file(run / f"weights.r{rank}.safetensors") for rank in (0, 1))
        assert apart(first, second) == 0


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For each strategy, the run of two processes of which only one epoch is trained so far."""
    made = {}
    for strategy in ("ddp", "fsdp"):
        folder = tmp_path_factory.mktemp(strategy)
        made[strategy] = trained(folder, f"trainer.strategy={strategy}", "trainer.epochs=1", config=SHORT)
    return made


def gone_on(folder: Path, half: Path, *overrides: str, ranks: int = 2) -> Path:
    """Go on in a copy of a run; return it."""
    shutil.copytree(half, folder / "runs" / half.name)
    return trained(folder, "trainer.epochs=2", *overrides, config=SHORT, ranks=ranks, resume=half.name)


@LONG
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_as_many_processes_go_on_exactly(tmp_path: Path, strategy: str) -> None:
    """A run in two parts comes to the same bits as one in a single part, which each process draws for itself.

    Mistake 5: of one state of the random generators, or of the data, for all.
    """
    options = [f"trainer.strategy={strategy}", "model.dropout=0.2"]
    whole = trained(tmp_path / "whole", *options, config=SHORT)
    half = trained(tmp_path, *options, "trainer.max_steps=30", config=SHORT)
    run = trained(tmp_path, *options, config=SHORT, resume=half.name)
    assert [checkpoint.manifest.step for checkpoint in list_checkpoints(run / "checkpoints")][-2:] == [30, 46]
    assert apart(last_weights(whole), last_weights(run)) == 0


@LONG
@pytest.mark.parametrize(
    "case", [("ddp", "ddp", 1), ("fsdp", "ddp", 2), ("fsdp", "ddp", 1), ("ddp", "fsdp", 2)], ids=str
)
def test_others_go_on(tmp_path: Path, alone: Path, halves: dict[str, Path], case: tuple[str, str, int]) -> None:
    """Another number of processes, or another strategy, takes the weights, the average and the optimizer's state.

    At the beginning of an epoch the data are those of one run, so that it comes to the same weights but for rounding.
    """
    saved, strategy, ranks = case
    run = gone_on(
        tmp_path, halves[saved], f"trainer.strategy={strategy}", f"data.batch_size={64 // ranks}", ranks=ranks
    )
    assert apart(last_weights(alone), last_weights(run)) < ROUNDED
    assert means(run, "validation_end")[-1] == pytest.approx(means(alone, "validation_end")[-1], rel=1e-4)


@LONG
def test_three_go_on_where_two_were(tmp_path: Path, halves: dict[str, Path]) -> None:
    """Of what is sharded each of another number of processes reads its part."""
    run = gone_on(tmp_path, halves["fsdp"], "trainer.strategy=fsdp", ranks=3)
    assert list_checkpoints(run / "checkpoints")[-1].manifest.epoch == 1
    assert means(run, "epoch_end")[-1]["loss"] < means(run, "epoch_end")[0]["loss"]


@LONG
def test_a_sharded_model_is_used_as_any_other(halves: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """`load_model` gives the whole model, with the averaged weights."""
    monkeypatch.chdir(halves["fsdp"].parents[1])
    models = {strategy: load_model(halves[strategy]) for strategy in ("ddp", "fsdp")}
    assert apart(models["ddp"].state_dict(), models["fsdp"].state_dict()) < ROUNDED


@LONG
def test_several_optimizers_and_accumulation(tmp_path: Path) -> None:
    """Each optimizer's gradients are those of all processes, over windows of its own."""
    config = SHORT.replace("tests.faults.ranks:Faulty", "tests.faults.ranks:Pair").replace("metrics: [accuracy]", "")
    config += "optimizers: {judge: {accumulate: 3}, reader: {accumulate: 2}}\n"
    one = trained(tmp_path / "one", "data.batch_size=64", config=config, ranks=1)
    two = trained(tmp_path / "two", config=config)
    assert apart(last_weights(one), last_weights(two)) < ROUNDED
    assert means(one, "epoch_end")[-1] == pytest.approx(means(two, "epoch_end")[-1], rel=1e-4)


@LONG
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_what_is_thawed_within_an_epoch_is_averaged(tmp_path: Path, strategy: str) -> None:
    """From the next step on, and not from the next epoch: else each process would train a part of its own."""
    config = SHORT.replace("nothing", "thaw")
    frozen = 'trainer.freeze=["layers.1.*"]'
    one = trained(tmp_path / "one", "data.batch_size=64", "checkpoint.every_epochs=1", frozen, config=config, ranks=1)
    two = trained(tmp_path / "two", frozen, f"trainer.strategy={strategy}", config=config)
    if strategy == "ddp":
        first, second = (load_file(two / f"weights.r{rank}.safetensors") for rank in (0, 1))
        assert apart(first, second) == 0
    assert apart(last_weights(one), last_weights(two)) < ROUNDED
    last, before = last_weights(one), weights_at(list_checkpoints(one / "checkpoints")[0].path)
    assert not torch.equal(last["layers.1.weight"], before["layers.1.weight"])


@LONG
def test_a_process_that_is_left_without_samples(tmp_path: Path) -> None:
    """At the end of a validation it computes all the same, since the others need its part, and nothing is counted."""
    config = SHORT.replace("tests.faults.ranks:Faulty", "tests.faults.ranks:Plain")
    uneven = ["data.val_fraction=0.1787", "trainer.epochs=1"]  # 321 samples: five times 64, and one
    one = trained(tmp_path / "one", "data.batch_size=64", *uneven, config=config, ranks=1)
    sharded = ["trainer.strategy=fsdp", "trainer.shard_modules=[layers.*]"]  # gathered one by one
    two = trained(tmp_path / "two", *sharded, *uneven, config=config)
    assert means(two, "validation_end") == [pytest.approx(means(one, "validation_end")[0], rel=1e-5)]


@LONG
def test_two_nodes(tmp_path: Path, alone: Path) -> None:
    """Two launchers that meet at one place train one model, in one run."""
    (tmp_path / "config.yaml").write_text(SHORT, "utf-8")
    words = ["frameworm", "train", "--config", "config.yaml"]
    options = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "nodes"]
    options += ["--rdzv-endpoint", f"127.0.0.1:{a_free_port()}"]
    with launched(tmp_path, words, options=options) as one, launched(tmp_path, words, options=options) as other:
        for node in (one, other):
            code, errors = node.end()
            assert code == 0, errors
    (run,) = (tmp_path / "runs").iterdir()
    assert apart(last_weights(alone), last_weights(run)) < ROUNDED


@LONG
@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")  # of MLflow's own mappers
def test_one_run_of_mlflow(tmp_path: Path) -> None:
    """A job of two processes is one run in the tracker, with each number once."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    trained(tmp_path, config=f'{SHORT}  - mlflow: {{experiment: digits, tracking_uri: "{uri}"}}\n')
    client = MlflowClient(uri)
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert run.info.status == "FINISHED"
    assert [point.step for point in client.get_metric_history(run.info.run_id, "val_loss")] == [23, 46]


@LONG
@pytest.mark.parametrize("case", list(CASES))
def test_loaders_of_ones_own(tmp_path: Path, case: str) -> None:
    """Data that are the same in all processes are refused; parts that end at different times end the epoch for all."""
    with launched(tmp_path, ["tests.frameworm.training.distributed.own_loaders", case]) as one:
        code, errors = one.end()
    expected = CASES[case]
    if expected:
        assert code == 1
        assert expected in errors
    else:
        assert code == 0, errors


@LONG
def test_nothing_is_agreed_on_in_a_step(tmp_path: Path) -> None:
    """Mistake 8: an agreement on signals, or on anything else, that is asked for in each step."""
    with launched(tmp_path, ["tests.frameworm.training.distributed.counted"]) as one:
        code, errors = one.end()
    assert code == 0, errors
