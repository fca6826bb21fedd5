"""`frameworm predict`: what a trained model makes of the samples in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from frameworm import logs, predicting, runs
from frameworm.cli.project import runs_folder
from frameworm.terminal import counted, write_line


@click.command()
@click.option("--run", metavar="RUN", default="latest", show_default=True, help="The run whose model it is.")
@runs_folder
@click.option("--checkpoint", type=click.Choice(["best", "latest"]), default="best", show_default=True)
@click.option("--input", "source", type=click.Path(path_type=Path), metavar="FILE", required=True, help="The samples.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", required=True, help="Where they go.")
@click.option("--batch-size", type=click.IntRange(min=1), default=256, show_default=True)
def predict(
    *, run: str, root: Path, checkpoint: Literal["best", "latest"], source: Path, output: Path, batch_size: int
) -> None:
    """Write what a trained model makes of the samples in a file.

    Both files are .npy, .npz (the arrays `x` and `predictions`) or .csv. A line or an item of the output is what the
    model's `forward` gives for the sample: for a classifier its logits, of which the largest is the class.
    """
    predicting.check_output(output)
    with logs.configure():
        directory = runs.find(root, run)
        predictions = predicting.predict(directory.path, source, checkpoint=checkpoint, batch_size=batch_size)
    predicting.save(predictions, output)
    write_line(f"{output}: {counted(len(predictions), 'prediction')} of {directory.path.name}")
