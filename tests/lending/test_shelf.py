"""What stays on the shelf, and when it goes."""

import mlx.nn as nn
import pytest

from mlx_video.lending.shelf import SMALL, Shelf

LARGE = SMALL + 1


@pytest.fixture
def borrow():
    """borrow(shelf, key, size) is a loan; `made` says what had to be built."""
    made = []

    def lend(shelf, key, size, spent=False):
        return shelf.lend(key, lambda: made.append(key) or nn.Linear(1, 1), size, lambda network: spent)

    lend.made = made
    return lend


def test_of_large_networks_the_last_stays_and_small_ones_beside_it(borrow):
    shelf = Shelf()
    for key, size in (("a", LARGE), ("s", 1), ("a", LARGE), ("b", LARGE), ("s", 1), ("b", LARGE), ("a", LARGE)):
        with borrow(shelf, key, size) as network:
            assert network
    assert borrow.made == ["a", "s", "b", "a"]


def test_what_is_lent_is_never_taken_away(borrow):
    shelf = Shelf()
    with borrow(shelf, "a", LARGE) as a:
        with borrow(shelf, "b", LARGE) as b:
            shelf.close()
            assert a
            assert b
        assert not b
        with borrow(shelf, "a", LARGE) as again:
            assert again is a
        assert a
    assert not a


def test_what_is_not_as_it_was_goes_when_the_last_gives_it_back(borrow):
    shelf = Shelf()
    with borrow(shelf, "a", 1, spent=True) as a:
        with borrow(shelf, "a", 1, spent=True) as same:
            assert same is a
        assert a
    assert not a
    assert borrow.made == ["a"]
