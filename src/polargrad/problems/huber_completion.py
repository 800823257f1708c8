"""Low-rank matrix completion with the Huber loss: a few entries may be wrong by any amount."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from polargrad.problems.observed_entries import ObservedEntries, draw_low_rank

__all__ = ["HuberCompletion"]


@dataclass(frozen=True, eq=False, repr=False)
class HuberCompletion(ObservedEntries):
    r"""The mean Huber loss of the observed entries Ω of a matrix, in two factors.

    .. math:: f(X, Y) = \frac1{|\Omega|}\sum_{(i,j)\in\Omega} W_{ij}\,
              \rho_\delta\bigl((X Y^{\mathsf T} - M)_{ij}\bigr), \qquad
              \rho_\delta(r) = \begin{cases} \tfrac12 r^2 & |r| \le \delta \\
              \delta |r| - \tfrac12 \delta^2 & |r| > \delta \end{cases}

    The derivative of ρ is r clipped to [-δ, δ], so that no entry pulls harder than δ. The second
    derivative is 1 where |r| < δ and 0 elsewhere. For δ = ∞ this is *half* the objective of
    :class:`LowRankCompletion`, which has no factor ½.

    f* is known where the rank is min(m, n), and where it is given as ``known_optimum``.

    Args:
        M: m × n, float32 or float64. Entries that are not observed may be NaN.
        mask: m × n of bool, or of zeros and ones: where M is observed. None: where it is not NaN.
            Rows and columns without an observed entry are allowed; f does not depend on theirs.
        rank: r, the number of columns of X and Y, from 1 to min(m, n).
        delta: δ, above 0, in the unit of ``M``; infinity is allowed.
        weights: W, m × n, finite and not negative, of the dtype of ``M``; None for ones.
        known_optimum: f*, if it is known, such as 0 for exact data.

    Raises:
        TypeError: if one of the matrices is not a tensor or ``rank`` not an integer.
        ValueError: if M is not finite where it is observed, if nothing is observed, or if shapes,
            dtypes, devices or numbers are not as stated.

    Example:
        >>> problem = HuberCompletion(torch.tensor([[10.0, 0.5]]), None, rank=1, delta=1.0)
        >>> problem.objective(torch.zeros(1, 1), torch.zeros(2, 1)).item()
        4.8125

    Source: P. J. Huber, *Robust estimation of a location parameter*, Annals of Mathematical
    Statistics 35 (1964).
    """

    delta: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.delta > 0:
            raise ValueError(f"delta must be above 0, got {self.delta}")

    @classmethod
    def random(
        cls,
        m: int,
        n: int,
        rank: int,
        delta: float,
        fraction: float = 0.3,
        generator: torch.Generator | None = None,
        *,
        noise: float = 0.0,
        outliers: float = 0.0,
        outlier_scale: float = 10.0,
        dtype: torch.dtype = torch.float32,
    ) -> HuberCompletion:
        """Draw M = U Vᵀ + noise as ``LowRankCompletion.random`` does, then spoil observed entries.

        Entries that are not observed are not spoiled, so that ``unobserved_error`` measures what is
        recovered. Without noise and outliers f* is known to be 0, up to the rounding of M in
        ``dtype``.

        Args:
            m: rows of M.
            n: columns of M.
            rank: of U Vᵀ, and the number of columns of X and Y.
            delta: δ, above 0.
            fraction: the probability that an entry is observed, above 0 and at most 1.
            generator: where the numbers come from; torch's global one if it is not given.
            noise: the standard deviation of Gaussian noise in every entry.
            outliers: the probability that an observed entry is spoiled, from 0 to 1.
            outlier_scale: the standard deviation of what is added there, above 0.
            dtype: float32 or float64.

        Raises:
            TypeError: if ``rank`` is not an integer.
            ValueError: for a number outside its range, or if nothing is observed.
        """
        if not 0 <= outliers <= 1:
            raise ValueError(f"outliers must be from 0 to 1, got {outliers}")
        if not 0 < outlier_scale < math.inf:
            raise ValueError(f"outlier_scale must be finite and above 0, got {outlier_scale}")
        M, mask = draw_low_rank(m, n, rank, fraction, generator, noise, dtype)
        if outliers:
            spoiled = torch.rand(m, n, generator=generator, dtype=torch.float32) < outliers
            amount = outlier_scale * torch.randn(m, n, generator=generator, dtype=dtype)
            M = torch.where(mask & spoiled, M + amount, M)
        return cls(M, mask, rank, delta, known_optimum=None if noise or outliers else 0.0)

    def __repr__(self) -> str:
        return super().__repr__().replace("observed=", f"delta={self.delta}, observed=")

    def penalty(self, R: Tensor) -> Tensor:
        """Return ρ(R) = c (R - ½ c) with c the clipped R, entry by entry."""
        clipped = self.penalty_slope(R)
        return clipped * (R - 0.5 * clipped)

    def penalty_slope(self, R: Tensor) -> Tensor:
        """Return R clipped to [-δ, δ]."""
        return R.clamp(-self.delta, self.delta)

    def penalty_curvature(self, R: Tensor) -> Tensor:
        """Return 1 where |R| < δ, 0 elsewhere."""
        return (R.abs() < self.delta).to(R.dtype)

    @cached_property
    def loss_smoothness(self) -> float:
        """max W / |Ω|: the Lipschitz constant of the gradient as a function of X Yᵀ."""
        return float(self.entry_weights.double().max()) / self.count
