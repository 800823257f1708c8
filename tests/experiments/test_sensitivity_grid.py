"""What a sweep tries, on methods whose outcome is known in closed form."""

import itertools
import math
import random

import pytest

from polargrad.experiments.sensitivity.grid import (
    GOOD,
    Grid,
    Outcome,
    best,
    first_lost,
    good_region,
    limit,
    next_point,
    rate,
)

WINDOW = (-200, 200)
STEP = rate(1)


def descent(eigenvalues, steps=60, bound=1e6):
    """Gradient descent on ½Σλx² from x = 1: f_k/f_0 in closed form, blown beyond the bound."""

    def outcome(index):
        factors = [(e, abs(1 - rate(index) * e)) for e in eigenvalues]
        # Convex in k, so the largest value is the first or the last; capped where it overflows.
        parts = [e * math.exp(min(2 * steps * math.log(r), 600)) for e, r in factors if r > 0]
        value = sum(parts) / sum(eigenvalues)
        blown = value > bound
        return Outcome(math.inf if blown else value, lost=value > 1, blown=blown)

    return outcome


def plateau(gamma_best):
    """A method of bounded steps: f/f_0 falls to a plateau of γ², and never blows up."""

    def outcome(index):
        ratio = rate(index) / gamma_best
        value = 1e-4 * ratio**2 if ratio >= 1 else 1e-4 * 10 ** (4 * (1 - ratio))
        return Outcome(value, lost=value > 1)

    return outcome


def swept(method, grid=None, tried=None):
    tried = dict(tried or {})
    while (index := next_point(grid or Grid(), WINDOW, tried)) is not None:
        assert index not in tried
        tried[index] = method(index)
    return tried


@pytest.mark.parametrize("largest", [0.3, 1.0, 7.0])
def test_limit_of_gradient_descent_is_two_over_the_largest_eigenvalue(largest):
    tried = swept(descent([largest, largest / 5], steps=2000))
    assert rate(limit(tried)) <= 2 / largest * (1 + 1e-12)
    assert first_lost(tried) - limit(tried) == 1
    assert rate(first_lost(tried)) >= 2 / largest * (1 - 1e-12)


def test_width_is_that_of_the_closed_form():
    """The ends of the good region solve f(γ) = 10 f(best), here with the resolution of the grid."""
    method = descent([1.0, 0.5])
    tried = swept(method)
    values = {i: method(i).value for i in range(*WINDOW) if not method(i).lost}
    least = min(values.values())
    inside = [i for i, value in values.items() if value <= GOOD * least]
    low, high = good_region(tried)
    assert abs(low - min(inside)) <= 1
    assert abs(high - max(inside)) <= 1


@pytest.mark.parametrize("method", [descent([1.0, 0.5]), descent([3.0]), plateau(0.2)])
def test_looks_at_25_points_a_decade_about_the_best(method):
    grid = Grid()
    tried = swept(method, grid)
    centre, last = best(tried), limit(tried)
    near = [i for i in sorted(tried) if centre - grid.near <= i <= min(centre + grid.near, last)]
    assert max(b - a for a, b in itertools.pairwise(near)) <= 100 / 25
    assert near[0] <= centre - grid.near + grid.fine


def test_looks_at_25_points_a_decade_below_a_limit_where_runs_blow_up():
    tried = swept(descent([1.0, 0.001]))
    near = [i for i in sorted(tried) if limit(tried) - Grid().near <= i <= limit(tried)]
    assert max(b - a for a, b in itertools.pairwise(near)) <= 100 / 25


def test_best_is_the_best_of_all_points():
    method = plateau(0.37)
    tried = swept(method)
    everywhere = min(method(i).value for i in range(*WINDOW))
    # Above the best the value grows as γ², and there is a fine point there.
    assert tried[best(tried)].value <= everywhere * rate(Grid().fine) ** 2


def test_does_not_look_closely_where_nothing_blows_up():
    """A plateau that reaches the start is not a limit of stability."""
    method = plateau(0.01)
    tried = swept(method)
    assert first_lost(tried) is not None
    assert first_lost(tried) - limit(tried) >= Grid().coarse
    hopeless = [i for i in tried if tried[i].value > 100 * tried[best(tried)].value]
    assert len([i for i in hopeless if i > best(tried)]) < 10


@pytest.mark.parametrize("method", [descent([1.0, 0.5]), plateau(0.2)])
def test_an_interrupted_sweep_goes_on_as_if_it_had_not_been(method):
    whole = swept(method)
    items = list(whole.items())
    for cut in range(0, len(items), 3):
        kept = items[:cut]
        random.Random(cut).shuffle(kept)
        assert swept(method, tried=kept) == whole


def test_goes_below_its_window_where_the_best_is():
    tried = swept(plateau(rate(-290)))
    assert abs(best(tried) + 290) <= Grid().fine


def test_goes_above_its_window_where_the_best_is():
    """As of a polar factor that is so rough that ten times the rate is needed."""
    tried = swept(plateau(rate(290)))
    assert abs(best(tried) - 290) <= Grid().fine
    tried = swept(lambda index: Outcome(1.0 / rate(index)))
    assert max(tried) == WINDOW[1] + Grid().beyond
    low, high = good_region(swept(lambda index: Outcome(1.0 if index < 260 else 1e3)))
    assert abs(high - 260) <= Grid().coarse
    assert low < WINDOW[0]


def test_ends_where_everything_is_lost():
    tried = swept(lambda index: Outcome(math.inf, lost=True, blown=True))
    assert best(tried) is limit(tried) is good_region(tried) is None
    assert min(tried) == WINDOW[0] - Grid().beyond


def test_of_equal_values_the_middle_is_best():
    tried = {i: Outcome(1.0 if 10 <= i <= 50 else 5.0) for i in range(0, 100, 4)}
    assert best(tried) == 28  # 12 … 48, of which the middle is 30: the lower of two neighbours


def test_a_bad_point_ends_the_good_region():
    values = {0: 1.5, 4: 20.0, 8: 3.0, 12: 1.0, 16: 9.0, 20: 2.0, 24: 11.0, 28: 1.0}
    tried = {i: Outcome(value) for i, value in values.items()}
    tried[12] = Outcome(0.95)
    assert good_region(tried) == (8, 20)


def test_limit_lies_below_the_first_loss_even_if_larger_ones_survive():
    tried = {0: Outcome(1.0), 20: Outcome(9.0, lost=True), 40: Outcome(0.5)}
    assert (limit(tried), first_lost(tried)) == (0, 20)


def test_lattice_has_a_hundred_points_a_decade():
    assert rate(137) / rate(37) == pytest.approx(10, rel=1e-14)
    assert pytest.approx(10) == STEP**100
