"""QDWH: the polar factor by dynamically weighted Halley steps."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from polargrad.linalg.methods.null_space import without_null_space
from polargrad.linalg.methods.outcome import Factor, Promise, Work
from polargrad.linalg.methods.polynomial import check_steps
from polargrad.linalg.precision import rank_cutoff
from polargrad.linalg.products import gram

# Above this weight the Gram matrix would lose too much of the small singular values, and a step
# factorizes the stacked matrix by QR; below it Cholesky is as accurate and cheaper.
# Y. Nakatsukasa, Z. Bai, F. Gygi, SIAM J. Matrix Anal. Appl. 31 (2010).
LARGEST_CHOLESKY_WEIGHT = 100.0
REFERENCE_LOWER_BOUND = 2.0**-23  # eps of float32, as the published code has it


@dataclass(frozen=True)
class QDWH:
    r"""The polar factor by QR-based dynamically weighted Halley iteration.

    .. math:: X_{k+1} = X_k (a_k I + b_k X_k^{\mathsf H}X_k)(I + c_k X_k^{\mathsf H}X_k)^{-1},
              \qquad X_0 = A/\alpha,\; \alpha = \sqrt{\|A\|_1\|A\|_\infty} \ge \sigma_1

    with weights that are optimal for singular values in :math:`[l_k, 1]`:

    .. math:: d = \sqrt[3]{4(1-l^2)/l^4},\;
              a = \sqrt{1+d} + \sqrt{2 - d + \tfrac{2(2-l^2)}{l^2\sqrt{1+d}}},\;
              b = \tfrac{(a-1)^2}{4},\; c = a + b - 1,\;
              l \leftarrow \tfrac{l(a + b l^2)}{1 + c l^2}

    Exact for any condition number, from QR and Cholesky factorizations and products alone: choose
    it where an SVD is slow (GPU). Without a budget it takes as many steps as the lower bound
    needs, known beforehand: four in float32 (two QR, two Cholesky), six in float64 (two QR, four
    Cholesky). Then one Cholesky factorization more proves full rank, at a host synchronization; the
    matrices that fail it get the partial isometry of :class:`SVD`, which alone tells their rank.
    With a budget of ``steps`` nothing is synchronized or proved, and the result may be inexact.

    Cost: a QR step 6 m n² + (8/3) n³ flops, a Cholesky step 4 m n² + n³/3.

    Args:
        steps: a budget of steps, at least 1; None for convergence.
        lower_bound: :math:`l_0 \le \sigma_{\min}/\alpha`, in (0, 1]; None for the rank cutoff,
            below which a singular value counts as zero.
        polish: end with one Newton–Schulz step :math:`\tfrac32 U - \tfrac12 UU^{\mathsf H}U`.

    Raises:
        ValueError: for a budget below 1 or a bound outside (0, 1].

    Example:
        >>> import polargrad as pg
        >>> U = pg.polar_factor(torch.diag(torch.tensor([1.0, -1e-4])), method=QDWH())
        >>> torch.allclose(U, torch.diag(torch.tensor([1.0, -1.0])), atol=1e-6)
        True

    Source: Nakatsukasa, Bai and Gygi (2010), as above; the published PolarGrad code.
    """

    steps: int | None = None
    lower_bound: float | None = None
    polish: bool = False

    name: ClassVar[str] = "qdwh"
    products_only: ClassVar[bool] = False
    scale_free: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.steps is not None:
            check_steps(self.steps)
        if self.lower_bound is not None and not 0.0 < self.lower_bound <= 1.0:
            raise ValueError(f"lower_bound must be None or in (0, 1], got {self.lower_bound}")

    @classmethod
    def reference(cls, steps: int = 2) -> QDWH:
        """The oracle of the published PolarGrad experiments, which is *not* converged at two steps.

        Its scaling, its lower bound (eps of float32) and its last Newton–Schulz step. Two steps
        shrink the singular values of a Gaussian 500 × 100 matrix to 0.82 … 1.00; the published
        learning rates are tuned to that, and diverge with an exact factor.
        """
        return cls(steps=steps, lower_bound=REFERENCE_LOWER_BOUND, polish=True)

    def promise(self, rows: int, columns: int, dtype: torch.dtype) -> Promise:
        """See :class:`Promise`: 50 eps if converged, else what the budget leaves of its bound."""
        eps = torch.finfo(dtype).eps
        cutoff = rank_cutoff(columns, dtype)
        if self.steps is None:
            return Promise(50.0 * eps, cutoff, 50.0 * eps)
        lower = self.lower_bound or cutoff / (rows * columns) ** 0.25
        reached = lower
        for _ in _weights(lower, eps, self.steps):
            reached = halley_weights(reached)[3]
        if self.polish:
            reached = 1.5 * reached - 0.5 * reached**3
        # α ≤ (mn)^¼ σ₁
        spectral = min(lower * (rows * columns) ** 0.25, 1.0)
        return Promise(1.0 - reached + 50.0 * eps, spectral)

    @property
    def adaptive(self) -> bool:
        """Whether values are looked at to decide how to go on: not with a budget."""
        return self.converged

    @property
    def converged(self) -> bool:
        """Whether the result is the polar factor to rounding: not with a budget of steps."""
        return self.steps is None

    def work(self, rows: int, columns: int, dtype: torch.dtype, condition: float) -> Work:
        """See :class:`Work`; the same for every matrix of full rank."""
        lower = self.lower_bound or rank_cutoff(columns, dtype) / (rows * columns) ** 0.25
        weights = _weights(lower, torch.finfo(dtype).eps, self.steps)
        qr = sum(c > LARGEST_CHOLESKY_WEIGHT for _, _, c in weights)
        steps = Work(len(weights) + 2 * self.polish, len(weights), len(weights) - qr)
        return steps if self.steps is not None else steps.plus(Work(1, 1, 0, 1))

    def __call__(self, x: Tensor) -> Factor:
        """Return the factor of a tall stack ``x`` (..., m, n) with finite entries."""
        rows, columns = x.shape[-2:]
        real = x.real.dtype
        bound = self.lower_bound
        if bound is None:
            # σ > τσ₁ counts, and α ≤ (mn)^¼ σ₁: so σ/α > √n·eps/(mn)^¼.
            bound = rank_cutoff(columns, real) / (rows * columns) ** 0.25
        u = x / upper_bound(x)
        weights = _weights(bound, torch.finfo(real).eps, self.steps)
        for a, b, c in weights:
            step = _qr_step if c > LARGEST_CHOLESKY_WEIGHT else _cholesky_step
            u = step(u, a, b, c)
        if self.polish:
            u = 1.5 * u - 0.5 * u @ gram(u)
        if self.steps is not None:
            return Factor(u, steps=len(weights))
        u, rank = without_null_space(x, u)
        return Factor(u, steps=len(weights), rank=rank)


@functools.lru_cache(maxsize=256)
def _weights(
    lower: float, eps: float, budget: int | None
) -> tuple[tuple[float, float, float], ...]:
    """The weights (a, b, c) from the lower bound to within 5 eps of 1, or to the budget's end."""
    weights: list[tuple[float, float, float]] = []
    while lower + 5.0 * eps < 1.0 and (budget is None or len(weights) < budget):
        a, b, c, lower = halley_weights(lower)
        weights.append((a, b, c))
    return tuple(weights)


def halley_weights(lower: float) -> tuple[float, float, float, float]:
    """The best weights (a, b, c) for singular values in [lower, 1], and the lower bound after it.

    Example:
        >>> [round(weight, 3) for weight in halley_weights(1.0)]
        [3.0, 1.0, 3.0, 1.0]
    """
    square = lower * lower
    d = (4.0 * (1.0 / square - 1.0) / square) ** (1.0 / 3.0)
    root = math.sqrt(1.0 + d)
    a = root + math.sqrt(2.0 - d + 2.0 * (2.0 - square) / (square * root))
    b = (a - 1.0) ** 2 / 4.0
    c = a + b - 1.0
    return a, b, c, min(lower * (a + b * square) / (1.0 + c * square), 1.0)


def upper_bound(x: Tensor) -> Tensor:
    """√(‖x‖₁‖x‖∞) ≥ σ₁ for each matrix, and 1 for a zero matrix; the roots first: no overflow."""
    size = x.abs()
    columns = size.sum(dim=-2).amax(dim=-1)
    rows = size.sum(dim=-1).amax(dim=-1)
    bound = columns.sqrt() * rows.sqrt()
    return torch.where(bound > 0, bound, torch.ones_like(bound))[..., None, None]


def _qr_step(x: Tensor, a: float, b: float, c: float) -> Tensor:
    """One step by [√c x; I] = [Q₁; Q₂] R: x ← (b/c) x + (a − b/c)/√c · Q₁ Q₂ᴴ."""
    rows, columns = x.shape[-2:]
    identity = torch.eye(columns, dtype=x.dtype, device=x.device).expand(
        *x.shape[:-2], columns, columns
    )
    q, _ = torch.linalg.qr(torch.cat((math.sqrt(c) * x, identity), dim=-2))
    halley: Tensor = q[..., :rows, :] @ q[..., rows:, :].mH
    return (b / c) * x + ((a - b / c) / math.sqrt(c)) * halley


def _cholesky_step(x: Tensor, a: float, b: float, c: float) -> Tensor:
    """One step by I + c xᴴx = L Lᴴ: x ← (b/c) x + (a − b/c) x (L Lᴴ)⁻¹."""
    identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    # Its eigenvalues lie in [1, 1 + c]: the factorization cannot fail, so nothing asks whether.
    factor, _ = torch.linalg.cholesky_ex(identity + c * gram(x))
    solved = torch.cholesky_solve(x.mH, factor).mH
    return (b / c) * x + (a - b / c) * solved
