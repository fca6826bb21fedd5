"""Names: which are one, and which are none."""

from __future__ import annotations

import pytest

from frameworm.errors import UserError
from frameworm.plugins.names import check_name, key_of


@pytest.mark.parametrize(
    "name", ["my-plugin", "my_plugin", "My.Plugin", "frameworm-my-plugin", "frameworm_my_plugin", " my--plugin "]
)
def test_spellings_of_one_name(name: str) -> None:
    """Case, separators and the prefix make no difference."""
    assert key_of(name) == "my-plugin"


def test_the_prefix_alone_is_a_name() -> None:
    """It is not cut to nothing."""
    assert (key_of("frameworm"), key_of("frameworm-")) == ("frameworm", "frameworm-")


@pytest.mark.parametrize("name", ["a", "my-awesome-plugin", "my_plugin", "A1", "on", "import"])
def test_good_names(name: str) -> None:
    """Letters and digits, with single separators."""
    check_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "-x",
        "x-",
        "a b",
        "../evil",
        "/etc",
        "a/b",
        ".",
        "..",
        "a.b",
        "1a",
        "a--b",
        "ünï",
        "a\nb",
        "a\0",
        "x" * 101,
        "_a",
    ],
)
def test_bad_names(name: str) -> None:
    """Refused before they become paths, with one that would do."""
    with pytest.raises(UserError, match="no name for a plugin") as caught:
        check_name(name)
    check_name(caught.value.hint or "")
