r"""Odd polynomials of a singular value, one after the other: values, intervals, slopes.

An odd polynomial :math:`p(x) = a x + b x^3 + c x^5 + \dots` is the tuple of its coefficients
``(a, b, c, ...)``. Applied to a matrix, :math:`X(aI + bG + cG^2 + \dots)` with
:math:`G = X^{\mathsf H}X`, it acts on every singular value alone.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

__all__ = [
    "OddPolynomial",
    "compose",
    "deviation",
    "error_growth",
    "output_interval",
    "with_safety",
]

OddPolynomial = tuple[float, ...]


def with_safety(
    polynomials: Sequence[OddPolynomial], safety: float, first: int
) -> tuple[OddPolynomial, ...]:
    """Return the polynomials with x/safety for x in the ``first`` ones.

    Example:
        >>> with_safety([(3.0, 8.0), (1.5, -0.5)], 2.0, 1)
        ((1.5, 1.0), (1.5, -0.5))
    """
    return tuple(
        tuple(c / safety ** (2 * i + 1) for i, c in enumerate(one)) if index < first else one
        for index, one in enumerate(polynomials)
    )


def compose(polynomials: Sequence[OddPolynomial], x: float) -> float:
    """Return what the polynomials, one after the other, make of the singular value ``x``.

    Example:
        >>> compose([(1.5, -0.5)], 1.0)
        1.0
    """
    for polynomial in polynomials:
        x *= _horner(polynomial, x * x)
    return x


@functools.lru_cache(maxsize=1024)
def output_interval(
    polynomials: tuple[OddPolynomial, ...], lower: float, upper: float = 1.0
) -> tuple[float, float]:
    r"""Return the smallest and largest value that lower ≤ x ≤ upper becomes, to rounding.

    A polynomial takes an interval to an interval, the one between its values at the ends and at the
    zeros of its derivative within; so the composition is followed step by step and nothing missed.

    Example:
        >>> output_interval(((1.5, -0.5),), 0.5, 1.5)
        (0.5625, 1.0)
    """
    low, high = lower, upper
    for polynomial in polynomials:
        slope = [(2 * i + 1) * c for i, c in enumerate(polynomial)]
        turns = [math.sqrt(t) for t in _roots(slope, 0.0, max(low * low, high * high))]
        inside = [x for turn in turns for x in (turn, -turn) if low < x < high]
        values = [compose([polynomial], x) for x in (low, *inside, high)]
        low, high = min(values), max(values)
    return low, high


def deviation(polynomials: tuple[OddPolynomial, ...], lower: float, upper: float = 1.0) -> float:
    r"""Return :math:`\max |p(x) - 1|` over lower ≤ x ≤ upper.

    Example:
        >>> deviation(((1.5, -0.5),), 0.5) == 1 - (1.5 * 0.5 - 0.5 * 0.125)
        True
    """
    low, high = output_interval(polynomials, lower, upper)
    return max(abs(low - 1.0), abs(high - 1.0))


@functools.lru_cache(maxsize=256)
def error_growth(
    polynomials: tuple[OddPolynomial, ...], lower: float, points: int = 2000
) -> tuple[float, float]:
    r"""Return by how much the polynomials multiply an error of the size of rounding.

    If every iterate is off by δ times its size, the first number times δ bounds, to first order,
    the error among the singular values that began at lower ≤ x ≤ 1, the second one that of the
    whole factor:

    .. math:: \sum_k u_k \max_x |(p_N \circ \dots \circ p_{k+1})'(x)|

    with :math:`u_k` the largest value after k steps, and x over what is left of the interval, on a
    grid that is dense near both ends, and over all of :math:`[0, u_k]`.

    Example:
        >>> error_growth(((2.0, 0.0),), 0.5)
        (4.0, 4.0)
    """
    ratio, width = lower ** (1.0 / points), (1.0 - lower) / points
    starts = [x for i in range(points + 1) for x in (ratio**i, 1.0 - width * i)]
    sizes = [1.0]
    for polynomial in polynomials:
        low, high = output_interval((polynomial,), 0.0, sizes[-1])
        sizes.append(max(high, -low))
    counted = [0.0] * len(polynomials) + [1.0]
    for x in starts:
        slopes = []
        for polynomial in polynomials:
            slopes.append(_horner([(2 * i + 1) * c for i, c in enumerate(polynomial)], x * x))
            x *= _horner(polynomial, x * x)
        total = 1.0
        for k in reversed(range(len(polynomials))):
            total *= abs(slopes[k])
            counted[k] = max(counted[k], total)
    # Below the interval the slope is the greatest at zero, where it is that of each polynomial.
    zero = [math.prod(p[0] for p in polynomials[k:]) for k in range(len(sizes))]
    anywhere = [max(one, other) for one, other in zip(counted, zero, strict=True)]
    return _dot(sizes, counted), _dot(sizes, anywhere)


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _horner(coefficients: Sequence[float], t: float) -> float:
    total = 0.0
    for c in reversed(coefficients):
        total = total * t + c
    return total


def _roots(coefficients: Sequence[float], low: float, high: float) -> list[float]:
    """Where Σ c_i tⁱ changes sign in (low, high): once at most between zeros of its derivative."""
    if len(coefficients) < 2:
        return []
    derivative = [i * c for i, c in enumerate(coefficients)][1:]
    found = []
    for left, right in itertools.pairwise((low, *_roots(derivative, low, high), high)):
        negative = _horner(coefficients, left) < 0.0
        if negative == (_horner(coefficients, right) < 0.0):
            continue
        while left < (middle := (left + right) / 2.0) < right:
            if (_horner(coefficients, middle) < 0.0) == negative:
                left = middle
            else:
                right = middle
        found.append(middle)
    return found
