"""The config that `frameworm init` writes shows every key and works as it is."""

from __future__ import annotations

from frameworm.config import parse, template
from frameworm.config.document import read_text
from frameworm.config.schema import DEFAULTS


def test_it_trains_the_cnn_on_the_digits() -> None:
    """The template is a complete config for the bundled digits."""
    config = parse(template())
    assert (config.model.name, config.data.name, config.optimizer.name) == ("cnn", "digits", "adamw")
    assert config.scheduler is not None
    assert config.scheduler.name == "cosine"
    assert config.metrics == ("accuracy",)
    assert config.callbacks == ()
    assert 10 <= config.trainer.epochs <= 15


def test_it_shows_every_section_and_key() -> None:
    """Every section, and every key with a default, is written out."""
    shown = read_text(template(), "template").value
    assert shown.keys() == DEFAULTS.keys()
    for section, default in DEFAULTS.items():
        assert set(default or ()) <= set(shown[section]), section


def test_what_it_comments_out_works() -> None:
    """The groups and callbacks in the comments are valid when the comment signs are taken away."""
    text = template().replace("callbacks: []", "callbacks:").replace("\n#  ", "\n  ")
    config = parse(text)
    assert config.optimizer.options["groups"] == [{"match": "*.bias", "weight_decay": 0.0}]
    assert [callback.name for callback in config.callbacks] == [
        "early_stopping",
        "my_package.my_module:MyCallback",
    ]


def test_its_lines_fit_a_terminal() -> None:
    """No line is longer than a wide terminal."""
    assert max(map(len, template().splitlines())) <= 120
