"""The order is a permutation, depends on its seed, and looks like chance."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polargrad.language.data import Permutation


@given(st.integers(1, 300), st.text(max_size=5))
def test_everything_comes_exactly_once(size, seed):
    order = Permutation(size, seed)
    assert sorted(order[place] for place in range(size)) == [*range(size)]


def test_two_seeds_have_as_many_places_in_common_as_chance_has():
    """The number of equal places of two random permutations has mean 1 and variance 1."""
    equal = [
        sum(a[place] == b[place] for place in range(1000))
        for a, b in (
            (Permutation(1000, f"{seed}:0"), Permutation(1000, f"{seed}:1")) for seed in range(20)
        )
    ]
    assert abs(sum(equal) / 20 - 1) < 5 / math.sqrt(20)


def test_neighbours_are_not_kept_together():
    """Of a random order the mean distance of neighbours is a third of the size."""
    order = Permutation(5000, "0:0")
    values = [order[place] for place in range(5000)]
    steps = [abs(b - a) for a, b in itertools.pairwise(values)]
    assert abs(sum(steps) / len(steps) / 5000 - 1 / 3) < 5 * 0.25 / math.sqrt(5000)


def test_a_place_of_a_long_order_is_found_at_once():
    order = Permutation(10**15, "0:0")
    values = {order[place] for place in range(1000)}
    assert len(values) == 1000
    assert 0.4e15 < sum(values) / 1000 < 0.6e15


def test_the_order_is_that_of_every_version():
    """A run that is resumed by a later version must go on in the same order."""
    order = Permutation(10, "0:0")
    assert [order[place] for place in range(10)] == EXPECTED


EXPECTED = [6, 4, 3, 7, 8, 1, 2, 0, 9, 5]


@pytest.mark.parametrize("place", [-1, 7])
def test_places_that_do_not_exist(place):
    with pytest.raises(IndexError, match=f"from 0 to 6, got {place}"):
        Permutation(7, "")[place]


def test_an_order_of_nothing_is_refused():
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        Permutation(0, "")
