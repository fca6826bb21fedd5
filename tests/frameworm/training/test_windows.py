"""Batches are cut into accumulation windows: of one optimizer, of several, of data with and without a length."""

from __future__ import annotations

import pytest

from frameworm.errors import DataError
from frameworm.training.windows import micro_batches, steps_in


def windows(count: int, accumulate: int, *, start: int = 0, total: int | None = None) -> list[tuple[int, int, str]]:
    """Return the place, the window's size and what it does of each of `count` batches."""
    cut = micro_batches(iter(range(start, start + count)), [accumulate], start=start, total=total)
    found = [(index, place) for index, _, (place,), _ in cut]
    assert all(closes is counts for _, (_, _, _, closes, counts) in found)
    return [(index, place[1], "open" * place[2] + "close" * place[3]) for index, place in found]


@pytest.mark.parametrize("total", [None, 5])
def test_the_last_window_is_as_large_as_what_is_left(total: int | None) -> None:
    """Whether the total is known or not."""
    assert windows(5, 3, total=total) == [(0, 3, "open"), (1, 3, ""), (2, 3, "close"), (3, 2, "open"), (4, 2, "close")]


@pytest.mark.parametrize("total", [None, 7])
def test_windows_go_on_where_the_epoch_was_left(total: int | None) -> None:
    """Behind the batches that were trained before, also with another size of window than then."""
    assert windows(3, 2, start=4, total=total) == [(4, 2, "open"), (5, 2, "close"), (6, 1, "openclose")]
    assert windows(4, 2, start=3, total=total) == [(3, 2, "open"), (4, 2, "close"), (5, 2, "open"), (6, 2, "close")]


def test_a_window_of_one_needs_no_length() -> None:
    """A wrong length does no harm then."""
    assert windows(3, 1, total=2) == [(0, 1, "openclose"), (1, 1, "openclose"), (2, 1, "openclose")]


@pytest.mark.parametrize(("count", "got"), [(2, "fewer"), (4, "more"), (5, "more"), (6, "more")])
def test_a_length_that_is_wrong_is_an_error(count: int, got: str) -> None:
    """Otherwise gradients would be lost, or scaled wrongly, and nobody would know."""
    with pytest.raises(DataError, match="another length") as caught:
        windows(count, 3, total=3)
    assert caught.value.got == got


def test_only_a_window_of_unknown_size_is_fetched_ahead() -> None:
    """Where the length is known, a batch is fetched when it is its turn."""
    source = iter(range(4))
    next(micro_batches(source, [2], start=0, total=4))
    assert next(source) == 1
    source = iter(range(4))
    next(micro_batches(source, [2], start=0, total=None))
    assert next(source) == 2


@pytest.mark.parametrize("total", [None, 7])
def test_several_optimizers_have_windows_of_their_own(total: int | None) -> None:
    """They open and close by themselves; only where all are closed is nothing half done."""
    cut = list(micro_batches(iter("abcdefg"), [2, 3], start=0, total=total))
    assert [places for _, _, places, _ in cut] == [
        ((0, 2, True, False, False), (1, 3, True, False, False)),
        ((0, 2, False, True, True), (1, 3, False, False, False)),
        ((0, 2, True, False, False), (1, 3, False, True, True)),
        ((0, 2, False, True, True), (1, 3, True, False, False)),
        ((0, 2, True, False, False), (1, 3, False, False, False)),
        ((0, 2, False, True, True), (1, 3, False, True, False)),
        ((0, 1, True, True, True), (1, 1, True, True, False)),
    ]
    assert [closed for *_, closed in cut] == [False, False, False, False, False, True, True]
    assert steps_in(7, [2, 3]) == 5


def test_windows_of_several_sizes_need_the_right_length() -> None:
    """Data that end while a window is open are an error for each of them."""
    with pytest.raises(DataError, match="another length"):
        list(micro_batches(iter("abc"), [1, 2], start=0, total=4))
