"""Low-rank matrix completion: the non-convex problem of the PolarGrad paper, section 6.3."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from polargrad.problems.factored import Truncation
from polargrad.problems.observed_entries import ObservedEntries, draw_low_rank

__all__ = ["LowRankCompletion"]

# M is m × n and of this rank, and so much of it is observed.
PUBLISHED_SIZES = (500, 250, 5)
PUBLISHED_FRACTION = 0.3


@dataclass(frozen=True, eq=False, repr=False)
class LowRankCompletion(ObservedEntries):
    r"""Least squares in two factors over the observed entries Ω of a matrix.

    .. math:: f(X, Y) = \frac1{|\Omega|}\sum_{(i,j)\in\Omega} W_{ij} (X Y^{\mathsf T} - M)_{ij}^2,
              \qquad \nabla_X f = G Y, \quad \nabla_Y f = G^{\mathsf T} X,
              \qquad G = \tfrac2{|\Omega|}\, W \circ \Omega \circ (X Y^{\mathsf T} - M)

    There is no factor ½. f* is known where the rank is min(m, n), where every entry is fitted with
    one weight (Eckart and Young), and where it is given as ``known_optimum``.

    Args:
        M: m × n, float32 or float64. Entries that are not fitted may be NaN.
        mask: m × n of bool, or of zeros and ones: where M is observed. None: where it is not NaN.
            Rows and columns without an observed entry are allowed; f does not depend on theirs.
        rank: r, the number of columns of X and Y, from 1 to min(m, n).
        weights: W, m × n, finite and not negative, of the dtype of ``M``; None for ones.
        known_optimum: f*, if it is known, such as 0 for exact data.
        mask_residual: False for the objective of the paper's time: the sum is over all entries of
            M, and the mask only sets the denominator |Ω|.

    Raises:
        TypeError: if one of the matrices is not a tensor or ``rank`` not an integer.
        ValueError: if M is not finite where it is fitted, if nothing is observed, or if shapes,
            dtypes, devices or numbers are not as stated.

    Example:
        >>> M = torch.tensor([[2.0, 4.0], [1.0, float("nan")]])
        >>> problem = LowRankCompletion(M, None, rank=1)
        >>> problem.objective(torch.tensor([[2.0], [1.0]]), torch.tensor([[1.0], [2.0]])).item()
        0.0

    Source: Lau, Long and Su, arXiv 2505.21799, section 6.3.
    """

    mask_residual: bool = field(default=True, kw_only=True)

    @classmethod
    def random(
        cls,
        m: int,
        n: int,
        rank: int,
        fraction: float = PUBLISHED_FRACTION,
        generator: torch.Generator | None = None,
        *,
        noise: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> LowRankCompletion:
        """Draw M = U Vᵀ + noise: U, V standard Gaussian of this rank, the mask, then the noise.

        Without noise f* is known to be 0, up to the rounding of M in ``dtype``.

        Args:
            m: rows of M.
            n: columns of M.
            rank: of M, and the number of columns of X and Y.
            fraction: the probability that an entry is observed, above 0 and at most 1.
            generator: where the numbers come from; torch's global one if it is not given.
            noise: the standard deviation of Gaussian noise in every entry.
            dtype: float32 or float64.

        Raises:
            TypeError: if ``rank`` is not an integer.
            ValueError: for a number outside its range, or if nothing is observed.
        """
        M, mask = draw_low_rank(m, n, rank, fraction, generator, noise, dtype)
        return cls(M, mask, rank, known_optimum=None if noise else 0.0)

    @classmethod
    def published(
        cls, seed: int = 42, era: Literal["reference", "paper"] = "reference"
    ) -> tuple[LowRankCompletion, tuple[Tensor, Tensor]]:
        """Return the paper's problem for this seed and its start, as the published code draws them.

        The published code calls ``torch.manual_seed(seed)``, draws the two factors of M and the
        mask, calls it again and draws the two factors of the start uniformly on [-1, 1].
        Generators of this method's own give the same numbers and leave torch's global one alone.

        Args:
            seed: of both draws.
            era: "reference" for today's code, "paper" for the code of the paper's time, which used
                the mask only in the denominator.

        Returns:
            The problem, with M 500 × 250 of rank 5, and the start, 500 × 5 and 250 × 5, all
            float32.

        Raises:
            ValueError: for another era.

        Example:
            >>> problem, start = LowRankCompletion.published(seed=42)
            >>> f"{problem.observed_error(*start):.5f}"
            '5.31456'

        Source: arXiv 2505.21799, section 6.3, and its code (timlautk/polargrad,
        low_rank_mat_comp.py).
        """
        if era not in ("reference", "paper"):
            raise ValueError(f"era must be 'reference' or 'paper', got {era!r}")
        m, n, rank = PUBLISHED_SIZES
        data = torch.Generator().manual_seed(seed)
        problem = cls.random(m, n, rank, PUBLISHED_FRACTION, data)
        if era == "paper":  # all of M is fitted: its optimum has a closed form
            problem = dataclasses.replace(problem, mask_residual=False, known_optimum=None)
        start = torch.Generator().manual_seed(seed)
        X, Y = (
            torch.empty(size, rank, dtype=torch.float32).uniform_(-1, 1, generator=start)
            for size in (m, n)
        )
        return problem, (X, Y)

    @property
    def fitted(self) -> Tensor:
        """Where f reads M, a bool matrix, m × n: Ω, or everywhere if the residual is not masked."""
        return self.observed if self.mask_residual else torch.ones_like(self.observed)

    def penalty(self, R: Tensor) -> Tensor:
        """Return R², entry by entry."""
        return R.square()

    def penalty_slope(self, R: Tensor) -> Tensor:
        """Return 2 R."""
        return 2 * R

    def penalty_curvature(self, R: Tensor) -> Tensor:
        """Return 2 in every entry."""
        return torch.full_like(R, 2)

    @cached_property
    def loss_smoothness(self) -> float:
        """2 max W / |Ω|: the Lipschitz constant of the gradient as a function of X Yᵀ."""
        return 2 * float(self.entry_weights.double().max()) / self.count

    @cached_property
    def _truncation(self) -> tuple[float, Truncation] | None:
        """The factor of ½‖X Yᵀ - M‖² in f and the best M, where f is a multiple of that."""
        weight = float(self.entry_weights.max())
        if not bool((self.entry_weights == weight).all()):
            return None
        return 2 * weight / self.count, Truncation.of(self.M, self.rank)

    @cached_property
    def optimum(self) -> float:
        r"""f*, in float64: what is stated as known, 0 for the rank min(m, n), or a closed form.

        .. math:: f^\star = \frac{w}{|\Omega|} \sum_{i > r} \sigma_i(M)^2

        where every entry is fitted with one weight w.

        Raises:
            OptimumError: if none of the three applies.
        """
        if self.known_optimum is None and self._truncation is not None:
            factor, truncation = self._truncation
            return factor * truncation.discarded
        return super().optimum

    def gap(self, X: Tensor, Y: Tensor) -> float:
        """Return f - f* in float64; where f* is a closed form, without cancellation.

        Args:
            X: m × r, of any real floating dtype.
            Y: n × r, likewise.

        Raises:
            OptimumError: if f* is unknown.
            ValueError: if one of them has another shape.
        """
        self.checked((X, Y), any_dtype=True)
        if self.known_optimum is None and self._truncation is not None:
            factor, truncation = self._truncation
            return factor * truncation.excess(X, Y)
        return super().gap(X, Y)
