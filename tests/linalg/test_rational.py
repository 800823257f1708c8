"""Zolotarev's coefficients: a printed table, fifty independent digits, and what makes them best."""

import math

import mpmath
import pytest

from polargrad.linalg.rational import least_degree, published_degree, zolotarev

DEGREES = (1, 2, 3, 4, 8)
LOWERS = (1e-16, 1e-8, 1e-4, 1e-2, 0.1, 0.3, 0.9, 0.999)

# Deviations from 1 on [l, 1] for r = 1, 2, ..., found earlier by evaluation on a grid of f itself;
# the second digit of a few was rounded up.
DEVIATIONS = {
    0.3: (1.3e-2, 2.7e-4, 5.7e-6, 1.2e-7),
    0.1: (7.2e-2, 5.0e-3, 3.4e-4, 2.3e-5, 1.6e-6),
    1e-2: (0.33, 6.5e-2, 1.3e-2, 2.4e-3, 4.7e-4, 9.0e-5),
    1e-3: (0.60, 0.20, 6.2e-2, 1.9e-2, 5.8e-3, 1.8e-3, 5.3e-4),
    1e-4: (0.79, 0.38, 0.15, 6.1e-2, 2.4e-2, 9.4e-3, 3.7e-3),
    1e-5: (0.90, 0.54, 0.27, 0.13, 5.9e-2, 2.8e-2, 1.3e-2),
    1e-6: (0.95, 0.68, 0.40, 0.21, 0.11, 5.9e-2, 3.1e-2),
}
FIRST_SHIFTS = {0.3: 8e-3, 0.1: 1.8e-3, 1e-2: 5e-5, 1e-3: 1.1e-6, 1e-4: 2e-8, 1e-5: 4e-10}


def values(coefficients, lower, points=20_000):
    """f on a grid of [l, 1] that is even in the logarithm, both ends included."""
    step = -math.log(lower) / points
    inner = (lower * math.exp(step * i) for i in range(1, points))
    return [coefficients.value(x) for x in (lower, *inner, 1.0)]


@pytest.mark.parametrize("lower", DEVIATIONS)
def test_deviations_are_those_of_the_table(lower):
    for degree, printed in enumerate(DEVIATIONS[lower], start=1):
        found = zolotarev(lower, degree).deviation
        unit = 10.0 ** (math.floor(math.log10(printed)) - 1)
        assert abs(found - printed) <= 0.6 * unit, degree


def test_first_shifts_are_those_of_the_table():
    for lower, printed in FIRST_SHIFTS.items():
        assert zolotarev(lower, 4).shifts[0] == pytest.approx(printed, rel=0.08)


@pytest.mark.parametrize("lower", LOWERS)
@pytest.mark.parametrize("degree", DEGREES)
def test_coefficients_against_fifty_digits(lower, degree):
    """The formulas in multiple precision, all 2r constants from the elliptic functions."""
    with mpmath.workdps(50):
        end = mpmath.mpf(lower)
        m = 1 - end**2
        period = mpmath.ellipk(m)
        tangents = [
            mpmath.ellipfun("sc", i * period / (2 * degree + 1), m=m)
            for i in range(1, 2 * degree + 1)
        ]
        c = [(end * mpmath.re(t)) ** 2 for t in tangents]
        poles, zeros = c[::2], c[1::2]
        weights = [
            -mpmath.fprod(p - z for z in zeros) / mpmath.fprod(p - q for q in poles if q != p)
            for p in poles
        ]
        low, high = (
            x * (1 + sum(a / (x**2 + p) for a, p in zip(weights, poles, strict=True)))
            for x in (end, mpmath.mpf(1))
        )
        scale, deviation = 2 / (low + high), (high - low) / (high + low)
    found = zolotarev(lower, degree)
    assert found.shifts == pytest.approx([float(p) for p in poles], rel=1e-13)
    assert found.weights == pytest.approx([float(a) for a in weights], rel=1e-12)
    assert found.scale == pytest.approx(float(scale), rel=1e-13)
    # Fifty digits minus what cancels in the difference of the ends.
    assert found.deviation == pytest.approx(float(deviation), rel=1e-12, abs=1e-45)


@pytest.mark.parametrize("lower", [1e-16, 1e-6, 1e-2, 0.3])
@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_equioscillates_at_2r_plus_2_points(lower, degree):
    """f − 1 takes ±d with alternating signs at 2r + 2 points: so no other one does better."""
    found = zolotarev(lower, degree)
    grid = values(found, lower)
    inner = [
        here
        for before, here, after in zip(grid, grid[1:], grid[2:], strict=False)
        if (here - before) * (after - here) < 0.0
    ]
    errors = [value - 1.0 for value in (grid[0], *inner, grid[-1])]
    signs = [(-1.0) ** (i + 1) for i in range(2 * degree + 2)]
    assert errors == pytest.approx([sign * found.deviation for sign in signs], rel=1e-4)


@pytest.mark.parametrize("lower", LOWERS)
@pytest.mark.parametrize("degree", DEGREES)
def test_no_value_leaves_the_stated_interval(lower, degree):
    found = zolotarev(lower, degree)
    grid = values(found, lower, points=4000)
    assert max(grid) <= 1.0 + found.deviation + 2e-14
    assert min(grid) >= 1.0 - found.deviation - 2e-14
    assert min(found.weights) > 0.0
    assert list(found.shifts) == sorted(found.shifts)


@pytest.mark.parametrize("lower", [2.0**-52, 2.0**-23, 1e-3, 0.2])
def test_degree_one_is_qdwh(lower):
    """M x (1 + a/(x² + c)) over its largest value is x (a + b x²)/(1 + c x²), step after step."""
    left = lower
    for _ in range(3):
        d = (4.0 * (1.0 - left**2) / left**4) ** (1.0 / 3.0)
        a = (1.0 + d) ** 0.5
        a += 0.5 * (8.0 - 4.0 * d + 8.0 * (2.0 - left**2) / (left**2 * (1.0 + d) ** 0.5)) ** 0.5
        b = (a - 1.0) ** 2 / 4.0
        c = a + b - 1.0
        found = zolotarev(left, 1)
        (shift,), (weight,) = found.shifts, found.weights
        scale = found.scale / (1.0 + found.deviation)
        assert (shift + weight) * scale / shift == pytest.approx(a, rel=1e-9)
        assert scale / shift == pytest.approx(b, rel=1e-9)
        assert 1.0 / shift == pytest.approx(c, rel=1e-9)
        left = found.contrast


@pytest.mark.parametrize("condition", [1.0005, 1.005, 1.05, 1.15, 1.4, 1.9, 3.0, 100.0, 1e4, 1e6])
def test_the_published_choice_converges_and_is_never_less_than_needed(condition):
    degree, iterations = published_degree(condition)
    assert iterations == (1 if condition <= 2.0 else 2)
    least = least_degree(1.0 / condition, iterations, 3 * 2.0**-52)
    assert least is not None
    assert least <= degree <= least + 2


def test_the_published_choice_at_the_ends_of_its_table():
    ends = {6.49: (2, 2), 179.0: (3, 2), 1.49e4: (4, 2), 1.9e6: (5, 2), 9e8: (6, 2), 2e12: (7, 2)}
    for condition, expected in {**ends, 1e16: (8, 2), 1.0: (2, 1), 2.0: (8, 1)}.items():
        assert published_degree(condition) == expected
        assert least_degree(1.0 / max(condition, 1.0001), expected[1], 3 * 2.0**-52) <= expected[0]


def test_two_iterations_make_one_function_of_the_product_degree():
    """Composed, r and s give the best function for (2r+1)(2s+1) = 2t+1, so the same deviation."""
    first = zolotarev(1e-4, 1)
    assert zolotarev(first.contrast, 2).deviation == pytest.approx(
        zolotarev(1e-4, 7).deviation, rel=1e-10
    )
    assert least_degree(1e-30, 1, 1e-3) is None


BAD = [
    (lambda: zolotarev(0.0, 2), ValueError, r"lower must lie in \[1e-100, 1\), got 0.0"),
    (lambda: zolotarev(1.0, 2), ValueError, r"lower must lie in \[1e-100, 1\), got 1.0"),
    (lambda: zolotarev(float("nan"), 2), ValueError, "lower .*got nan"),
    (lambda: zolotarev(0.1, 0), ValueError, "degree must be at least 1, got 0"),
    (lambda: zolotarev(0.1, 2.0), TypeError, "degree must be an int, got 2.0"),
    (lambda: published_degree(0.5), ValueError, "condition must be at least 1, got 0.5"),
    (lambda: published_degree(float("nan")), ValueError, "condition .*got nan"),
]


@pytest.mark.parametrize(("call", "kind", "message"), BAD, ids=[m for _, _, m in BAD])
def test_bad_input_is_named(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
