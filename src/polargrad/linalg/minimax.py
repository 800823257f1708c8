r"""The generator of coefficients: best odd polynomial approximations of 1, one after the other.

Exact to double precision for every interval, however long or short: the exchange runs in decimal
arithmetic of eighty digits, because the error of a polynomial of degree 9 on an interval of width
w is about :math:`w^5`, and is gone in floats long before w is.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from decimal import Decimal, localcontext

import torch

from polargrad.linalg.odd_polynomials import OddPolynomial, compose

__all__ = ["DEGREES", "best_polynomial", "check_generator", "minimax_polynomials"]

DEGREES = (3, 5, 7, 9)

DIGITS = 80
EXCHANGES = 60  # from any start some ten are enough; each squares the error of the last
HALVINGS = 70
# Below this relative width the best polynomial is the flattest one to the last bit of a float.
SHORTEST = 1e-9


def minimax_polynomials(
    lower: float,
    steps: int,
    *,
    degree: int | Sequence[int] = 5,
    cushion: float = 0.0,
    safety: float = 1.0,
) -> tuple[OddPolynomial, ...]:
    r"""Return odd polynomials of which each is the best one on what its predecessors leave.

    .. math:: p_k = \arg\min_p \max_{x \in [l_k, u_k]} |p(x) - 1|,
              \quad l_{k+1} = p_k(l_k),\; u_{k+1} = 2 - l_{k+1}

    No composition of polynomials of these degrees, in this order, comes nearer to 1 on [lower, 1].
    Where :math:`l_k` is much smaller than :math:`u_k` the polynomial can be made for
    :math:`[\max(l_k, \text{cushion}\,u_k), u_k]` instead and rescaled so that it is centred on 1
    again; without this it comes close to zero inside the interval and is fragile in low precision.

    Cost: a few milliseconds a polynomial, once.

    Args:
        lower: :math:`l_0`, in (0, 1); :math:`u_0 = 1`.
        steps: how many polynomials.
        degree: 3, 5, 7 or 9; or a sequence of them, one a step.
        cushion: in [0, 1), the least ratio of lower to upper end that a polynomial is made for.
        safety: s, at least 1: every polynomial but the last is p(x/s), against rounding that
            pushes a value above the interval, and the next one is made for what that leaves.

    Returns:
        A tuple of coefficients :math:`(a_1, a_3, a_5, \dots)` for each step.

    Raises:
        ValueError: for an argument outside its range, or not one degree a step.

    Example:
        >>> [round(c, 6) for c in minimax_polynomials(1e-3, 1, cushion=0.02407327424182761)[0]]
        [8.287212, -23.595887, 17.300387]
        >>> [round(c, 6) for c in minimax_polynomials(1 - 1e-9, 1, degree=3)[0]]
        [1.5, -0.5]

    Source: Amsel et al., arXiv 2505.16932, sections 3 and 4; E. Ya. Remez (1934).
    """
    degrees = check_generator(lower, steps, degree, cushion, safety)
    return _successive(float(lower), degrees, float(cushion), float(safety))


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def constant_polynomials(
    lower: float, steps: int, degree: int | tuple[int, ...], cushion: float, safety: float
) -> tuple[OddPolynomial, ...]:
    """The same polynomials, for torch.compile, which calls this instead of looking into it."""
    return minimax_polynomials(lower, steps, degree=degree, cushion=cushion, safety=safety)


def check_generator(
    lower: float, steps: int, degree: int | Sequence[int], cushion: float, safety: float
) -> tuple[int, ...]:
    """Raise unless the arguments of :func:`minimax_polynomials` are sound; return the degrees."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if not 0.0 < lower < 1.0:
        raise ValueError(f"lower must lie in (0, 1), got {lower}")
    if not 0.0 <= cushion < 1.0:
        raise ValueError(f"cushion must lie in [0, 1), got {cushion}")
    if not 1.0 <= safety < math.inf:
        raise ValueError(f"safety must be at least 1, got {safety}")
    degrees = tuple(degree) if isinstance(degree, Sequence) else (degree,) * steps
    if len(degrees) != steps:
        raise ValueError(f"degree must be one number or one a step, {steps}, got {degree!r}")
    if any(one not in DEGREES for one in degrees):
        raise ValueError(f"degree must be one of {', '.join(map(str, DEGREES))}, got {degree!r}")
    return degrees


@functools.lru_cache(maxsize=256)
def _successive(
    lower: float, degrees: tuple[int, ...], cushion: float, safety: float
) -> tuple[OddPolynomial, ...]:
    low, high = lower, 1.0
    result: list[OddPolynomial] = []
    for index, degree in enumerate(degrees):
        polynomial, error = best_polynomial(max(low, cushion * high), high, degree)
        # What lies below the cushion goes lower than 1 − e, nothing goes higher than 1 + e.
        centre = (compose([polynomial], low) + 1.0 + error) / 2.0
        s = safety if index < len(degrees) - 1 else 1.0
        centred = tuple(c / centre / s ** (2 * i + 1) for i, c in enumerate(polynomial))
        result.append(centred)
        low = min(compose([centred], low), 1.0)
        high = 2.0 - low
    return tuple(result)


@functools.lru_cache(maxsize=1024)
def best_polynomial(low: float, high: float, degree: int) -> tuple[OddPolynomial, float]:
    r"""Return the best odd approximation of 1 on [low, high], 0 < low ≤ high, and its error e.

    It is the one of which :math:`p - 1` takes the values −e, e, −e, … at (degree + 3)/2 points, the
    first and the last of them the ends of the interval.

    Example:
        >>> polynomial, error = best_polynomial(0.5, 1.0, 3)
        >>> bool(abs(compose([polynomial], 0.5) - (1.0 - error)) < 1e-15)
        True
    """
    terms = (degree + 1) // 2
    with localcontext() as context:
        context.prec = DIGITS
        # Floats are exact decimals: nothing is lost on the way in.
        top = Decimal(high)
        ratio = Decimal(low) / top
        if 1 - ratio < Decimal(SHORTEST):
            top = (Decimal(low) + top) / 2
            coefficients, error = _flattest(terms), Decimal(0)
        else:
            coefficients, error = _exchange(ratio, terms)
        scaled = (c / top ** (2 * i + 1) for i, c in enumerate(coefficients))
        return tuple(map(float, scaled)), float(error)


def _flattest(terms: int) -> list[Decimal]:
    r"""p with p(1) = 1 and as many zero derivatives there as it can have.

    The first terms of :math:`x\,(1 - (1 - x^2))^{-1/2} = x \sum_j \binom{2j}{j}4^{-j}(1-x^2)^j`.
    """
    result = [Decimal(0)] * terms
    for j in range(terms):
        weight = Decimal(math.comb(2 * j, j)) / 4**j
        for i in range(j + 1):
            result[i] += weight * math.comb(j, i) * (-1) ** i
    return result


def _exchange(low: Decimal, terms: int) -> tuple[list[Decimal], Decimal]:
    """Remez' exchange on [low, 1].

    The error alternates at terms + 1 points, so it has a zero between each two neighbours, and its
    derivative, a polynomial of terms − 1 roots in x², exactly one root between each two zeros: all
    of them are bracketed, and the largest errors lie there and at the two ends.
    """
    # The extremes of a Chebyshev polynomial: any start converges.
    points = [
        (1 + low) / 2 - (1 - low) / 2 * Decimal(math.cos(math.pi * i / terms))
        for i in range(terms + 1)
    ]
    points[0], points[-1] = low, Decimal(1)
    for _ in range(EXCHANGES):
        coefficients, error = _alternate(points)
        slopes = [(2 * i + 1) * c for i, c in enumerate(coefficients)]

        def off(x: Decimal, p: list[Decimal] = coefficients) -> Decimal:
            return x * _horner(p, x * x) - 1

        def slope(x: Decimal, p: list[Decimal] = slopes) -> Decimal:
            return _horner(p, x * x)

        zeros = [_bisect(off, x, y) for x, y in itertools.pairwise(points)]
        points = [low, *(_bisect(slope, x, y) for x, y in itertools.pairwise(zeros)), Decimal(1)]
        if max(abs(off(x)) for x in points) <= abs(error) * (1 + Decimal("1e-20")):
            break
    return coefficients, abs(error)


def _horner(coefficients: Sequence[Decimal], square: Decimal) -> Decimal:
    total = Decimal(0)
    for c in reversed(coefficients):
        total = total * square + c
    return total


def _bisect(function: Callable[[Decimal], Decimal], left: Decimal, right: Decimal) -> Decimal:
    """The sign change of the function between left and right."""
    negative = function(left) < 0
    for _ in range(HALVINGS):
        middle = (left + right) / 2
        if (function(middle) < 0) == negative:
            left = middle
        else:
            right = middle
    return (left + right) / 2


def _alternate(points: Sequence[Decimal]) -> tuple[list[Decimal], Decimal]:
    """Solve p(x_i) + (−1)^i e = 1 for the coefficients of p and e, by elimination."""
    size = len(points)
    rows = [
        [*(x ** (2 * j + 1) for j in range(size - 1)), Decimal((-1) ** i), Decimal(1)]
        for i, x in enumerate(points)
    ]
    for column in range(size):
        pivot = max(range(column, size), key=lambda i: abs(rows[i][column]))
        rows[column], rows[pivot] = rows[pivot], rows[column]
        for i in range(size):
            if i != column:
                factor = rows[i][column] / rows[column][column]
                rows[i] = [s - factor * t for s, t in zip(rows[i], rows[column], strict=True)]
    *coefficients, error = (rows[i][size] / rows[i][i] for i in range(size))
    return coefficients, error
