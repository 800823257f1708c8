"""Coefficients: best approximations equioscillate, tables are recomputed, intervals are exact."""

import itertools
import math

import pytest
import torch

from polargrad.linalg.coefficients import (
    CLASSIC_CUBIC,
    MUON_QUINTIC,
    POLAR_EXPRESS,
    SETS,
    check_coefficients,
    schedule,
)
from polargrad.linalg.minimax import DEGREES, best_polynomial, minimax_polynomials
from polargrad.linalg.odd_polynomials import (
    compose,
    deviation,
    error_growth,
    output_interval,
    with_safety,
)

LOWERS = [1e-7, 1e-5, 1e-3, 0.03, 0.5, 0.9, 0.999, 1 - 1e-6]
CUSHION = 0.02407327424182761


def values(polynomial, x):
    """The polynomial on a float64 tensor, written out by powers."""
    return sum(c * x ** (2 * i + 1) for i, c in enumerate(polynomial))


def grid(lower, upper=1.0, points=200_001):
    linear = torch.linspace(lower, upper, points, dtype=torch.float64)
    logarithmic = torch.logspace(
        math.log10(lower), math.log10(upper), points, dtype=torch.float64
    ).clamp(lower, upper)
    return torch.cat([linear, logarithmic]).sort().values


@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize("lower", [0.5, 0.1, 0.03, 1e-3])
def test_a_best_polynomial_equioscillates(degree, lower):
    """The error takes its largest size at (degree + 3)/2 points, with alternating signs."""
    polynomial, size = best_polynomial(lower, 1.0, degree)
    x = torch.linspace(lower, 1.0, 200_001, dtype=torch.float64)
    error = values(polynomial, x) - 1.0
    turns = (error.diff()[1:] * error.diff()[:-1] < 0).nonzero().flatten() + 1
    extremes = torch.stack([error[0], *error[turns], error[-1]])
    signs = torch.tensor([(-1.0) ** (k + 1) for k in range((degree + 3) // 2)])
    torch.testing.assert_close(extremes, size * signs.double(), rtol=1e-5, atol=1e-13)


@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize("lower", LOWERS)
def test_a_best_polynomial_keeps_its_error(degree, lower):
    """To rounding of the terms, on intervals from seven decades to a millionth."""
    polynomial, size = best_polynomial(lower, 1.0, degree)
    terms = sum(map(abs, polynomial))
    error = values(polynomial, grid(lower, points=20_001)) - 1.0
    assert error.abs().max() <= size + 4e-16 * terms
    assert abs(error[0].item() + size) <= 4e-16 * terms


@pytest.mark.parametrize("lower", LOWERS)
@pytest.mark.parametrize("upper", [1.0, 1.3])
def test_the_best_cubic_in_closed_form(lower, upper):
    """p = t(qx − x³) with q = u² + ul + l², which makes p(l) = p(u), and t centring on 1."""
    low = lower * upper
    q = upper**2 + upper * low + low**2
    top, end = 2.0 * (q / 3.0) ** 1.5, q * low - low**3
    (a, b), size = best_polynomial(low, upper, 3)
    assert (a, b) == pytest.approx((2.0 * q / (top + end), -2.0 / (top + end)), rel=1e-12)
    assert size == pytest.approx((top - end) / (top + end), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize("width", [1e-2, 1e-4, 1e-6])
def test_the_error_of_a_short_interval_is_a_power_of_its_width(degree, width):
    """Half the width, 2^k of the error with k coefficients: far below the rounding of floats."""
    _, whole = best_polynomial(1.0 - width, 1.0, degree)
    _, half = best_polynomial(1.0 - width / 2.0, 1.0, degree)
    assert whole / half == pytest.approx(2.0 ** ((degree + 1) // 2), rel=0.03)


@pytest.mark.parametrize("degree", DEGREES)
def test_the_limit_is_the_flattest_polynomial(degree):
    """p(1) = 1 and all derivatives that it can have are zero: Padé's polynomials for 1/√t."""
    known = {
        3: (3 / 2, -1 / 2),
        5: (15 / 8, -10 / 8, 3 / 8),
        7: (35 / 16, -35 / 16, 21 / 16, -5 / 16),
        9: (315 / 128, -420 / 128, 378 / 128, -180 / 128, 35 / 128),
    }
    for lower in (1.0, 1.0 - 1e-12, 1.0 - 1e-8):
        polynomial, size = best_polynomial(lower, 1.0, degree)
        assert polynomial == pytest.approx(known[degree], rel=1e-7)
        assert size <= 1e-15


@pytest.mark.parametrize("degrees", [(5, 5, 5), (9, 3, 7), (3, 3, 9, 5), (9, 9)])
@pytest.mark.parametrize("lower", [1e-6, 1e-3, 0.2])
def test_each_is_the_best_on_what_its_predecessors_leave(degrees, lower):
    polynomials = minimax_polynomials(lower, len(degrees), degree=degrees)
    low, high = lower, 1.0
    for degree, polynomial in zip(degrees, polynomials, strict=True):
        assert len(polynomial) == (degree + 1) // 2
        expected, error = best_polynomial(low, high, degree)
        assert polynomial == pytest.approx(expected, rel=1e-9)
        low, high = 1.0 - error, 1.0 + error
    assert output_interval(polynomials, lower) == pytest.approx((low, high), rel=1e-6)


@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize(("cushion", "safety"), [(0.0, 1.0), (0.02, 1.0), (0.1, 1.0), (0.02, 1.02)])
def test_the_values_end_centred_on_one(degree, cushion, safety):
    """The last polynomial has no safety: without any before it the interval is symmetric."""
    for steps in (1, 2, 4):
        polynomials = minimax_polynomials(
            1e-3, steps, degree=degree, cushion=cushion, safety=safety
        )
        low, high = output_interval(polynomials, 1e-3)
        if safety == 1.0:
            assert low + high == pytest.approx(2.0, abs=1e-9)
        assert 0.0 < low <= 1.0
        assert high < 2.0


def test_polar_express_table_is_what_the_generator_gives():
    rows = minimax_polynomials(1e-3, 8, cushion=CUSHION)
    for printed, computed in zip(POLAR_EXPRESS, rows, strict=True):
        assert computed == pytest.approx(printed, rel=1e-8)


def test_the_list_with_safety_is_what_the_generator_gives():
    rows = minimax_polynomials(1e-3, 5, cushion=0.02, safety=1.02)
    for printed, computed in zip(SETS["polar_express_1.02"].polynomials, rows, strict=True):
        assert computed == pytest.approx(printed, rel=1e-10)


def test_the_rounded_list_is_the_published_one_with_safety():
    """To the printed digits; the first of them is cut off where the others are rounded."""
    rows = with_safety(POLAR_EXPRESS, 1.01, 7)
    for printed, computed in zip(SETS["polar_express_rounded"].polynomials, rows, strict=True):
        assert computed == pytest.approx(printed, abs=0.7e-4)


def test_cans_is_the_generator_without_a_cushion():
    """To the printed digits; one of the fifteen is cut off where the others are rounded."""
    rows = minimax_polynomials(1e-3, 5)
    for printed, computed in zip(SETS["cans"].polynomials, rows, strict=True):
        assert computed == pytest.approx(printed, abs=0.7e-4)


def test_cubic5_is_the_generator_scaled_to_a_maximum():
    """The best cubic on what is left of [7e-3, 1], times what makes its maximum 1.3."""
    low, high = 7e-3, 1.0
    for printed in SETS["cubic5"].polynomials:
        polynomial, error = best_polynomial(low, high, 3)
        scaled = tuple(1.3 * c / (1.0 + error) for c in polynomial)
        assert scaled == pytest.approx(printed, abs=2e-7)
        low, high = compose([scaled], low), 1.3


# Intervals that others have computed for the sets, from 1e-3 and from 1e-2 on.
KNOWN = {
    "quintic": ((0.4705, 1.2024), (0.6818, 1.1344)),
    "tuned_quintics": ((0.475, 1.145), (0.978, 1.032)),
    "polar_express": ((1.0, 1.0), (1.0, 1.0)),
    "polar_express_rounded": ((1.0, 1.0), (1.0, 1.0)),
    "cans": ((0.884, 1.120), None),
    "deepseek_v4": ((1.0, 1.0005), None),
    "cubic5": ((0.119, 1.30), (0.774, 1.30)),
}


@pytest.mark.parametrize("name", KNOWN)
def test_what_the_sets_make_of_the_singular_values(name):
    for lower, known in zip((1e-3, 1e-2), KNOWN[name], strict=True):
        if known is not None:
            assert output_interval(schedule(name, None), lower) == pytest.approx(known, abs=6e-4)


def test_single_facts_about_the_sets():
    assert MUON_QUINTIC == (3.4445, -4.7750, 2.0315)
    assert math.prod(p[0] for p in schedule("quintic", 5)) == pytest.approx(485, abs=0.5)
    assert CLASSIC_CUBIC == (1.5, -0.5, 0.0)
    assert sum(SETS["modula"].polynomials[0]) == pytest.approx(1.0, abs=1e-15)
    assert SETS["deepseek_v4"].polynomials == (MUON_QUINTIC,) * 8 + ((2.0, -1.5, 0.5),) * 2
    shrunk = with_safety(schedule("polar_express", 5, 1.01), 1.01, 1)
    assert output_interval(shrunk, 1e-3) == pytest.approx((0.840, 1.124), abs=6e-4)


@pytest.mark.parametrize("name", SETS)
def test_every_set_says_where_it_comes_from(name):
    chosen = SETS[name]
    assert len(chosen.source) > 15
    assert len(schedule(name, None)) == chosen.steps
    if chosen.open_ended:
        assert schedule(name, 12)[-1] == chosen.polynomials[-1]
    else:
        assert len(chosen.polynomials) == chosen.steps


def test_degree_nine_is_the_best_use_of_fifteen_products():
    """Which order of degrees comes nearest to 1 from 1e-3: two, three and four products each."""
    products = {3: 2, 5: 3, 9: 4}
    found = {
        degrees: deviation(minimax_polynomials(1e-3, len(degrees), degree=degrees), 1e-3)
        for count in (4, 5)
        for degrees in itertools.product(products, repeat=count)
        if sum(products[d] for d in degrees) == 15
    }
    assert min(found, key=found.get) == (5, 9, 9, 9)
    assert found[5, 9, 9, 9] == pytest.approx(0.0578, abs=1e-4)
    assert found[5, 5, 5, 5, 5] == pytest.approx(0.1134, abs=1e-4)


@pytest.mark.parametrize("seed", range(10))
def test_output_interval_misses_nothing(seed):
    """Against a dense grid, for polynomials with turns anywhere, also below zero."""
    g = torch.Generator().manual_seed(seed)
    sizes = [2 + int(torch.randint(0, 4, (), generator=g)) for _ in range(2)]
    polynomials = tuple(
        tuple((2.0 * torch.randn(k, generator=g, dtype=torch.float64)).tolist()) for k in sizes
    )
    x = grid(0.05)
    y = values(polynomials[1], values(polynomials[0], x))
    low, high = output_interval(polynomials, 0.05)
    width = high - low
    assert low <= y.min().item() + 1e-12 * width
    assert high >= y.max().item() - 1e-12 * width
    assert (y.min().item(), y.max().item()) == pytest.approx((low, high), abs=1e-3 * width)
    assert deviation(polynomials, 0.05) == max(abs(low - 1.0), abs(high - 1.0))


@pytest.mark.parametrize("polynomials", [POLAR_EXPRESS, (MUON_QUINTIC,) * 5], ids=["pe", "muon"])
def test_error_growth_bounds_errors_of_every_iterate(polynomials):
    """Iterates that are off by δ of their size, at random, end off by the stated multiple of δ."""
    delta = 1e-9
    g = torch.Generator().manual_seed(0)
    for lower, at in ((1e-3, 0), (1e-9, 1)):
        x = exact = grid(lower)
        size = 1.0
        for index, polynomial in enumerate((*polynomials, None)):
            x = x + delta * size * (2 * torch.randint(0, 2, x.shape, generator=g) - 1)
            if polynomial is not None:
                x, exact = values(polynomial, x), values(polynomial, exact)
                size = output_interval(polynomials[: index + 1], 1e-9)[1]
        bound = error_growth(polynomials, 1e-3)[at]
        error = ((x - exact).abs().max() / delta).item()
        assert 0.2 * bound <= error <= 1.01 * bound


def test_compose_and_deviation_at_the_ends():
    assert deviation((CLASSIC_CUBIC,), 1.0) == 0.0
    assert compose([CLASSIC_CUBIC, CLASSIC_CUBIC], 0.0) == 0.0


BAD = [
    (lambda: minimax_polynomials(0.0, 2), r"lower must lie in \(0, 1\), got 0.0"),
    (lambda: minimax_polynomials(1.0, 2), r"lower must lie in \(0, 1\), got 1.0"),
    (lambda: minimax_polynomials(math.nan, 2), r"lower must lie in \(0, 1\), got nan"),
    (lambda: minimax_polynomials(0.1, 0), "steps must be at least 1, got 0"),
    (lambda: minimax_polynomials(0.1, 2, safety=0.9), "safety must be at least 1, got 0.9"),
    (lambda: minimax_polynomials(0.1, 2, cushion=1.0), r"cushion must lie in \[0, 1\), got 1.0"),
    (lambda: minimax_polynomials(0.1, 2, cushion=-0.1), "cushion must lie in"),
    (lambda: minimax_polynomials(0.1, 2, degree=4), "degree must be one of 3, 5, 7, 9, got 4"),
    (lambda: minimax_polynomials(0.1, 2, degree=5.5), "degree must be one of 3, 5, 7, 9, got 5.5"),
    (lambda: minimax_polynomials(0.1, 2, degree=(3, 4)), r"one of 3, 5, 7, 9, got \(3, 4\)"),
    (lambda: minimax_polynomials(0.1, 2, degree=(3,)), r"one a step, 2, got \(3,\)"),
    (lambda: check_coefficients("cubicc"), "cubic, quintic or a triple .*cans.*got 'cubicc'"),
    (lambda: check_coefficients((1.0, 2.0)), r"triple \(a, b, c\), got \(1.0, 2.0\)"),
    (lambda: check_coefficients(()), r"triple \(a, b, c\), got \(\)"),
    (lambda: check_coefficients(3.0), r"triple \(a, b, c\), got 3.0"),
    (lambda: check_coefficients((1.0, math.nan, 0.0)), "finite numbers .*nan"),
    (lambda: check_coefficients([(1.0,)]), "two to five finite numbers"),
    (lambda: check_coefficients([(1.0, 2.0), 3.0]), "two to five finite numbers"),
    (lambda: schedule("cans", 4), "steps must be None or 5, .*'cans', got 4"),
    (lambda: schedule("deepseek_v4", 5), "steps must be None or 10, .*got 5"),
    (lambda: schedule(((1.5, -0.5),), 2), "steps must be None or 1, .*got 2"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
