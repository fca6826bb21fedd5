"""What a checkpoint directory says of itself, without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from frameworm.errors import CheckpointError, CorruptCheckpointError
from frameworm.training.manifest import (
    File,
    Manifest,
    find_checkpoint,
    list_checkpoints,
    measure,
    path_for,
    read_manifest,
    verify,
    write_manifest,
)


def make(root: Path, step: int, content: str = "weights") -> Path:
    """A complete checkpoint of `step` in `root`, with one file."""
    directory = path_for(root, step)
    directory.mkdir(parents=True)
    (directory / "weights").write_text(content)
    write_manifest(directory, manifest(step, files={"weights": measure(directory / "weights")}))
    return directory


def manifest(step: int, files: dict[str, File]) -> Manifest:
    """A manifest with text in it that needs escaping."""
    return Manifest(
        frameworm="0.1.0",
        run='digits "é"',
        model="cnn",
        epoch=2,
        step=step,
        time="2026-01-01T00:00:00+00:00",
        reason="epoch end",
        metrics={"val_loss": 0.1 + 0.2, "val_accuracy": None},
        files=files,
    )


def test_a_manifest_reads_back_as_it_was_written(tmp_path: Path) -> None:
    """Numbers to the last bit, text, and metrics that were not finite."""
    directory = make(tmp_path, 7)
    written = manifest(7, {"weights": measure(directory / "weights")})
    assert read_manifest(directory) == verify(directory) == written


def test_a_changed_manifest_does_not_agree_with_its_digest(tmp_path: Path) -> None:
    """Any edit shows, white space included."""
    file = make(tmp_path, 7) / "manifest.json"
    text = file.read_text()
    for changed in (text.replace('"epoch": 2', '"epoch": 3'), text.replace("  ", " ", 1), text + "\n", text[:-1], ""):
        file.write_text(changed)
        with pytest.raises(CorruptCheckpointError) as caught:
            read_manifest(file.parent)
        assert caught.value.file == "manifest.json"


def test_a_newer_format_is_refused_by_name(tmp_path: Path) -> None:
    """A checkpoint of a later version, whose manifest may look different, is told from a damaged one."""
    directory = make(tmp_path, 7)
    newer = {**msgspec.to_builtins(manifest(7, {})), "format": 3, "frameworm": "3.1.4", "shards": [1]}
    write_manifest(directory, newer)  # type: ignore[arg-type]  # one that this version has no type for
    for read in (read_manifest, verify):
        with pytest.raises(CheckpointError, match=r"format 3(.|\n)*FRAMEWORM 3\.1\.4") as caught:
            read(directory)
        assert not isinstance(caught.value, CorruptCheckpointError)
    with pytest.raises(CheckpointError, match="format 2"):
        list_checkpoints(tmp_path)


def test_damage_is_named_with_sizes_and_hashes(tmp_path: Path) -> None:
    """The error names the file, what was expected and what is there."""
    directory = make(tmp_path, 7)
    (directory / "weights").write_text("Weights")
    with pytest.raises(CorruptCheckpointError) as caught:
        verify(directory)
    got = measure(directory / "weights")
    assert (caught.value.file, caught.value.where) == ("weights", str(directory))
    assert caught.value.expected != caught.value.got == f"7 bytes, sha256 {got.sha256[:12]}…"


def test_only_complete_checkpoints_are_listed_oldest_first(tmp_path: Path) -> None:
    """One that is being written, cut short, without a file, or something else is no checkpoint."""
    assert list_checkpoints(tmp_path / "nowhere") == ()
    complete = [make(tmp_path, step) for step in (5, 40, 300)]
    make(tmp_path, 500).rename(tmp_path / ".tmp-step-00000500")
    (make(tmp_path, 600) / "weights").write_text("short")
    (make(tmp_path, 700) / "weights").unlink()
    (make(tmp_path, 800) / "manifest.json").unlink()
    (tmp_path / "step-00000900").write_text("a file")
    (tmp_path / "notes").mkdir()
    assert [checkpoint.path for checkpoint in list_checkpoints(tmp_path)] == complete


def test_a_step_saved_again_gets_a_directory_of_its_own_and_is_the_newer(tmp_path: Path) -> None:
    """Nothing that is complete is ever replaced; steps and repetitions are ordered as numbers."""
    names = [make(tmp_path, 9).name for _ in range(11)] + [make(tmp_path, 100_000_000).name]
    assert names == ["step-00000009", *(f"step-00000009.{n}" for n in range(1, 11)), "step-100000000"]
    assert [checkpoint.path.name for checkpoint in list_checkpoints(tmp_path)] == names


def test_what_a_path_means(tmp_path: Path) -> None:
    """A checkpoint, a file in it, the run and its checkpoints directory are all understood."""
    root = tmp_path / "run" / "checkpoints"
    first, latest = make(root, 1), make(root, 2)
    for path, expected in {
        first: first,
        first / "weights": first,
        first / "manifest.json": first,
        root: latest,
        root.parent: latest,
    }.items():
        assert find_checkpoint(path) == expected
    renamed = first.rename(tmp_path / "the-good-one")
    assert find_checkpoint(renamed / "weights") == renamed


def test_a_path_that_means_nothing_is_explained(tmp_path: Path) -> None:
    """The error says what is near, or what was expected there."""
    root = tmp_path / "run" / "checkpoints"
    make(root, 115)
    with pytest.raises(CheckpointError, match=r"try: +step-00000115"):
        find_checkpoint(root / "step-00000151")
    with pytest.raises(CheckpointError, match="expected: one of manifest"):
        find_checkpoint(root / "step-00000115" / "weight")
    with pytest.raises(CheckpointError, match=r"try: +run"):
        find_checkpoint(tmp_path / "rum")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        find_checkpoint(tmp_path / "no" / "where")
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="no complete checkpoint there"):
        find_checkpoint(tmp_path / "empty")


def test_torch_is_not_needed() -> None:
    """A process that lists checkpoints does not pay for torch."""
    code = "import sys; import frameworm.training.manifest; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
