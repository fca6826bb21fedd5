"""Learning curves are those of the record, once each, and their pictures are of the runs and metrics asked for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bus.log import LogWriter
from frameworm import curves
from frameworm.curves import plot, read
from frameworm.errors import UserError
from frameworm.runs import RunDirectory

FORMATS = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}


def run_of(root: Path, *records: dict[str, Any], name: str = "digits") -> RunDirectory:
    """Return a run with these records."""
    run = RunDirectory.create(root, name)
    with LogWriter(run.journal, gap=lambda *_numbers: {}) as log:
        for record in records:
            log.append({"attempt": 1, **record})
    return run


def batch(step: int, loss: Any) -> dict[str, Any]:
    """Return the record of a batch."""
    return {"event": "batch_end", "step": step, "loss": loss}


def metrics(event: str, step: int, **values: Any) -> dict[str, Any]:
    """Return a record with metrics."""
    return {"event": event, "step": step, "metrics": values}


def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[tuple[str, list[int]]]]:
    """Return, as soon as something is drawn, the title of each panel with the labels and steps of its lines."""
    panels: dict[str, list[tuple[str, list[int]]]] = {}
    original = curves._draw

    def draw(axes: Any, panel: str, lines: Any, *, several: bool) -> None:
        original(axes, panel, lines, several=several)
        panels[axes.get_title()] = [(line.get_label(), list(line.get_xdata())) for line in axes.get_lines()]

    monkeypatch.setattr(curves, "_draw", draw)
    return panels


def test_curves_are_over_steps(tmp_path: Path) -> None:
    """An epoch repeats what its validation measured, and `loss` is what `train_loss` is: each is there once."""
    run = run_of(
        tmp_path,
        batch(1, 0.5),
        batch(2, "NaN"),
        batch(3, {"dtype": "float32"}),
        metrics("validation_end", 3, val_loss=0.25),
        metrics("epoch_end", 3, loss=0.5, train_loss=0.5, val_loss=0.25, note="good"),
        metrics("metrics_logged", 4, mine="Infinity"),
    )
    found = read(run)
    assert np.isnan(found["batch_loss"].pop(2))
    assert found == {"batch_loss": {1: 0.5}, "train_loss": {3: 0.5}, "val_loss": {3: 0.25}, "mine": {4: float("inf")}}


def test_what_was_trained_again_counts(tmp_path: Path) -> None:
    """Steps behind the checkpoint are those of the later attempt, also where it did not come as far."""
    run = run_of(
        tmp_path,
        *[batch(step, 1.0) for step in (1, 2, 3, 4)],
        metrics("epoch_end", 2, loss=1.0),
        metrics("epoch_end", 4, loss=1.0),
        {"event": "train_resumed", "step": 2},
        batch(3, 2.0),
    )
    assert read(run) == {"batch_loss": {1: 1.0, 2: 1.0, 3: 2.0}, "loss": {2: 1.0}}


@pytest.mark.parametrize("suffix", FORMATS)
def test_pictures(tmp_path: Path, suffix: str) -> None:
    """The suffix tells the format."""
    file = tmp_path / f"curves.{suffix}"
    plot([run_of(tmp_path, batch(1, 0.5))], file)
    assert file.read_bytes().startswith(FORMATS[suffix])


def test_metrics_of_one_kind_share_a_panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines are called as the metrics; those of several runs by run as well, by id where two are called alike."""
    panels = drawn(monkeypatch)
    epoch = metrics("epoch_end", 2, train_loss=0.5, val_loss=0.25, val_accuracy=0.75)
    first, second, other = (run_of(tmp_path, epoch, name=name) for name in ("digits", "digits", "other"))
    plot([first], tmp_path / "one.png")
    assert panels == {"loss": [("train_loss", [2]), ("val_loss", [2])], "accuracy": [("val_accuracy", [2])]}
    plot([first, second, other], tmp_path / "all.png", metrics=["accuracy"])
    labels = [f"digits {first.id} val_accuracy", f"digits {second.id} val_accuracy", "other val_accuracy"]
    assert [label for label, _steps in panels["accuracy"]] == labels


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        (["loss"], ["loss: train_loss", "loss: val_loss"]),
        (["val_loss"], ["loss: val_loss"]),
        (["val_accuracy", "train_loss"], ["loss: train_loss", "accuracy: val_accuracy"]),
    ],
)
def test_a_choice_of_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str], names: list[str]
) -> None:
    """A panel, or single curves."""
    panels = drawn(monkeypatch)
    run = run_of(tmp_path, metrics("epoch_end", 2, train_loss=0.5, val_loss=0.25, val_accuracy=0.75))
    plot([run], tmp_path / "some.png", metrics=asked)
    assert [f"{panel}: {label}" for panel, lines in panels.items() for label, _steps in lines] == names


def test_long_lines_keep_their_peaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100 000 points no more are drawn than a picture shows, the highest, the lowest and the last among them."""
    panels = drawn(monkeypatch)
    peaks = {31_415: 9.0, 92_653: -9.0}
    run = run_of(tmp_path, *[batch(step, peaks.get(step, 0.5)) for step in range(1, 100_001)])
    plot([run], tmp_path / "long.png")
    [(_label, steps)] = panels["loss"]
    assert len(steps) < 5_000
    assert steps == sorted(steps)
    assert {*peaks, 100_000} <= set(steps)


@pytest.mark.parametrize(
    ("file", "asked", "message"),
    [
        ("curves.xyz", [], "no format of pictures"),
        ("curves", [], "no format of pictures"),
        ("nowhere/curves.png", [], "the picture cannot be written"),
        ("curves.png", ["vol_loss"], "no metric 'vol_loss'"),
    ],
)
def test_wrong_input(tmp_path: Path, file: str, asked: list[str], message: str) -> None:
    """Each has one clear message, and no picture is left."""
    run = run_of(tmp_path, metrics("epoch_end", 2, val_loss=0.25))
    with pytest.raises(UserError, match=message) as caught:
        plot([run], tmp_path / file, metrics=asked)
    assert asked == [] or "val_loss" in str(caught.value)
    assert not (tmp_path / file).exists()


def test_nothing_to_draw(tmp_path: Path) -> None:
    """A run that has only just begun has no metrics."""
    run = run_of(tmp_path, {"event": "train_begin", "step": 0})
    with pytest.raises(UserError, match="no metric in the record yet"):
        plot([run], tmp_path / "curves.png")


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"frameworm\[plot\]"):
        plot([run_of(tmp_path, batch(1, 0.5))], tmp_path / "curves.png")
