"""A config is defaults, then the file, then `--set`; whatever is wrong is said at once, with its place."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frameworm.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    JournalConfig,
    Named,
    OptimizerConfig,
    PluginsConfig,
    RunConfig,
    Section,
    TrainerConfig,
    dump,
    load,
    parse,
    read,
)
from frameworm.errors import ConfigError, UserError

MINIMAL = "data: {name: digits}\n"


def findings(source: str | dict[str, Any], *overrides: str) -> tuple[UserError, ...]:
    """What is wrong with `source`, called c.yaml."""
    with pytest.raises(ConfigError) as caught:
        parse(source, overrides, name="c.yaml")
    return caught.value.findings or (caught.value,)


def finding(source: str | dict[str, Any], *overrides: str) -> dict[str, Any]:
    """The one thing that is wrong with `source`, as its attributes that are not None."""
    (error,) = findings(source, *overrides)
    return {key: value for key, value in vars(error).items() if value is not None}


def test_the_defaults() -> None:
    """A config that only names its data has the documented defaults everywhere else."""
    config = parse(MINIMAL)
    assert config == Config(
        run=RunConfig("run", "runs", 0),
        model=Named("cnn"),
        data=DataConfig("digits", batch_size=64, num_workers=0, shuffle=True, drop_last=False),
        optimizer=Named("adamw", {"lr": 1e-3}),
        optimizers={},
        scheduler=None,
        trainer=TrainerConfig(
            epochs=10, device="auto", precision="fp32", accumulate=1, clip_norm=None, log_every=10, validate_every=1
        ),
        metrics=(),
        callbacks=(),
        plugins=PluginsConfig(),
        journal=JournalConfig(enabled=True, fsync="lifecycle"),
        checkpoint=CheckpointConfig(keep=2, every_epochs=1, monitor="val_loss", mode="auto"),
        tree=config.tree,
        stored=config.tree,
        places=config.places,
    )
    assert config.tree.trainer.epochs == 10
    assert config.tree.optimizer == {"name": "adamw", "lr": 1e-3}
    assert config.tree.metrics == ()


def test_sections_that_are_null_are_those_left_out() -> None:
    """A section whose keys are all commented out is as if it were not there."""
    assert parse(MINIMAL + "model:\ntrainer:\nmetrics:\ncallbacks:\nplugins:\n") == parse(MINIMAL)


def test_further_keys_are_options() -> None:
    """Keys that a model, dataset, optimizer or scheduler section does not know are the options of what it names."""
    config = parse(
        "model: {name: vae, latent_dim: 3}\n"
        "data: {name: npz, path: x.npz, batch_size: 8}\n"
        "optimizer: {name: sgd, lr: 1e-1}\n"
        "scheduler: {name: step, gamma: 0.5}\n"
    )
    assert config.model == Named("vae", {"latent_dim": 3})
    assert config.data == DataConfig("npz", batch_size=8, options={"path": "x.npz"})
    assert config.optimizer == Named("sgd", {"lr": 0.1})
    assert config.scheduler == Named("step", {"gamma": 0.5})
    assert config.tree.model.latent_dim == config.tree["model"]["latent_dim"] == 3
    assert config.tree.data == {
        "name": "npz",
        "path": "x.npz",
        "batch_size": 8,
        "num_workers": 0,
        "shuffle": True,
        "drop_last": False,
    }


def test_a_named_section_keeps_the_default_name_and_options_together() -> None:
    """Without a name the default's is meant, with its options; another name starts without them."""
    assert parse(MINIMAL + "optimizer: {weight_decay: 0.1}").optimizer == Named(
        "adamw", {"weight_decay": 0.1, "lr": 1e-3}
    )
    assert parse(MINIMAL + "optimizer: {name: sgd}").optimizer == Named("sgd", {})
    assert parse(MINIMAL + "model: {width: 3}").model == Named("cnn", {"width": 3})


def test_callbacks_in_every_form() -> None:
    """A callback is a name, a name with options, or an import path; all are kept in the long form."""
    config = parse(
        MINIMAL
        + "callbacks:\n"
        + "- throughput\n"
        + "- early_stopping: {patience: 3}\n"
        + "- pkg.mod:Attr:\n    x: 1\n"
        + "- pkg.mod:Other\n"
        + "- mlflow:\n"
    )
    assert config.callbacks == (
        Named("throughput"),
        Named("early_stopping", {"patience": 3}),
        Named("pkg.mod:Attr", {"x": 1}),
        Named("pkg.mod:Other"),
        Named("mlflow"),
    )
    assert config.tree.callbacks[0] == {"throughput": {}}


def test_numbers_and_words_of_yaml_1_2() -> None:
    """`lr: 1e-3` is a number, `on` and `2024-01-01` are text, a whole number is a number."""
    config = parse("data: {name: on, path: 2024-01-01}\noptimizer: {lr: 1e-3}\ntrainer: {clip_norm: 1}")
    assert config.data.name == "on"
    assert config.data.options == {"path": "2024-01-01"}
    assert config.optimizer.options["lr"] == 1e-3
    assert isinstance(config.trainer.clip_norm, float)


def test_set_wins_over_the_file_and_the_file_over_the_defaults() -> None:
    """Precedence is defaults, file, `--set`, and the last `--set`."""
    text = "data: {name: digits, batch_size: 8}\ntrainer: {epochs: 3}\n"
    config = parse(text, ["trainer.epochs=4", "trainer.epochs=5", "optimizer.lr=1e-2", "metrics=[accuracy]"])
    assert (config.trainer.epochs, config.data.batch_size, config.trainer.log_every) == (5, 8, 10)
    assert config.optimizer == Named("adamw", {"lr": 0.01})
    assert config.metrics == ("accuracy",)


def test_a_missing_data_section_shows_synthetic_data() -> None:
    """Without data there is nothing to train on: the error shows what to write, and it works."""
    for text in ("model: {name: mlp}", "data:\nmodel: {name: mlp}", "data: {batch_size: 3}"):
        error = finding(text)
        assert error["message"] in ("there is no data section", "data.name is missing")
        assert error["hint"] == "data:\n  name: synthetic\n  inputs: 10\n  targets: 5"
    assert parse(error["hint"]).data == DataConfig("synthetic", options={"inputs": 10, "targets": 5})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "the config is empty"),
        ("# x", "the config is empty"),
        ("- a", "the config has no sections"),
        ("3", "the config has no sections"),
    ],
)
def test_a_config_without_sections(source: str, message: str) -> None:
    """An empty file and one that is no mapping are said to be so, `--set` or not."""
    assert finding(source, "data.name=digits")["message"] == message


@pytest.mark.parametrize(
    ("section", "expected", "got", "hint"),
    [
        ("trainer: {epochs: 0}", "a whole number, at least 1", "0", None),
        ("trainer: {epochs: 1.5}", "a whole number, at least 1", "1.5", None),
        ("trainer: {epochs: '10'}", "a whole number, at least 1", "the text '10'", "10, without quotes"),
        ("trainer: {epochs: null}", "a whole number, at least 1", "null", None),
        ("trainer: {epochs: true}", "a whole number, at least 1", "true", None),
        ("trainer: {epochs: [1]}", "a whole number, at least 1", "a list", None),
        ("trainer: {accumulate: 0}", "a whole number, at least 1", "0", None),
        ("trainer: {log_every: 0}", "a whole number, at least 1", "0", None),
        ("trainer: {validate_every: 0}", "a whole number, at least 1", "0", None),
        ("trainer: {clip_norm: 0}", "a number, above 0, or null", "0", None),
        ("trainer: {clip_norm: -1.0}", "a number, above 0, or null", "-1.0", None),
        ("trainer: {clip_norm: .nan}", "a number, above 0, or null", "nan", None),
        ("trainer: {clip_norm: small}", "a number, above 0, or null", "the text 'small'", None),
        ("trainer: {device: gpu}", "auto, cpu, cuda, cuda:1 (and so on) or mps", "the text 'gpu'", None),
        ("trainer: {precision: fp23}", "bf16 or fp16 or fp32", "the text 'fp23'", "fp32"),
        ("trainer: {precision: 32}", "bf16 or fp16 or fp32", "32", None),
        ("trainer: {non_finite: skip}", "ignore or raise or skip_step", "the text 'skip'", "skip_step"),
        ("trainer: {deterministic: yes}", "true or false", "the text 'yes'", None),
        ("trainer: {deterministic: 1}", "true or false", "1", None),
        ("run: {seed: -1}", "a whole number, at least 0, at most 4294967295", "-1", None),
        ("run: {name: ../x}", "letters, digits, '.', '-' and '_', to name a folder", "the text '../x'", None),
        ("run: {name: 7}", "letters, digits, '.', '-' and '_', to name a folder", "7", "'7', in quotes"),
        ("run: {dir: ''}", "a folder", "the text ''", None),
        ("model: {name: [cnn]}", "a name", "a list", None),
        ("metrics: accuracy", "a list, each item a name", "the text 'accuracy'", "[accuracy]"),
        ("journal: {fsync: intervall}", "interval or lifecycle", "the text 'intervall'", "interval"),
        ("journal: {enabled: 'true'}", "true or false", "the text 'true'", "true, without quotes"),
        ("checkpoint: {keep: 1}", "a whole number, at least 2", "1", None),
        ("checkpoint: {mode: minimum}", "auto or max or min", "the text 'minimum'", "min"),
        ("plugins: {disable: x}", "a list, each item a name", "the text 'x'", "[x]"),
    ],
)
def test_wrong_values(section: str, expected: str, got: str, hint: str | None) -> None:
    """A value of the wrong type or out of its range says its key, its line, what was expected and what came."""
    name, _, rest = section.partition(": ")
    key = f"{name}.{rest[1:].partition(':')[0]}" if rest.startswith("{") else name
    assert finding(MINIMAL + section) == {
        "message": f"wrong value for {key}",
        "where": "c.yaml:2",
        "expected": expected,
        "got": got,
    } | ({"hint": hint} if hint else {})


@pytest.mark.parametrize("key", ["batch_size", "num_workers"])
def test_batches_and_workers_are_counts(key: str) -> None:
    """A batch size of 0 and a negative number of workers are refused."""
    value = {"batch_size": 0, "num_workers": -1}[key]
    assert finding(f"data: {{name: digits, {key}: {value}}}")["got"] == str(value)


@pytest.mark.parametrize("section", ["run", "model", "optimizer", "trainer", "journal", "checkpoint", "plugins"])
@pytest.mark.parametrize("value", ["3", "[a]", "text"])
def test_a_section_is_a_mapping(section: str, value: str) -> None:
    """A scalar or a list where a section belongs is refused; a name alone shows how to write it."""
    error = finding(MINIMAL + f"{section}: {value}")
    assert (error["message"], error["expected"]) == (f"wrong value for {section}", "a mapping")
    named = value == "text" and section in ("run", "model", "optimizer")
    assert error.get("hint") == ("{name: text}" if named else None)


def test_several_optimizers() -> None:
    """What is different for one of them: options, the class, the schedule and how its steps are taken."""
    config = parse(
        MINIMAL
        + "optimizers:\n"
        + "  generator: {lr: 2e-4, clip_norm: 1.0, accumulate: 2}\n"
        + "  discriminator: {name: sgd, lr: 1e-2, scheduler: {name: cosine, min_lr: 1e-5}}\n"
    )
    assert config.optimizers == {
        "generator": OptimizerConfig(accumulate=2, clip_norm=1.0, options={"lr": 2e-4}),
        "discriminator": OptimizerConfig("sgd", Named("cosine", {"min_lr": 1e-5}), options={"lr": 1e-2}),
    }


@pytest.mark.parametrize(
    ("source", "where"),
    [
        ("optimizers: [generator]", "optimizers"),
        ("optimizers: {generator: adamw}", "optimizers.generator"),
        ("optimizers: {generator: {clip_norm: 0}}", "optimizers.generator.clip_norm"),
        ("optimizers: {generator: {scheduler: cosine}}", "optimizers.generator.scheduler"),
        ("optimizers: {generator: {scheduler: {min_lr: 1}}}", "optimizers.generator.scheduler.name"),
    ],
)
def test_wrong_optimizers(source: str, where: str) -> None:
    """Each mistake in the section is found, and its key named."""
    assert where in finding(MINIMAL + source)["message"]


def test_unknown_keys_offer_the_nearest() -> None:
    """Unknown sections and unknown keys of typed sections are errors with line, nearest and what is known."""
    assert finding(MINIMAL + "\ntrianer: {}")["hint"] == "trainer"
    assert finding(MINIMAL + "trainer:\n  epoch: 3") == {
        "message": "unknown key trainer.epoch",
        "where": "c.yaml:3",
        "expected": (
            "one of epochs, max_steps, max_time, device, precision, accumulate, clip_norm, clip_value, ema, compile, "
            "checkpoint_activations, freeze, log_every, validate_every, validate_every_steps, sanity_batches, "
            "limit_train_batches, limit_val_batches, overfit_batches, non_finite, check_gradients, deterministic, "
            "strategy, find_unused_parameters, shard_modules, drain_timeout"
        ),
        "hint": "epochs",
    }


@pytest.mark.parametrize("entry", ["3", "[a]", "{}", "{a: {}, b: {}}", "{early_stopping: 3}", "null"])
def test_a_callback_of_another_form(entry: str) -> None:
    """What is no name and no name with options is refused, showing the form."""
    error = finding(MINIMAL + f"callbacks:\n  - {entry}\n")
    assert (error["message"], error["where"]) == ("wrong value for callbacks.0", "c.yaml:3")
    assert parse({"data": {"name": "digits"}, "callbacks": [{"early_stopping": {"patience": 3}}]}).callbacks
    assert finding(MINIMAL + "callbacks: early_stopping")["expected"] == "a list of callbacks"


def test_options_at_the_wrong_depth() -> None:
    """The usual mistake, options beside the callback's name and not below it, is caught."""
    text = MINIMAL + "callbacks:\n  - early_stopping:\n    patience: 3\n"
    assert finding(text)["hint"] == "early_stopping: {monitor: val_loss, patience: 3}"


def test_everything_wrong_is_said_at_once() -> None:
    """One error holds all findings, from the text, the overrides, the environment and the values."""
    text = """
data:
  name: digits
  batch_size: 0
  shuffle: true
  shuffle: false
trainer:
  epoch: 3
  epochs: none
modle: {}
metrics: [accuracy, 3, 4]
optimizer: {lr: "${env:FRAMEWORM_TEST_UNSET}"}
"""
    error = findings(text, "journal.fsync=never", "nonsense", "checkpoint.kep=3")
    assert [(one.message, one.where) for one in error] == [
        ("data.shuffle is given twice", "c.yaml:6"),
        ("--set needs a key and a value", "--set nonsense"),
        ("unknown key modle", "c.yaml:10"),
        ("optimizer.lr needs the environment variable 'FRAMEWORM_TEST_UNSET', which is not set", "c.yaml:12"),
        ("wrong value for data.batch_size", "c.yaml:4"),
        ("unknown key trainer.epoch", "c.yaml:8"),
        ("wrong value for trainer.epochs", "c.yaml:9"),
        ("wrong value for journal.fsync", "--set journal.fsync=never"),
        ("unknown key checkpoint.kep", "--set checkpoint.kep=3"),
        ("wrong value for metrics.1", "c.yaml:11"),
        ("wrong value for metrics.2", "c.yaml:11"),
    ]


def test_a_mapping_is_as_good_as_a_text() -> None:
    """A config may come from Python, as a dict, a section or a config's own tree."""
    mapping = {"data": {"name": "npz", "path": Path("x.npz")}, "optimizer": {"name": "adamw", "betas": (0.9, 0.99)}}
    config = parse(mapping)
    assert config.data.options == {"path": "x.npz"}
    assert config.optimizer.options == {"betas": [0.9, 0.99]}
    assert parse(config.tree) == config
    assert finding({"data": {"name": "npz", "x": object()}})["message"] == "wrong value for data.x"
    assert finding({"data": {"name": 3}})["where"] == "c.yaml"


def test_where_a_key_was_written() -> None:
    """A config says where each of its keys was written, for errors that show only later."""
    config = parse(MINIMAL + "callbacks:\n  - x: {a: 1}\n", ["model.name=mlp"], name="c.yaml")
    assert config.where("data.name") == "c.yaml:1 (data.name)"
    assert config.where("callbacks.0") == "c.yaml:3 (callbacks.0)"
    assert config.where("model.name") == "--set model.name=mlp (model.name)"
    assert config.where("trainer.epochs") == "c.yaml (trainer.epochs)"


def test_references_to_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reference is resolved for use, a number where it stands alone, and stored as it was written."""
    monkeypatch.setenv("FW_LR", "1e-2")
    monkeypatch.setenv("FW_PW", "007")
    monkeypatch.setenv("FW_EPOCHS", "3")
    text = """
data: {name: digits}
trainer: {epochs: "${env:FW_EPOCHS}"}
optimizer: {lr: "${env:FW_LR}"}
callbacks: [{mlflow: {password: "${env:FW_PW}", tags: ["run-${env:FW_EPOCHS}"]}}]
"""
    config = parse(text)
    assert config.trainer.epochs == config.tree.trainer.epochs == 3
    assert config.optimizer.options["lr"] == 0.01
    assert config.callbacks[0].options == {"password": "007", "tags": ["run-3"]}
    assert config.stored.trainer.epochs == "${env:FW_EPOCHS}"
    stored = dump(config)
    assert "${env:FW_PW}" in stored
    assert "007" not in stored
    assert parse(stored) == config


def test_variables_that_are_not_set() -> None:
    """Each missing variable is one finding that names key and variable; the value itself is not judged."""
    error = finding(MINIMAL + 'trainer: {epochs: "${env:FRAMEWORM_TEST_UNSET}"}')
    assert error == {
        "message": "trainer.epochs needs the environment variable 'FRAMEWORM_TEST_UNSET', which is not set",
        "where": "c.yaml:2",
        "hint": "export FRAMEWORM_TEST_UNSET=...",
    }
    assert (
        len(findings(MINIMAL + 'model: {a: "${env:FRAMEWORM_TEST_A} ${env:FRAMEWORM_TEST_B} ${env:FRAMEWORM_TEST_A}"}'))
        == 2
    )


def test_a_variable_of_the_wrong_type(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable's value is checked as if it were written in the file."""
    monkeypatch.setenv("FW_EPOCHS", "${env:FW_EPOCHS}")
    assert finding(MINIMAL + 'trainer: {epochs: "${env:FW_EPOCHS}"}')["message"] == "wrong value for trainer.epochs"


def test_secrets_are_neither_dumped_nor_printed() -> None:
    """No form in which a config leaves the process shows a secret."""
    config = parse(
        MINIMAL + "callbacks: [{mlflow: {token: hunter2, uri: 'http://u:hunter2@h'}}]\nmodel: {password: hunter2}"
    )
    assert "hunter2" not in dump(config)
    assert "hunter2" not in repr(config)
    assert "hunter2" not in repr(config.tree)
    assert "hunter2" not in str(findings(MINIMAL, "run.dir=http://u:hunter2@h", "run.seed=x", "run.token=hunter2"))
    assert parse(dump(config, redact=False)) == config


def test_files(tmp_path: Path) -> None:
    """`load` checks a file, `read` only reads it, whatever it says."""
    path = tmp_path / "config.yaml"
    path.write_text('data: {name: digits}\nmodel: {x: "${env:FRAMEWORM_TEST_UNSET}"}\n')
    assert read(path) == {"data": {"name": "digits"}, "model": {"x": "${env:FRAMEWORM_TEST_UNSET}"}}
    with pytest.raises(ConfigError, match=f"{path}:2"):
        load(path)
    assert load(path, ["model.x=1"]).model.options == {"x": 1}
    for text in ("", "a: 1\na: 2", "[a]"):
        path.write_text(text)
        with pytest.raises(ConfigError):
            read(path)


def test_a_config_is_frozen_and_travels() -> None:
    """A config cannot be changed, and can be copied and pickled."""
    config = parse(MINIMAL, ["trainer.epochs=3"])
    for again in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert again == config
        assert again.where("trainer.epochs") == config.where("trainer.epochs")
    with pytest.raises(AttributeError):
        config.metrics = ()  # type: ignore[misc]  # the point of the test
    with pytest.raises(AttributeError):
        config.trainer.epochs = 3  # type: ignore[misc]  # likewise


_NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
_TEXTS = st.text(max_size=8) | st.sampled_from(["on", "1e-3", "007", "null", "${x}", "a: b", "# c", "***", "\u2028"])
_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _TEXTS
_OPTIONS = st.dictionaries(
    _NAMES.filter(lambda name: name not in ("name", "batch_size", "num_workers", "shuffle", "drop_last")),
    st.recursive(_SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3)),
    max_size=3,
)
_SEED = st.integers(0, 2**32 - 1)


@given(
    model=_OPTIONS,
    data=_OPTIONS,
    callbacks=st.lists(st.dictionaries(_NAMES, _OPTIONS, min_size=1, max_size=1), max_size=3),
    metrics=st.lists(_TEXTS.filter(bool), max_size=3),
    seed=_SEED,
    clip_norm=st.none() | st.floats(min_value=1e-300),
)
def test_what_is_dumped_loads_as_an_equal_config(  # noqa: PLR0917  a parameter per section
    model: dict[str, Any],
    data: dict[str, Any],
    callbacks: list[dict[str, Any]],
    metrics: Sequence[str],
    seed: int,
    clip_norm: float | None,
) -> None:
    """Any config, dumped and read again, is the same config."""
    config = parse(
        {
            "run": {"seed": seed},
            "model": {"name": "m", **model},
            "data": {"name": "d", **data},
            "callbacks": callbacks,
            "metrics": metrics,
            "trainer": {"clip_norm": clip_norm},
        }
    )
    assert isinstance(config.tree, Section)
    assert parse(dump(config, redact=False)) == config
