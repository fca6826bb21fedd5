"""Errors print what, where, expected, got and what to try; they carry their data and survive pickling."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import pytest

from bus import Propagate
from frameworm import errors
from frameworm.errors import (
    CheckpointError,
    ConfigError,
    CorruptCheckpointError,
    DuplicateNameError,
    ExportError,
    FramewormError,
    ModelContractError,
    NonFiniteError,
    PermanentError,
    RankError,
    RetryLater,
    RunBusyError,
    RunError,
    StopTraining,
    UnknownNameError,
    UserError,
    nearest,
)

EXAMPLES: tuple[FramewormError, ...] = (
    UserError("no", expected="a", got="b", where="c", hint="d"),
    ConfigError.of([ConfigError("one", where="x:1"), ConfigError("two", where="x:2")], "x"),
    UnknownNameError("model", "cn", ["mlp", "cnn"], where="x:3"),
    DuplicateNameError("model", "m", first="a (a.py:1)", second="b (b.py:2)"),
    CorruptCheckpointError("runs/a/checkpoints/3", "model.safetensors", expected="sha256 00", got="sha256 11"),
    ModelContractError("m", "compute_loss returned no dict", expected="{'loss': tensor}", got="a tensor"),
    NonFiniteError(float("inf"), epoch=2, step=40),
    RankError(1, "ValueError: no"),
    ExportError("onnx", "it fails", expected="a", got="b"),
    PermanentError("no such metric", got="x"),
    RetryLater(30.0),
)


def test_only_what_is_given_is_printed_aligned() -> None:
    """An error prints its message and below it, aligned, the details that it has, longer ones hanging."""
    assert str(UserError("no")) == "no"
    error = UserError("wrong value", expected="a number", where="config.yaml:3", hint="one\ntwo")
    assert str(error).splitlines() == [
        "wrong value",
        "  where:    config.yaml:3",
        "  expected: a number",
        "  try:      one",
        "            two",
    ]


def test_findings_are_all_printed_under_one_heading() -> None:
    """Several findings in one config are one error that lists them all, in order."""
    findings = [ConfigError("one", where="c.yaml:1"), ConfigError("two", where="c.yaml:2", got="x")]
    error = ConfigError.of(findings, "c.yaml")
    assert error.findings == tuple(findings)
    assert str(error).splitlines() == [
        "c.yaml: 2 errors",
        "  one",
        "    where: c.yaml:1",
        "  two",
        "    where: c.yaml:2",
        "    got:   x",
    ]


def test_a_single_finding_is_its_own_error() -> None:
    """One finding needs no heading."""
    finding = ConfigError("one", where="c.yaml:1")
    assert ConfigError.of([finding], "c.yaml") is finding


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_errors_survive_pickling(error: FramewormError) -> None:
    """An error raised in another process arrives with its text and its data."""
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.__dict__.keys() == error.__dict__.keys()


def test_exit_codes() -> None:
    """Wrong input exits 2, everything else of ours 1."""
    codes = {cls.__name__: cls.exit_code for cls in _subclasses(FramewormError)}
    trouble = {"FramewormError", "ModelContractError", "NonFiniteError", "HookError", "RankError", "ExportError"}
    trouble |= {"DeliveryError", "PermanentError", "RetryLater"}
    assert {name for name, code in codes.items() if code == 1} == trouble
    assert set(codes.values()) == {1, 2}
    assert issubclass(RunBusyError, RunError)
    assert issubclass(CorruptCheckpointError, CheckpointError)


def test_the_tree_in_the_docstring_names_every_error() -> None:
    """The module's docstring draws all of the tree."""
    assert errors.__doc__ is not None
    assert [cls.__name__ for cls in _subclasses(FramewormError) if cls.__name__ not in errors.__doc__] == []


def test_an_unknown_name_lists_the_known_and_offers_the_nearest() -> None:
    """A misspelt name is answered with the known names and the nearest one."""
    error = UnknownNameError("model", "CN", ["mlp", "cnn"])
    assert (error.kind, error.name, error.known, error.nearest) == ("model", "CN", ("cnn", "mlp"), "cnn")
    assert str(error).splitlines() == ["unknown model 'CN'", "  expected: one of cnn, mlp", "  try:      cnn"]
    assert UnknownNameError("model", "zzz", []).expected is None
    assert UnknownNameError("model", "cn", ["cnn"], hint="load the plugin").hint == "load the plugin"


def test_a_duplicate_name_says_both_places() -> None:
    """Two owners of one name are both named."""
    error = DuplicateNameError("model", "m", first="a (a.py:1)", second="b (b.py:2)")
    assert error.where == "first by a (a.py:1)\nthen by b (b.py:2)"


def test_nearest() -> None:
    """The nearest name ignores case, and is None when nothing is close."""
    assert nearest("Early-Stopping", ["early_stopping", "mlflow"]) == "early_stopping"
    assert nearest("xyz", ["early_stopping"]) is None
    assert nearest("xyz", []) is None


def test_stop_training_reaches_the_publisher() -> None:
    """StopTraining is the bus's way through isolation, with a reason, and no error of ours."""
    assert issubclass(StopTraining, Propagate)
    assert not issubclass(StopTraining, FramewormError)
    assert StopTraining("enough").reason == str(StopTraining("enough")) == "enough"
    assert StopTraining().reason == "a hook asked to stop"


def _subclasses(cls: type[FramewormError]) -> Iterator[type[FramewormError]]:
    yield cls
    for subclass in cls.__subclasses__():
        if subclass.__module__ == errors.__name__:
            yield from _subclasses(subclass)
