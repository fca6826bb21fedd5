"""What a checkpoint holds: what goes in comes out, and what is damaged or hostile is noticed."""

from __future__ import annotations

import enum
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import lr_scheduler

from frameworm.errors import CheckpointError, CorruptCheckpointError
from frameworm.training.checkpoint import load
from frameworm.training.manifest import Manifest, measure, read_manifest, write_manifest
from frameworm.training.optimizers import build_optimizer
from frameworm.training.seeding import rng_state
from tests.frameworm.training.saves import a_store, filled, save


class Various(nn.Module):
    """Weights of several kinds: bfloat16, tied, views, transposed, integers, empty; and state that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(4, 6)
        self.head = nn.Linear(6, 4, bias=False)
        self.head.weight = self.embedding.weight
        self.low = nn.Linear(3, 3, dtype=torch.bfloat16)
        self.transposed = nn.Parameter(torch.randn(5, 2).T)
        base = torch.randn(10)
        self.register_buffer("front", base[:6])
        self.register_buffer("back", base[4:])
        self.register_buffer("shaped", base.view(2, 5))
        self.register_buffer("counts", torch.arange(3))
        self.register_buffer("nothing", torch.empty(0))
        self.seen = {"batches": 0}

    def get_extra_state(self) -> dict[str, int]:
        """What no tensor holds."""
        return self.seen

    def set_extra_state(self, state: dict[str, int]) -> None:
        """The reverse."""
        self.seen = state


def test_every_kind_of_weight_comes_back(tmp_path: Path) -> None:
    """Bit for bit, with its dtype; tied weights are written once and are still tied afterwards."""
    saved, loaded = Various(), Various()
    saved.seen = {"batches": 12}
    path = save(a_store(tmp_path), 1, model=saved)
    load(path, loaded)
    theirs = loaded.state_dict()
    for name, value in saved.state_dict().items():
        if isinstance(value, Tensor):
            assert theirs[name].dtype == value.dtype
            assert torch.equal(theirs[name], value), name
    assert loaded.seen == {"batches": 12}
    assert loaded.head.weight is loaded.embedding.weight
    written = safetensors.torch.load_file(path / "model.safetensors")
    assert {"embedding.weight", "head.weight"} - written.keys() == {"head.weight"}


def test_the_weights_are_an_ordinary_safetensors_file(tmp_path: Path) -> None:
    """Other tools load it, tied weights included."""

    def tied() -> nn.Sequential:
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        return model

    saved, loaded = tied(), tied()
    path = save(a_store(tmp_path), 1, model=saved)
    safetensors.torch.load_model(loaded, path / "model.safetensors")
    assert torch.equal(loaded.state_dict()["1.weight"], saved.state_dict()["0.weight"])


def test_the_state_comes_back_on_the_cpu(tmp_path: Path) -> None:
    """An optimizer's state, generators, and nested plain values."""
    model = filled(1)
    optimizer = build_optimizer("adamw", model, {"lr": 0.1})
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {"optimizer": optimizer.state_dict(), "rng": rng_state(), "loop": {"epoch": 3, "seen": [1, (2, None)]}}
    path = save(a_store(tmp_path), 1, model=model, state=state)
    loaded = load(path, filled(0))
    assert loaded["loop"] == state["loop"]
    assert torch.equal(loaded["optimizer"]["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])
    assert loaded["rng"]["torch"].device == torch.device("cpu")


def test_the_manifest_says_what_it_is(tmp_path: Path) -> None:
    """Version, run, model, place in the run, reason, metrics as JSON has them, and every other file."""
    metrics: dict[str, Any] = {"val_loss": 0.5, "lr": float("nan"), "acc": np.float32(0.25)}
    store = a_store(tmp_path)
    expected = store.path_for(115)
    path = save(store, 115, metrics=metrics)
    manifest = read_manifest(path)
    assert path == expected == tmp_path / "step-00000115"
    assert (manifest.format, manifest.run, manifest.model) == (2, "digits-1", "line")
    assert (manifest.epoch, manifest.step, manifest.reason) == (0, 115, "test")
    assert manifest.metrics == {"val_loss": 0.5, "lr": None, "acc": 0.25}
    assert {*manifest.files, "manifest.json"} == {file.name for file in path.iterdir()}
    assert store.latest() == (path, manifest)


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that other tests damage and mend."""
    return save(a_store(tmp_path_factory.mktemp("intact")), 1, metrics={"val_loss": 0.5})


@given(data=st.data())
def test_damage_anywhere_is_noticed(intact: Path, data: st.DataObject) -> None:
    """A bit flipped, a byte put in, or the end cut off, in any file: an error, and the model is as it was."""
    file = data.draw(st.sampled_from(sorted(intact.iterdir())))
    good = file.read_bytes()
    position = data.draw(st.integers(0, len(good) - 1))
    bit = data.draw(st.integers(0, 7))
    damaged = data.draw(
        st.sampled_from(
            [
                good[:position] + bytes([good[position] ^ 1 << bit]) + good[position + 1 :],
                good[:position] + b"\n" + good[position:],
                good[:position],
            ]
        )
    )
    model = filled(7)
    try:
        file.write_bytes(damaged)
        with pytest.raises(CorruptCheckpointError) as caught:
            load(intact, model)
    finally:
        file.write_bytes(good)
    assert caught.value.file == file.name
    assert all(bool((parameter == 7).all()) for parameter in model.parameters())


@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors", "state.pt", "manifest.json"])
def test_a_missing_file_is_noticed(tmp_path: Path, name: str) -> None:
    """A checkpoint without one of its files is damaged, and the complete one before it is offered and is the latest."""
    store = a_store(tmp_path)
    before, latest = save(store, 1), save(store, 2)
    (latest / name).unlink()
    with pytest.raises(CorruptCheckpointError, match=str(before)) as caught:
        load(latest, filled(0))
    assert caught.value.file == name
    assert load(tmp_path, filled(0)) == {"step": 1}


class Bomb:
    """Pickles into a call that leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


def test_a_hostile_state_cannot_run_code(tmp_path: Path) -> None:
    """A pickle that calls something, in a checkpoint whose every hash is right, is refused and nothing is called."""
    path, trace = save(a_store(tmp_path), 1), tmp_path / "trace"
    torch.save({"model": {}, "state": Bomb(trace)}, path / "state.pt")
    manifest = read_manifest(path)
    files = {name: measure(path / name) for name in manifest.files}
    write_manifest(path, msgspec.structs.replace(manifest, files=files))
    model = filled(7)
    with pytest.raises(CheckpointError, match="more than plain values"):
        load(path, model)
    assert not trace.exists()
    assert bool((next(model.parameters()) == 7).all())


class Colour(enum.IntEnum):
    """A number that is more than a number."""

    RED = 1


def with_attribute() -> Tensor:
    """A tensor that carries an object."""
    tensor = torch.ones(1)
    tensor.origin = object()  # type: ignore[attr-defined]  # which is the point
    return tensor


@pytest.mark.parametrize(
    "value",
    [
        object(),
        print,
        lambda: None,
        np.float64(1),
        np.ones(2),
        Colour.RED,
        b"",
        frozenset({1}),
        range(3),
        2**5000,
        Path(),
        with_attribute(),
        nn.Linear(1, 1),
        torch.Generator(),
    ],
)
def test_state_that_would_not_load_back_fails_at_save(tmp_path: Path, value: Any) -> None:
    """The error names the key under which a listener keeps an object; nothing is written, the last one stays."""
    store = a_store(tmp_path)
    before = save(store, 1)
    for where, state in {
        "state['listeners']['early'][1]": {"listeners": {"early": [0, value]}},
        "a key of state['x']": {"x": {value: 1}} if value.__hash__ else {"x": {print: 1}},
    }.items():
        with pytest.raises(CheckpointError) as caught:
            save(store, 2, state=state)
        assert caught.value.message.startswith(where)
        assert list(tmp_path.iterdir()) == [before]


scalars: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**2039) + 1, 2**2039 - 1),
    st.floats(allow_nan=False),
    st.complex_numbers(allow_nan=False),
    st.text(),
    st.sampled_from([torch.bfloat16, torch.device("cpu"), torch.Size([2])]),
)
plain = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.sets(scalars)
        | st.dictionaries(scalars, inner)
        | st.dictionaries(st.text(), inner).map(OrderedDict)
        | st.dictionaries(st.text(), st.integers()).map(Counter)
    ),
    max_leaves=12,
)


@given(value=plain)
def test_whatever_is_taken_comes_back(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    """Every plain value that a save accepts is loaded as it was, with its types."""
    path = save(a_store(tmp_path_factory.mktemp("plain")), 1, state={"value": value})
    loaded = load(path, filled(0))["value"]
    assert loaded == value
    assert type(loaded) is type(value)


@pytest.mark.parametrize("name", ["ASGD", "Adafactor", "Adamax", "NAdam", "Adagrad", "RMSprop", "Rprop", "SGD"])
def test_the_state_of_torch_s_optimizers_is_plain(tmp_path: Path, name: str) -> None:
    """After a step, every optimizer's state can be saved and loaded."""
    model = filled(1)
    optimizer = build_optimizer(name, model, {"lr": 0.1})
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    path = save(a_store(tmp_path), 1, model=model, state={"optimizer": optimizer.state_dict()})
    optimizer.load_state_dict(load(path, filled(0))["optimizer"])


def test_format_1_is_still_read(tmp_path: Path) -> None:
    """Checkpoints from before the tensors of the state had a file of their own."""
    path, state = save(a_store(tmp_path), 1), {"rng": torch.arange(3), "epoch": 2}
    (path / "state.safetensors").unlink()
    torch.save({"model": {}, "state": state}, path / "state.pt")
    files = {name: measure(path / name) for name in ("model.safetensors", "state.pt")}
    write_manifest(path, msgspec.structs.replace(read_manifest(path), format=1, files=files))
    loaded = load(path, filled(0))
    assert (loaded["epoch"], loaded["rng"].tolist()) == (2, [0, 1, 2])


def test_text_that_stands_for_a_tensor_is_refused(tmp_path: Path) -> None:
    """It would come back as one."""
    with pytest.raises(CheckpointError, match=r"state\['x'\] cannot go into a checkpoint"):
        save(a_store(tmp_path), 1, state={"x": "state.safetensors#state['y']"})


def test_the_state_of_torch_s_schedulers_is_plain(tmp_path: Path) -> None:
    """Every scheduler's state can be saved and loaded."""
    optimizer = torch.optim.SGD(filled(1).parameters(), lr=0.1, momentum=0.9)
    schedulers: list[Any] = [
        lr_scheduler.LambdaLR(optimizer, lambda _: 1.0),
        lr_scheduler.MultiStepLR(optimizer, [1, 2]),
        lr_scheduler.CosineAnnealingLR(optimizer, 3),
        lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 3),
        lr_scheduler.OneCycleLR(optimizer, 0.1, 10),
        lr_scheduler.CyclicLR(optimizer, 0.1, 0.2),
        lr_scheduler.ReduceLROnPlateau(optimizer),
    ]
    state = {type(scheduler).__name__: scheduler.state_dict() for scheduler in schedulers}
    loaded = load(save(a_store(tmp_path), 1, state=state), filled(0))
    for scheduler in schedulers:
        scheduler.load_state_dict(loaded[type(scheduler).__name__])


def test_an_interrupted_save_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the state is written goes through, and nothing is left."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(a_store(tmp_path), 1)
    assert list(tmp_path.iterdir()) == []


def test_the_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    """Missing, unexpected and reshaped weights are named, with both models, and nothing is loaded."""
    path = save(a_store(tmp_path), 1)
    other = nn.Sequential(OrderedDict(weight=nn.Identity(), a=nn.Linear(3, 5), b=nn.BatchNorm1d(5)))
    with pytest.raises(CheckpointError) as caught:
        load(path, other, model_name="deep")
    assert caught.value.expected == "the weights of deep"
    assert caught.value.got == ("those of line: missing a.weight, a.bias, b.weight and 4 more; unexpected bias, weight")
    model = nn.Linear(3, 5)
    before = model.weight.clone()
    with pytest.raises(CheckpointError, match=r"of another shape weight \(2, 3\) for \(5, 3\), bias \(2,\) for \(5,\)"):
        load(path, model)
    assert torch.equal(model.weight, before)


def test_a_weight_that_cannot_be_stored_is_an_error(tmp_path: Path) -> None:
    """A dtype that safetensors does not know."""
    with pytest.raises(CheckpointError, match="complex128"):
        save(a_store(tmp_path), 1, model=nn.Linear(1, 1, dtype=torch.complex128))
    assert list(tmp_path.iterdir()) == []


def test_the_manifest_s_keys_are_its_type_s(intact: Path) -> None:
    """Beside its digest, the file holds what `Manifest` declares."""
    assert Manifest.__struct_fields__ == tuple(
        key for key in msgspec.json.decode((intact / "manifest.json").read_bytes()) if key != "digest"
    )
