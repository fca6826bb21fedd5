"""Learning curves: what the records of runs hold of their metrics, as numbers and drawn, one run over the other."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bus.log import LogReader
from frameworm.errors import UserError, nearest
from frameworm.runs import RunDirectory, numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_Array = NDArray[Any]

_BATCH_LOSS = "batch_loss"
"""The curve of the loss of single batches, of those that are in the record."""

_WITH_METRICS = frozenset({"validation_end", "epoch_end", "metrics_logged"})
_STYLES: Mapping[str, Mapping[str, Any]] = {
    "batch": {"linewidth": 0.6, "alpha": 0.4},
    "train": {"linestyle": "--"},
}  # by the first part of a curve's name
_MOST_COLUMNS = 3
_PANEL = 5.0, 3.4  # inches
_MOST_POINTS = 2_000  # of a line: several for each of the picture's columns
_FEW = 50  # points, of which each is marked


Curve = dict[int, float]
"""The values of a metric after so many optimizer steps, in their order."""

_Line = tuple[str, str, Curve]
"""Of which run, by its label, and of which metric."""


def read(run: RunDirectory) -> dict[str, Curve]:
    """Return the curves of a run by their metrics' names; of steps that were trained again, the later ones."""
    batches: dict[int, Any] = {}  # all else is rare
    curves: dict[str, dict[int, Any]] = {_BATCH_LOSS: batches}
    with closing(LogReader(run.journal)) as records:
        for record in records:
            event = record["event"]
            if event == "batch_end":
                batches[record["step"]] = record["loss"]
            elif event in _WITH_METRICS:
                for name, value in record["metrics"].items():
                    curves.setdefault(name, {})[record["step"]] = value
            elif event == "train_resumed":
                for curve in curves.values():
                    for step in [step for step in curve if step > record["step"]]:
                        del curve[step]
    if "train_loss" in curves:
        curves.pop("loss", None)  # the same under another name
    return {name: found for name, curve in curves.items() if (found := numbers(curve))}


def plot(runs: Sequence[RunDirectory], file: Path, *, metrics: Sequence[str] = ()) -> None:
    """Draw the curves of the runs over their optimizer steps into `file`, whose suffix tells the format.

    `val_loss`, `train_loss` and the like share a panel, `loss`. `metrics` names panels or single curves; all are drawn
    if there are none. Raises UserError: no such metric or format, nothing in the records, no matplotlib.
    """
    try:
        from matplotlib.backend_bases import FigureCanvasBase  # noqa: PLC0415  an extra
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        message = "curves are drawn with matplotlib, which is not installed"
        raise UserError(message, hint="pip install 'frameworm[plot]'") from error
    suffix = file.suffix.removeprefix(".").lower()
    if suffix not in (formats := FigureCanvasBase.get_supported_filetypes()):
        expected = f"a name that ends with one of {', '.join(f'.{name}' for name in sorted(formats))}"
        raise UserError("that is no format of pictures", expected=expected, got=file.name, where="-o")
    panels = _panels({_label(run, runs): read(run) for run in runs}, metrics)
    columns = min(_MOST_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(_PANEL[0] * columns, _PANEL[1] * rows), layout="constrained")
    for place, (panel, lines) in enumerate(panels.items(), start=1):
        _draw(figure.add_subplot(rows, columns, place), panel, lines, several=len(runs) > 1)
    picture = io.BytesIO()
    figure.savefig(picture, format=suffix)
    try:
        file.write_bytes(picture.getbuffer())
    except OSError as error:
        raise UserError("the picture cannot be written", got=error.strerror, where=str(file)) from error


def _panels(found: Mapping[str, Mapping[str, Curve]], metrics: Sequence[str]) -> dict[str, list[_Line]]:
    """Return the panels that are asked for with their lines, in the order of the record."""
    lines = [(label, name, curve) for label, curves in found.items() for name, curve in curves.items()]
    if not lines:
        raise UserError("there is no metric in the record yet", where=", ".join(found))
    known = {key: None for _, name, _ in lines for key in (_panel_of(name), name)}
    for metric in metrics:
        if metric not in known:
            raise UserError(
                f"no metric {metric!r}",
                where=", ".join(found),
                expected=", ".join(known),
                hint=nearest(metric, list(known)),
            )
    panels: dict[str, list[_Line]] = {}
    for line in lines:
        panel = _panel_of(line[1])
        if not metrics or panel in metrics or line[1] in metrics:
            panels.setdefault(panel, []).append(line)
    return panels


def _panel_of(metric: str) -> str:
    """Return what a metric is called without the data that it was measured on: `loss` of `val_loss`."""
    data, _, rest = metric.partition("_")
    return rest if rest and data in ("train", "val", "batch") else metric


def _draw(axes: Axes, panel: str, lines: Iterable[_Line], *, several: bool) -> None:
    """Draw the lines, one colour for each run, or for each metric of a single run."""
    colours: dict[str, str] = {}
    for label, metric, curve in lines:
        colour = colours.setdefault(label if several else metric, f"C{len(colours)}")
        marker = "." if len(curve) <= _FEW else ""
        style = _STYLES.get(metric.partition("_")[0], {})
        points = _thinned(np.array(list(curve)), np.array(list(curve.values())))
        axes.plot(*points, color=colour, marker=marker, label=f"{label} {metric}" if several else metric, **style)
    axes.set_title(panel)
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def _thinned(steps: _Array, values: _Array) -> tuple[_Array, _Array]:
    """Return the lowest and the highest of so many points in a row, where there are more than a picture shows."""
    length = len(steps) // _MOST_POINTS
    if length < 3:
        return steps, values
    rows = values[: length * (len(values) // length)].reshape(-1, length)
    at = np.stack([rows.argmin(axis=1), rows.argmax(axis=1)], axis=1)
    at.sort(axis=1)
    kept = np.append((at + length * np.arange(len(rows))[:, None]).ravel(), len(steps) - 1)
    return steps[kept], values[kept]


def _label(run: RunDirectory, runs: Sequence[RunDirectory]) -> str:
    """Return a run's name, with its id where several are called alike."""
    return f"{run.name} {run.id}" if sum(one.name == run.name for one in runs) > 1 else run.name
