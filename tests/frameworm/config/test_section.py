"""A section is a mapping that cannot change, read by item or by attribute."""

from __future__ import annotations

import copy
import pickle

import pytest

from frameworm.config import Section

SECTION = Section({"model": {"name": "cnn", "latent_dim": 3, "layers": [1, {"wide": True}]}, "items": 5})


def test_item_and_attribute_access_agree_at_every_depth() -> None:
    """`config.model.latent_dim` is `config["model"]["latent_dim"]`, also inside lists."""
    assert SECTION.model.latent_dim == SECTION["model"]["latent_dim"] == 3
    assert SECTION.model.layers[1].wide is True
    assert isinstance(SECTION.model, Section)


def test_it_is_a_mapping() -> None:
    """`get`, `in`, `len`, iteration, `**`, `dict()` and comparison work as for any mapping."""
    assert SECTION.get("nothing", 7) == 7
    assert "model" in SECTION
    assert "models" not in SECTION
    assert len(SECTION) == 2
    assert list(SECTION) == ["model", "items"]
    assert dict(SECTION.model) == {"name": "cnn", "latent_dim": 3, "layers": (1, Section({"wide": True}))}
    assert {**Section({"a": 1})} == {"a": 1}
    assert Section({"a": {"b": 1}}) == {"a": {"b": 1}}


def test_a_key_that_is_a_method_is_read_by_item() -> None:
    """Keys never hide the methods of a mapping."""
    assert SECTION["items"] == 5
    assert dict(SECTION.items()) == dict(SECTION)


def test_a_missing_attribute_offers_the_nearest() -> None:
    """A misspelt attribute is an AttributeError with the nearest key, else with the keys that there are."""
    with pytest.raises(AttributeError, match=r"no 'laten_dim'; did you mean 'latent_dim'\?"):
        _ = SECTION.model.laten_dim
    with pytest.raises(AttributeError, match=r"no 'x'; it has model, items"):
        _ = SECTION.x
    with pytest.raises(AttributeError, match=r"it has no keys"):
        _ = Section({}).x
    assert getattr(SECTION, "x", None) is None
    with pytest.raises(KeyError):
        _ = SECTION["x"]


def test_it_cannot_be_changed() -> None:
    """Nothing in a section can be set or deleted, and what it was made from is not shared."""
    source = {"a": {"b": [1]}}
    section = Section(source)
    source["a"]["b"].append(2)
    assert section.a.b == (1,)
    with pytest.raises(TypeError):
        section["a"] = 1
    with pytest.raises(AttributeError):
        section.a = 1  # type: ignore[attr-defined]  # the point of the test
    with pytest.raises(AttributeError):
        del section.a


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda section: pickle.loads(pickle.dumps(section))])
def test_it_can_be_copied_and_pickled(again: type[Section]) -> None:
    """Copies, shallow, deep or through pickle, are equal sections."""
    other = again(SECTION)
    assert type(other) is Section
    assert other == SECTION


def test_to_dict_is_a_plain_copy() -> None:
    """`to_dict` gives dicts and lists that may be changed."""
    plain = SECTION.to_dict()
    assert plain == {"model": {"name": "cnn", "latent_dim": 3, "layers": [1, {"wide": True}]}, "items": 5}
    plain["model"]["layers"].append(2)
    assert SECTION.model.layers == (1, Section({"wide": True}))


def test_its_repr_shows_the_keys_and_hides_secrets() -> None:
    """A section can be printed without giving a secret away."""
    assert repr(Section({"a": {"token": "x", "b": [1]}})) == "Section({'a': {'token': '***', 'b': [1]}})"


def test_completion_knows_the_keys() -> None:
    """An interactive shell completes the keys."""
    assert {"model", "items", "to_dict"} <= set(dir(SECTION))
