"""QDWH by Cholesky factorizations alone, its ill-conditioned steps in double precision."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from polargrad.linalg.extremes import largest_eigenvalue, smallest_eigenvalue
from polargrad.linalg.methods.finish import LAST_STEP, finish
from polargrad.linalg.methods.gram_eigh import GramEigh, from_gram
from polargrad.linalg.methods.levels import by_level, is_better_looped, level_of, one_by_one
from polargrad.linalg.methods.outcome import Factor, Promise, Work
from polargrad.linalg.methods.qdwh import QDWH, halley_weights
from polargrad.linalg.precision import double_dtype, rank_cutoff
from polargrad.linalg.products import factorize, gram, solve_right

# A Cholesky step in precision e loses about 0.1 κ e: up to this weight, which is about the square
# of the condition number that is left, float32 loses nothing; above it the step is taken in double.
LARGEST_SINGLE_WEIGHT = 300.0
# How far the estimates of the extreme singular values may be off: √λ₁ is too small by at most this
# factor, √λ_n too large by the other. A wrong estimate costs time, the last check finds it.
UPPER_MARGIN = 1.06
LOWER_MARGIN = 0.6
# Bounds are rounded down to so many values a decade, so that few schedules exist and a matrix is
# treated alike alone and in a stack.
LEVELS_PER_DECADE = 4
# What is left to the last step, of order three: gap³ is below the rounding of float32.
LAST_GAP = 2.5e-3


@dataclass(frozen=True)
class MixedQDWH:
    r"""Dynamically weighted Halley iteration with Cholesky steps in two precisions.

    .. math:: X_{k+1} = \tfrac{b}{c} X_k + \left(a - \tfrac{b}{c}\right)
              X_k (I + c\,X_k^{\mathsf H}X_k)^{-1}

    with the weights of :class:`QDWH`, from estimates of both extreme singular values. For a float32
    matrix the Gram matrix in float64 loses nothing: the first steps, where c is large, are taken in
    float64, the rest in float32, and no QR factorization is needed.

    On a CPU the fastest exact method for float32 matrices of more than 1000 columns, and of more
    than 450 that are not square; for square ones of up to 1000 choose :class:`Newton`, for tall
    ones :class:`GramEigh`. A float64 matrix has no wider precision: for it this is :class:`QDWH`,
    and :class:`Newton` or :class:`SVD` are faster. A matrix whose smallest singular value is not
    clearly above the rank cutoff is handed to :class:`GramEigh`, which finds its rank; so is one
    whose factor is not orthonormal in the end because an estimate was wrong. Two host
    synchronizations a level of condition number.

    Cost: a step 4 m n² + n³/3 flops; for κ = 10⁴ one or two in float64 and two in float32; before
    them 2 m n² + n³/3 in float64, after them 4 m n².

    Example:
        >>> import polargrad as pg
        >>> U = pg.polar_factor(torch.diag(torch.tensor([1.0, -1e-3])), method=MixedQDWH())
        >>> torch.allclose(U, torch.diag(torch.tensor([1.0, -1.0])), atol=1e-6)
        True

    Source: Y. Nakatsukasa, Z. Bai, F. Gygi, SIAM J. Matrix Anal. Appl. 31 (2010).
    """

    name: ClassVar[str] = "mixed_qdwh"
    products_only: ClassVar[bool] = False
    scale_free: ClassVar[bool] = True
    converged: ClassVar[bool] = True
    adaptive: ClassVar[bool] = True

    def promise(self, rows: int, columns: int, dtype: torch.dtype) -> Promise:
        """See :class:`Promise`: 10 and 8 eps, down to the rank cutoff."""
        if dtype == double_dtype(dtype):
            return QDWH().promise(rows, columns, dtype)
        eps = torch.finfo(dtype).eps
        return Promise(10.0 * eps, rank_cutoff(columns, dtype), 8.0 * eps)

    def work(self, rows: int, columns: int, dtype: torch.dtype, condition: float) -> Work:
        """See :class:`Work`; at most, for estimates that are exact and one step at the end."""
        if dtype == double_dtype(dtype):
            return QDWH().work(rows, columns, dtype, condition)
        lower = LOWER_MARGIN / (UPPER_MARGIN * condition)
        if lower <= LOWER_MARGIN * 10.0 * rank_cutoff(columns, dtype):
            eigh = GramEigh(polish=None).work(rows, columns, dtype, condition)
            return eigh.plus(Work(factorizations=1, synchronizations=1))
        level = level_of(lower, LEVELS_PER_DECADE)
        steps = len(schedule(10.0 ** (-(level or 1) / LEVELS_PER_DECADE)))
        return Work(steps, 1 + steps, 2 * steps, 1).plus(LAST_STEP)

    def __call__(self, x: Tensor) -> Factor:
        """Return the factor of a tall stack ``x`` (m, n) or (B, m, n) with finite entries."""
        if x.dtype == double_dtype(x.dtype):
            return QDWH()(x)
        if is_better_looped(x):
            return one_by_one(self, x)
        wide = x.to(double_dtype(x.dtype))
        c = gram(wide)
        factor = factorize(c)
        upper = UPPER_MARGIN * largest_eigenvalue(c).sqrt()
        lower = LOWER_MARGIN * smallest_eigenvalue(factor).sqrt() / upper
        safe = 10.0 * rank_cutoff(x.shape[-1], x.dtype)
        sound = (factor.info == 0)[..., None, None] & (lower > LOWER_MARGIN * safe)
        lower = torch.where(sound, lower, 0.0)

        def exact(level: int | None, x: Tensor, wide: Tensor, c: Tensor, upper: Tensor) -> Factor:
            if level is None:
                return from_gram(x, wide, c, polish=None)
            return _iterate(x, wide, c, upper, 10.0 ** (-level / LEVELS_PER_DECADE))

        return by_level(exact, lower, LEVELS_PER_DECADE, x, wide, c, upper)


def _iterate(x: Tensor, wide: Tensor, c: Tensor, upper: Tensor, lower: float) -> Factor:
    """Run the schedule for singular values in [lower, 1] · upper, and check what came out."""
    weights = schedule(lower)
    u, square = wide, c
    scale: Tensor | float = 1.0 / upper  # of the first step alone
    for index, (a, b, weight) in enumerate(weights):
        if index and u.dtype != x.dtype and weight <= LARGEST_SINGLE_WEIGHT:
            u = u.to(x.dtype)
        if index:
            square, scale = gram(u), 1.0
        step = solve_right(u, factorize(square, 1.0, weight * scale * scale))
        step.mul_((a - b / weight) * scale)
        u = step.add_(u, alpha=b / weight) if index else step.add_((b / weight) * scale * u)
    return finish(x, u.to(x.dtype), len(weights), GramEigh(polish=None))


@functools.lru_cache(maxsize=256)
def schedule(lower: float) -> tuple[tuple[float, float, float], ...]:
    """The weights (a, b, c) until one Newton–Schulz step is enough."""
    weights = []
    while 1.0 - lower > LAST_GAP:
        a, b, c, lower = halley_weights(lower)
        weights.append((a, b, c))
    return tuple(weights)
