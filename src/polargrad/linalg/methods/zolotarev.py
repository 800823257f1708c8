"""ZOLO-PD: the polar factor in two iterations of Zolotarev's rational functions."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from polargrad.linalg.methods.null_space import without_null_space
from polargrad.linalg.methods.outcome import Factor, Promise, Work
from polargrad.linalg.methods.polynomial import check_steps
from polargrad.linalg.methods.qdwh import upper_bound
from polargrad.linalg.precision import rank_cutoff
from polargrad.linalg.products import gram
from polargrad.linalg.rational import (
    LARGEST_DEGREE,
    ZolotarevCoefficients,
    least_degree,
    zolotarev,
)

# A Cholesky factorization of xᴴx + cI is as accurate as a QR of [x; √c I] up to about this
# condition number of the shifted Gram matrix; the same one as in QDWH.
LARGEST_CHOLESKY_CONDITION = 100.0
# Singular values so many eps from 1 are converged. The published degrees leave up to three.
CONVERGED_EPS = 3.0
# From this lower bound on, the published algorithm takes one iteration instead of two.
ONE_ITERATION_LOWER_BOUND = 0.5
# The square root of the first shift, about this, must be a number of float32.
SMALLEST_LOWER_BOUND = 1e-30


@dataclass(frozen=True)
class Zolotarev:
    r"""The polar factor by the best rational functions of their degree, two of them composed.

    .. math:: X_{k+1} = M_k \Bigl(X_k + \sum_{j=1}^{r} a_j X_k
              (X_k^{\mathsf H}X_k + c_j I)^{-1}\Bigr), \qquad
              X_0 = A/\alpha,\; \alpha = \sqrt{\|A\|_1\|A\|_\infty} \ge \sigma_1

    with the coefficients of :func:`polargrad.linalg.rational.zolotarev` for singular values in
    :math:`[l_k, 1]`. Without a degree it is the least one that brings them within 3 eps of 1 in two
    iterations: eight in float64, as published for condition numbers up to 1e16, and four in
    float32. The r terms are independent, and are factorized as one batch: by a QR of
    :math:`[X; \sqrt{c_j}\,I]` while the Gram matrix would lose small singular values, in practice
    in the first iteration, and by Cholesky in the second. A tall matrix is replaced by the R of its
    QR before. Degree 1 is QDWH.

    Exact for any condition number. It does more work than :class:`QDWH` in fewer dependent stages,
    so choose it where r factorizations run side by side (many cores, a GPU, small matrices);
    one after the other QDWH is faster. Without a budget full rank is proved afterwards, at a host
    synchronization, and matrices that are not clearly of full rank get the partial isometry of
    :class:`SVD`. With a budget of ``iterations`` nothing is synchronized or proved; one iteration
    is inexact unless the lower bound is large.

    Cost: 26/3 r n³ flops for an iteration by QR, (4 + r) n³ for one by Cholesky, and 6 m n² more
    where m > n.

    Args:
        degree: r, from 1 to 8; None for the least that converges.
        iterations: a budget of iterations, at least 1; None for convergence.
        lower_bound: :math:`l_0 \le \sigma_{\min}/\alpha`, in [1e-30, 1); None for the rank
            cutoff, below which a singular value counts as zero.
        polish: end with one Newton–Schulz step :math:`\tfrac32 U - \tfrac12 UU^{\mathsf H}U`.

    Raises:
        TypeError: for a degree or a budget that is not an int.
        ValueError: for a degree outside 1 to 8, a budget below 1 or a bound outside [1e-30, 1).

    Example:
        >>> a = torch.diag(torch.tensor([0.9, -1e-5], dtype=torch.float64))
        >>> Zolotarev()(a).U.round(decimals=12)
        tensor([[ 1.,  0.],
                [ 0., -1.]], dtype=torch.float64)
        >>> Zolotarev()(a).steps
        2

    Source: Y. Nakatsukasa, R. W. Freund, *SIAM Review* 58 (2016).
    """

    degree: int | None = None
    iterations: int | None = None
    lower_bound: float | None = None
    polish: bool = False

    name: ClassVar[str] = "zolotarev"
    products_only: ClassVar[bool] = False
    scale_free: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.degree is not None:
            if isinstance(self.degree, bool) or not isinstance(self.degree, int):
                raise TypeError(f"degree must be None or an int, got {self.degree!r}")
            if not 1 <= self.degree <= LARGEST_DEGREE:
                raise ValueError(
                    f"degree must be None or from 1 to {LARGEST_DEGREE}, got {self.degree}"
                )
        if self.iterations is not None:
            check_steps(self.iterations)
        if self.lower_bound is not None and not SMALLEST_LOWER_BOUND <= self.lower_bound < 1.0:
            raise ValueError(
                f"lower_bound must be None or in [{SMALLEST_LOWER_BOUND}, 1), "
                f"got {self.lower_bound}"
            )

    @property
    def adaptive(self) -> bool:
        """Whether values are looked at to decide how to go on: not with a budget."""
        return self.converged

    @property
    def converged(self) -> bool:
        """Whether the result is the polar factor to rounding: not with a budget of iterations."""
        return self.iterations is None

    def work(self, rows: int, columns: int, dtype: torch.dtype, condition: float) -> Work:
        """See :class:`Work`; the same for every matrix of full rank, the r terms a batch."""
        total = Work(1, 1) if rows > columns else Work()
        for lower, coefficients in self._schedule(rows, columns, dtype):
            by_qr = _needs_qr(lower, coefficients)
            total = total.plus(Work(1, 1) if by_qr else Work(2, 1, 1))
        total = total.plus(Work(products=2 * self.polish))
        return total if self.iterations is not None else total.plus(Work(1, 1, 0, 1))

    def __call__(self, x: Tensor) -> Factor:
        """Return the factor of a tall stack ``x`` (..., m, n) with finite entries."""
        rows, columns = x.shape[-2:]
        schedule = self._schedule(rows, columns, x.real.dtype)
        u = x / upper_bound(x)
        q = None
        if rows > columns:
            # The polar factor of QR is Q times that of R, and R is the smaller matrix.
            q, u = torch.linalg.qr(u)
        for lower, coefficients in schedule:
            u = _iteration(u, lower, coefficients)
        if q is not None:
            u = q @ u
        if self.polish:
            u = 1.5 * u - 0.5 * u @ gram(u)
        if self.iterations is not None:
            return Factor(u, steps=len(schedule))
        u, rank = without_null_space(x, u)
        return Factor(u, steps=len(schedule), rank=rank)

    def promise(self, rows: int, columns: int, dtype: torch.dtype) -> Promise:
        """Return what every result keeps: what the last function leaves, and rounding.

        Ten times n eps stand for the rounding errors, several times what is observed.
        """
        eps = torch.finfo(dtype).eps
        schedule = self._schedule(rows, columns, dtype)
        left = schedule[-1][1].deviation
        if self.polish:
            left = left**2 * (3.0 + left) / 2.0
        deviation = left + 10.0 * columns * eps
        down_to = schedule[0][0]
        if self.iterations is None:
            down_to = max(down_to, rank_cutoff(columns, dtype))
        else:
            down_to = min(1.0, down_to * (rows * columns) ** 0.25)  # α ≤ (mn)^¼ σ₁
        return Promise(deviation, down_to, residual=deviation * (2.0 + deviation))

    def _schedule(
        self, rows: int, columns: int, dtype: torch.dtype
    ) -> tuple[tuple[float, ZolotarevCoefficients], ...]:
        """The lower bound and the coefficients of every iteration, for these matrices."""
        lower = self.lower_bound
        if lower is None:
            # σ > τσ₁ counts, and α ≤ (mn)^¼ σ₁: so σ/α > √n·eps/(mn)^¼.
            lower = rank_cutoff(columns, dtype) / (rows * columns) ** 0.25
        schedule: tuple[tuple[float, ZolotarevCoefficients], ...] = _constant_schedule(
            lower, torch.finfo(dtype).eps, self.degree, self.iterations
        )
        return schedule


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _constant_schedule(
    lower: float, eps: float, degree: int | None, budget: int | None
) -> tuple[tuple[float, ZolotarevCoefficients], ...]:
    """The same as :func:`_schedule`, which torch.compile calls instead of looking into it."""
    return _schedule(lower, eps, degree, budget)


@functools.lru_cache(maxsize=256)
def _schedule(
    lower: float, eps: float, degree: int | None, budget: int | None
) -> tuple[tuple[float, ZolotarevCoefficients], ...]:
    """The iterations from ``lower`` until 1 is reached to rounding, or to the budget's end."""
    tolerance = CONVERGED_EPS * eps
    if degree is None:
        expected = budget or (1 if lower >= ONE_ITERATION_LOWER_BOUND else 2)
        degree = least_degree(lower, expected, tolerance) or LARGEST_DEGREE
    schedule: list[tuple[float, ZolotarevCoefficients]] = []
    while budget is None or len(schedule) < budget:
        if schedule:
            # Another one follows, so the values are brought to [l, 1] instead of about 1.
            lower, last = schedule[-1]
            scale = last.scale / (1.0 + last.deviation)
            schedule[-1] = (lower, dataclasses.replace(last, scale=scale))
            lower = last.contrast
        coefficients = zolotarev(lower, degree)
        schedule.append((lower, coefficients))
        if coefficients.deviation <= tolerance:
            break
    return tuple(schedule)


def _iteration(x: Tensor, lower: float, coefficients: ZolotarevCoefficients) -> Tensor:
    """Apply one function to singular values in [lower, 1]."""
    terms = _qr_terms if _needs_qr(lower, coefficients) else _cholesky_terms
    return coefficients.scale * (x + terms(x, coefficients.shifts, coefficients.weights))


def _needs_qr(lower: float, coefficients: ZolotarevCoefficients) -> bool:
    """Whether the worst of the shifted Gram matrices is too ill-conditioned for Cholesky."""
    smallest = coefficients.shifts[0]
    return (1.0 + smallest) / (lower * lower + smallest) > LARGEST_CHOLESKY_CONDITION


def _qr_terms(x: Tensor, shifts: Sequence[float], weights: Sequence[float]) -> Tensor:
    """Σ a x (xᴴx + cI)⁻¹ by [x; √c I] = [Q₁; Q₂] R, where each term is a/√c · Q₁ Q₂ᴴ."""
    rows, columns = x.shape[-2:]
    roots = [math.sqrt(shift) for shift in shifts]
    bottom = _stacked(roots, x) * torch.eye(columns, dtype=x.dtype, device=x.device)
    batch = (len(shifts), *x.shape[:-2])
    both = torch.cat(
        (x.expand(*batch, rows, columns), bottom.expand(*batch, columns, columns)), dim=-2
    )
    q, _ = torch.linalg.qr(both)
    factors = _stacked([a / root for a, root in zip(weights, roots, strict=True)], x)
    terms: Tensor = factors * (q[..., :rows, :] @ q[..., rows:, :].mH)
    return terms.sum(dim=0)


def _cholesky_terms(x: Tensor, shifts: Sequence[float], weights: Sequence[float]) -> Tensor:
    """Σ a x (xᴴx + cI)⁻¹ by r Cholesky factorizations, and one product with x."""
    identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    # Positive shifts, and a condition of at most 100: no factorization can fail.
    factor, _ = torch.linalg.cholesky_ex(x.mH @ x + _stacked(shifts, x) * identity)
    return x @ (_stacked(weights, x) * torch.cholesky_inverse(factor)).sum(dim=0)


def _stacked(values: Sequence[float], x: Tensor) -> Tensor:
    """The numbers along a new first dimension; filled, not copied: nothing waits for the device."""
    filled = [torch.full((), value, dtype=x.real.dtype, device=x.device) for value in values]
    return torch.stack(filled).reshape(-1, *(1,) * x.ndim)
