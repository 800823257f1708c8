r"""Zolotarev's rational functions: the best ones of their degree at turning an interval into 1.

An odd rational function of type (2r + 1, 2r), written in partial fractions, acts on every singular
value of a matrix alone, at the cost of r independent factorizations.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch

__all__ = ["ZolotarevCoefficients", "least_degree", "published_degree", "zolotarev"]

# Both recursions below square their error at each round. The slowest cases, a lower end of 1e-300
# and one of 1 − 1e-16, need fifteen rounds of the mean and eight of the transformation.
MEAN_ROUNDS = 20
TRANSFORMATION_ROUNDS = 10
THETA_TERMS = 60

LARGEST_DEGREE = 8
SMALLEST_LOWER = 1e-100  # the shifts, about l², are still numbers of full precision

# Condition number below which (or up to which) so many terms do, in one iteration and in two.
# Y. Nakatsukasa, R. W. Freund, SIAM Review 58 (2016), as their program has it.
PUBLISHED_ONE_ITERATION = ((1.001, 2), (1.01, 3), (1.1, 4), (1.2, 5), (1.5, 6), (2.0, 8))
PUBLISHED_TWO_ITERATIONS = ((6.5, 2), (180.0, 3), (1.5e4, 4), (2e6, 5), (1e9, 6), (3e12, 7))


@dataclass(frozen=True)
class ZolotarevCoefficients:
    r"""The best odd rational function of type (2r + 1, 2r) for 1 on [l, 1], in partial fractions.

    .. math:: f(x) = M x \Bigl(1 + \sum_{j=1}^{r} \frac{a_j}{x^2 + c_j}\Bigr), \qquad
              1 - d \le f(x) \le 1 + d \;\text{ for } l \le x \le 1

    Attributes:
        shifts: :math:`c_1 < \dots < c_r`, the odd-numbered ones of Zolotarev's 2r, all positive.
        weights: :math:`a_1, \dots, a_r`, all positive.
        scale: M, which centres f on 1.
        deviation: d; f takes both 1 − d and 1 + d at r + 1 points.
    """

    shifts: tuple[float, ...]
    weights: tuple[float, ...]
    scale: float
    deviation: float

    @property
    def contrast(self) -> float:
        """(1 − d)/(1 + d), the lower end of f over its upper end: l of an iteration after it."""
        return (1.0 - self.deviation) / (1.0 + self.deviation)

    def value(self, x: float) -> float:
        """Return f(x); every term is positive for x > 0, so nothing cancels.

        Example:
            >>> round(zolotarev(0.1, 1).value(1.0), 4), round(zolotarev(0.1, 1).value(0.1), 4)
            (1.072, 0.928)
        """
        terms = zip(self.weights, self.shifts, strict=True)
        return self.scale * x * (1.0 + math.fsum(a / (x * x + c) for a, c in terms))


@functools.lru_cache(maxsize=256, typed=True)
def zolotarev(lower: float, degree: int) -> ZolotarevCoefficients:
    r"""Return the coefficients of the function of type (2r + 1, 2r) that is nearest to 1 on [l, 1].

    .. math:: c_i = l^2\,\frac{\operatorname{sn}^2(u_i; l')}{\operatorname{cn}^2(u_i; l')},
              \quad u_i = \frac{i K(l')}{2r + 1},\; l' = \sqrt{1 - l^2},\; i = 1 \dots 2r; \qquad
              a_j = -\frac{\prod_k (c_{2j-1} - c_{2k})}{\prod_{k \ne j} (c_{2j-1} - c_{2k-1})}

    Only the half with :math:`u_i < K/2` is computed, the other is :math:`c_{2r+1-i} = l^2/c_i`; all
    of it, and the deviation, is good to some 1e-13 of itself for l from 1e-100 to 1 − 1e-12.

    Args:
        lower: l, in [1e-100, 1).
        degree: r, the number of terms, at least 1.

    Raises:
        TypeError: if ``degree`` is not an int.
        ValueError: if ``lower`` is not in [1e-100, 1), or ``degree`` is below 1.

    Example:
        >>> [f"{zolotarev(1e-3, degree).deviation:.1e}" for degree in (1, 2, 3, 4)]
        ['6.0e-01', '2.0e-01', '6.2e-02', '1.9e-02']

    Source: Y. Nakatsukasa, R. W. Freund, *SIAM Review* 58 (2016); N. I. Akhiezer, *Elements of
    the Theory of Elliptic Functions* (1990), chapter 9.
    """
    if not SMALLEST_LOWER <= lower < 1.0:
        raise ValueError(f"lower must lie in [{SMALLEST_LOWER}, 1), got {lower}")
    if isinstance(degree, bool) or not isinstance(degree, int):
        raise TypeError(f"degree must be an int, got {degree!r}")
    if degree < 1:
        raise ValueError(f"degree must be at least 1, got {degree}")
    count = 2 * degree
    period = _quarter_period(lower)
    c = [0.0] * (count + 1)
    for i in range(1, degree + 1):
        c[i] = (lower * _tangent(i * period / (count + 1), lower)) ** 2
        c[count + 1 - i] = lower * lower / c[i]
    poles, zeros = c[1::2], c[2::2]
    # The factors in pairs of like size, so that no product leaves the range of the numbers.
    weights = tuple(
        (zeros[j] - poles[j])
        * math.prod((poles[j] - zeros[k]) / (poles[j] - poles[k]) for k in range(degree) if k != j)
        for j in range(degree)
    )
    unscaled = ZolotarevCoefficients(tuple(poles), weights, 1.0, 0.0)
    # Zolotarev's function starts at its least value and ends at its largest one.
    scale = 2.0 / (unscaled.value(lower) + unscaled.value(1.0))
    return ZolotarevCoefficients(tuple(poles), weights, scale, _deviation(lower, degree, period))


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def constant_coefficients(lower: float, degree: int) -> ZolotarevCoefficients:
    """The same as :func:`zolotarev`, which torch.compile calls instead of looking into it."""
    return zolotarev(lower, degree)


def published_degree(condition: float) -> tuple[int, int]:
    """Return the degree and the number of iterations that converge in double precision.

    The choice of the published algorithm for singular values that span a factor of ``condition``.

    Raises:
        ValueError: for a condition below 1.

    Example:
        >>> published_degree(1.3), published_degree(1e4), published_degree(1e16)
        ((6, 1), (4, 2), (8, 2))

    Source: Nakatsukasa and Freund (2016), as :func:`zolotarev`.
    """
    if not condition >= 1.0:
        raise ValueError(f"condition must be at least 1, got {condition}")
    for limit, degree in PUBLISHED_ONE_ITERATION:
        if condition <= limit:
            return degree, 1
    for limit, degree in PUBLISHED_TWO_ITERATIONS:
        if condition < limit:
            return degree, 2
    return LARGEST_DEGREE, 2


@functools.lru_cache(maxsize=256)
def least_degree(lower: float, iterations: int, tolerance: float) -> int | None:
    """Return the least degree of at most 8 that leaves no more than ``tolerance``, or None.

    Every iteration has the same degree, and works on what its predecessor left.

    Example:
        >>> least_degree(1e-15, 2, 2.0**-51), least_degree(1e-7, 2, 2.0**-23)
        (8, 4)
    """
    for degree in range(1, LARGEST_DEGREE + 1):
        left, found = lower, 1.0
        for _ in range(iterations):
            coefficients = zolotarev(left, degree)
            left, found = coefficients.contrast, coefficients.deviation
            if left >= 1.0:
                break
        if found <= tolerance:
            return degree
    return None


def _quarter_period(lower: float) -> float:
    """K(√(1 − l²)) = π / (2 agm(1, l)), by the arithmetic-geometric mean."""
    a, b = 1.0, lower
    for _ in range(MEAN_ROUNDS):
        a, b = 0.5 * (a + b), math.sqrt(a * b)
    return math.pi / (2.0 * a)


def _tangent(u: float, lower: float) -> float:
    r"""Return sn(u)/cn(u) for the modulus √(1 − l²) and 0 < u ≤ K/2.

    By Jacobi's imaginary transformation it is :math:`-i\,\mathrm{sn}(iu; l)`, for which Landen's
    descending transformation starts at the small modulus l and ends at a hyperbolic sine. The
    angle itself would not do: at l = 1e-16 it comes within 1e-8 of a right angle.
    """
    moduli = []
    k, complement = lower, math.sqrt((1.0 - lower) * (1.0 + lower))
    for _ in range(TRANSFORMATION_ROUNDS):
        k = (k / (1.0 + complement)) ** 2
        complement = 2.0 * math.sqrt(complement) / (1.0 + complement)
        moduli.append(k)
        u /= 1.0 + k
    s = math.sinh(u)
    for k in reversed(moduli):
        s = (1.0 + k) * s / (1.0 - k * s * s)
    return s


def _deviation(lower: float, degree: int, period: float) -> float:
    r"""Return d from the nome, so that it is right even where f(1) and f(l) agree to rounding.

    The function of type (2r + 1, 2r) raises the nome q of √(1 − l²) to the power 2r + 1 = n, and d
    is the modulus of the nome :math:`q^{2n}`:
    :math:`d = (\sum_k q^{2n(k+1/2)^2})^2 / (\sum_k q^{2nk^2})^2`, k over all integers.
    """
    # K(l) = π / (2 agm(1, √(1 − l²))), the other quarter period.
    other = _quarter_period(math.sqrt((1.0 - lower) * (1.0 + lower)))
    exponent = -2.0 * (2 * degree + 1) * math.pi * other / period
    half = 2.0 * math.fsum(math.exp(exponent * (k + 0.5) ** 2) for k in range(THETA_TERMS))
    whole = 1.0 + 2.0 * math.fsum(math.exp(exponent * k * k) for k in range(1, THETA_TERMS))
    return (half / whole) ** 2
