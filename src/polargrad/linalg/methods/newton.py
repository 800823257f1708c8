"""Newton's iteration: the mean of a matrix and of its inverse's adjoint, scaled."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from polargrad.linalg.extremes import largest_singular_value
from polargrad.linalg.methods.finish import LAST_STEP, finish, last_deviation
from polargrad.linalg.methods.gram_eigh import GramEigh
from polargrad.linalg.methods.levels import by_level, is_better_looped, level_of, one_by_one
from polargrad.linalg.methods.outcome import Factor, Promise, Work
from polargrad.linalg.methods.polynomial import add_product, higher_terms
from polargrad.linalg.methods.qdwh import halley_weights
from polargrad.linalg.methods.svd import SVD
from polargrad.linalg.minimax import minimax_polynomials
from polargrad.linalg.odd_polynomials import OddPolynomial, deviation
from polargrad.linalg.precision import double_dtype, rank_cutoff
from polargrad.linalg.products import factorize, gram, solve_right

LEVELS_PER_DECADE = 4
# Up to so many columns, for float64 and for float32, norms are bounded by Frobenius norms, which
# cost nothing and a quarter of an inverse; above by power steps, with this margin for what they
# leave.
MOST_FROBENIUS_COLUMNS, MOST_FROBENIUS_SINGLE = 320, 128
POWER_STEPS = 4
MARGIN = 1.4
# Up to so many columns the residual of a float64 matrix has been seen to stay below 40 eps.
MOST_DOUBLE_COLUMNS = 320
# Condition numbers above which a float64 matrix goes to the SVD: there the backward error of the
# iteration, which grows slowly with κ, reaches that of the SVD.
LARGEST_CONDITION = 3e5
# A float32 matrix is taken whose bound of 1/κ is so many times the rank cutoff: bounds are on the
# safe side by up to a factor of four.
SAFETY = 10.0
# Ratios of extreme singular values at which inverses give way: to one Halley step, which a
# Cholesky factorization makes cheap from this many columns on, or to polynomials.
LARGEST_HALLEY_RATIO = 9.0
LARGEST_POLYNOMIAL_RATIO = 8.0
LEAST_HALLEY_COLUMNS, LEAST_HALLEY_SINGLE = 192, 512


@dataclass(frozen=True)
class Newton:
    r"""Newton's iteration with scaling by both extreme singular values.

    .. math:: X_{k+1} = \tfrac12\left(\mu_k X_k + \mu_k^{-1} X_k^{-\mathsf H}\right), \qquad
              \mu_k = (\sigma_1\sigma_n)^{-1/2}, \qquad
              \kappa_{k+1} = \tfrac12\left(\sqrt{\kappa_k} + 1/\sqrt{\kappa_k}\right)

    Two inverses take a condition number of 10⁴ to 3.6, three 10⁸; a Halley step or a few best
    polynomials do the rest. A float32 matrix is inverted in float64. The largest singular values of
    A and its inverse are bounded by norms or estimated by power steps, and the result is checked.

    The fastest exact choice on a CPU for stacks of small matrices, for square float32 ones of some
    200 to 1000 columns, and for float64 ones of some 100 to 300; above, a spectrum of few large and
    many small singular values has been seen to cost 350 eps of backward error, where an SVD has 30.
    For larger float32 matrices choose :class:`MixedQDWH`. A tall matrix is first reduced to its
    triangular factor by QR. One that is singular to rounding, or of condition number above some 10⁵
    in float64, is handed to :class:`SVD`; a float32 one above some 10⁴ to :class:`GramEigh`.

    Cost: an inverse 8/3 n³ flops as libraries take it, a polynomial 6 n³, the Halley step 13/3 n³;
    QR and the last product 6 m n² for a tall matrix. Three host synchronizations a level of
    condition number.

    Example:
        >>> import polargrad as pg
        >>> A = torch.tensor([[0.0, 2.0], [-1.0, 0.0]], dtype=torch.float64)
        >>> pg.polar_factor(A, method=Newton()).round(decimals=12) + 0.0
        tensor([[ 0.,  1.],
                [-1.,  0.]], dtype=torch.float64)

    Source: N. J. Higham, SIAM J. Sci. Stat. Comput. 7 (1986); R. Byers, H. Xu, SIAM J. Matrix
    Anal. Appl. 30 (2008).
    """

    name: ClassVar[str] = "newton"
    products_only: ClassVar[bool] = False
    scale_free: ClassVar[bool] = True
    converged: ClassVar[bool] = True
    adaptive: ClassVar[bool] = True

    def promise(self, rows: int, columns: int, dtype: torch.dtype) -> Promise:
        """See :class:`Promise`: 8 eps for float32; for float64 40, and 400 above 320 columns."""
        eps = torch.finfo(dtype).eps
        residual = 8.0 * eps
        if dtype == double_dtype(dtype):
            residual = (40.0 if columns <= MOST_DOUBLE_COLUMNS else 400.0) * eps
        return Promise(5.0 * residual, rank_cutoff(columns, dtype), residual)

    def work(self, rows: int, columns: int, dtype: torch.dtype, condition: float) -> Work:
        """See :class:`Work`; at most, for norms that are exact and one step at the end."""
        reduction = Work(1, 1) if rows > columns else Work()
        if 1.0 / condition <= _safe(columns, dtype):
            fallback = SVD() if dtype == double_dtype(dtype) else GramEigh(polish=None)
            exact = fallback.work(columns, columns, dtype, condition)
            return exact.plus(reduction).plus(Work(factorizations=1, synchronizations=1))
        halley = _takes_halley(columns, dtype)
        level = level_of(1.0 / condition, LEVELS_PER_DECADE)
        ratios, polynomials = _schedule(level or 1, halley, last_deviation(columns, dtype))
        steps = Work(halley + 3 * len(polynomials), len(ratios) - 1 + halley, 2 * halley, 1)
        return steps.plus(LAST_STEP).plus(reduction)

    def __call__(self, x: Tensor) -> Factor:
        """Return the factor of a tall stack ``x`` (m, n) or (B, m, n) with finite entries."""
        if x.shape[-2] > x.shape[-1]:
            q, r = torch.linalg.qr(x)
            inner = self(r)
            return Factor(q @ inner.U, inner.steps, inner.rank)
        if is_better_looped(x):
            return one_by_one(self, x)
        double = x.dtype == double_dtype(x.dtype)
        wide = x.to(double_dtype(x.dtype))
        inverse = torch.linalg.inv_ex(wide).inverse
        # The inverse of a singular matrix is anything, NaN included: then no level is found below.
        sizes = [_size(one, x.dtype) for one in (wide, inverse)]
        lower = 1.0 / (sizes[0] * sizes[1])
        lower = torch.where(lower > _safe(x.shape[-1], x.dtype), lower, 0.0)
        fallback = SVD() if double else GramEigh(polish=None)

        def exact(
            level: int | None, x: Tensor, wide: Tensor, inverse: Tensor, scale: Tensor
        ) -> Factor:
            if level is None:
                return fallback(x)
            u, steps = _iterate(wide, inverse, scale, level, x.dtype)
            return finish(x, u, steps, fallback)

        scale = (sizes[1] / sizes[0]).sqrt()
        return by_level(exact, lower, LEVELS_PER_DECADE, x, wide, inverse, scale)


def _safe(columns: int, dtype: torch.dtype) -> float:
    """Down to which bound of 1/κ a matrix is inverted; of float32 it is well above the cutoff."""
    if dtype == double_dtype(dtype):
        return 1.0 / LARGEST_CONDITION
    return SAFETY * rank_cutoff(columns, dtype)


def _takes_halley(columns: int, dtype: torch.dtype) -> bool:
    """Whether a Halley step in this precision costs less than the polynomials that it spares."""
    double = dtype == double_dtype(dtype)
    return columns >= (LEAST_HALLEY_COLUMNS if double else LEAST_HALLEY_SINGLE)


def _size(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A bound of each matrix's largest singular value for work in ``dtype``, as (..., 1, 1)."""
    double = dtype == double_dtype(dtype)
    if x.shape[-1] <= (MOST_FROBENIUS_COLUMNS if double else MOST_FROBENIUS_SINGLE):
        norm: Tensor = torch.linalg.matrix_norm(x, keepdim=True)
        return norm
    # In single precision a power step takes half the time.
    return MARGIN * largest_singular_value(x.to(dtype), POWER_STEPS)


def _iterate(
    x: Tensor, inverse: Tensor, scale: Tensor, level: int, dtype: torch.dtype
) -> tuple[Tensor, int]:
    """Take Newton steps while inverses are worth it, then the cheaper ones, in ``dtype``."""
    columns = x.shape[-1]
    halley = _takes_halley(columns, dtype)
    ratios, polynomials = _schedule(level, halley, last_deviation(columns, dtype))
    x = ((0.5 * scale) * x).add_((0.5 / scale) * inverse.mH)
    for ratio in ratios[1:-1]:
        half = 0.5 / math.sqrt(ratio)
        x = (half * x).add_(torch.linalg.inv_ex(x).inverse.mH, alpha=0.25 / half)
    x = x.to(dtype)
    if halley:
        # Singular values in [1, ρ]: for x/ρ the weights are those of the lower bound 1/ρ.
        ratio = ratios[-1]
        a, b, c, _ = halley_weights(1.0 / ratio)
        step = solve_right(x, factorize(gram(x), 1.0, c / ratio**2))
        x = step.mul_((a - b / c) / ratio).add_(x, alpha=b / c / ratio)
    for a, *higher in polynomials:
        x = add_product(x, x, higher_terms(gram(x), higher), beta=a)
    return x, len(ratios) - 1 + halley + len(polynomials)


@functools.lru_cache(maxsize=256)
def _schedule(
    level: int, halley: bool, target: float
) -> tuple[tuple[float, ...], tuple[OddPolynomial, ...]]:
    """The condition number before each Newton step and after the last, and the polynomials."""
    ratio = 10.0 ** (level / LEVELS_PER_DECADE)
    ratios = [ratio]
    while len(ratios) < 2 or ratio > (LARGEST_HALLEY_RATIO if halley else LARGEST_POLYNOMIAL_RATIO):
        ratio = 0.5 * (math.sqrt(ratio) + 1.0 / math.sqrt(ratio))
        ratios.append(ratio)
    lower, upper = 1.0 / ratio, ratio
    if halley:
        lower, upper = halley_weights(lower)[3], 1.0
    polynomials: tuple[OddPolynomial, ...] = ()
    for steps in range(6):
        polynomials = minimax_polynomials(lower, steps) if steps else ()
        if (deviation(polynomials, lower) if steps else 1.0 - lower) <= target:
            break
    if polynomials:  # made for [1/ρ, 1], to be applied to [1, ρ]
        first = tuple(a / upper ** (2 * i + 1) for i, a in enumerate(polynomials[0]))
        polynomials = (first, *polynomials[1:])
    return tuple(ratios), polynomials
