"""`frameworm events` says what can be listened to and what is recorded."""

from __future__ import annotations

import json

from click.testing import CliRunner
from jsonschema import Draft202012Validator

from frameworm.cli import main


def test_the_list_for_people() -> None:
    """Every event has its line, with the hook and its arguments; nothing is cut in a pipe."""
    done = CliRunner().invoke(main, ["events", "list"])
    assert done.exit_code == 0, done.output
    [line] = [line for line in done.stdout.splitlines() if line.startswith("epoch_end ")]
    assert "on_epoch_end(trainer, epoch, metrics)" in line
    assert "always" in line
    assert "End of an epoch" in line


def test_the_list_for_programs() -> None:
    """As JSON the same rows have names."""
    rows = json.loads(CliRunner().invoke(main, ["events", "list", "--json"]).stdout)
    [row] = [row for row in rows if row["event"] == "batch_end"]
    assert row["hook"] == "on_batch_end(trainer, batch_idx, loss)"
    assert row["recorded"] == "sampled"


def test_the_schema() -> None:
    """The schema of a record is a JSON Schema, with or without asking for JSON."""
    plain, asked = (CliRunner().invoke(main, ["events", "schema", *more]) for more in ([], ["--json"]))
    assert plain.stdout == asked.stdout
    Draft202012Validator.check_schema(json.loads(plain.stdout))
