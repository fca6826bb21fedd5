"""`frameworm init` writes a config to start from, and destroys nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from frameworm import config
from frameworm.cli import main


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("path", "file"),
    [
        ([], "config.yaml"),
        (["my.yaml"], "my.yaml"),
        (["new/folder"], "new/folder/config.yaml"),
        (["new/my.yml"], "new/my.yml"),
        (["."], "config.yaml"),
    ],
)
def test_it_writes_a_config(path: list[str], file: str) -> None:
    """The config is valid, lies where it was wanted, and the command to use it is said."""
    done = CliRunner().invoke(main, ["init", *path])
    assert done.exit_code == 0, done.output
    assert f"frameworm train --config {file}" in done.stdout
    assert config.load(Path(file)).data.name == "digits"


def test_nothing_is_overwritten() -> None:
    """A file that is there is left alone, unless replacing it is forced."""
    Path("config.yaml").write_text("mine", "utf-8")
    done = CliRunner().invoke(main, ["init"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "config.yaml is there already" in done.stderr
    assert "--force" in done.stderr
    assert Path("config.yaml").read_text("utf-8") == "mine"
    assert CliRunner().invoke(main, ["init", "--force"]).exit_code == 0
    assert Path("config.yaml").read_text("utf-8") == config.template()


def test_where_nothing_can_be_written() -> None:
    """A path that cannot be written is said in one message."""
    Path("file").write_text("", "utf-8")
    done = CliRunner().invoke(main, ["init", "file/config.yaml"])
    assert done.exit_code == 2
    assert done.stderr.startswith("error: file/config.yaml cannot be written")
