"""Reduced-rank regression: least squares with a coefficient matrix of low rank."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from polargrad.problems.factored import FactoredProblem, Truncation, balanced, check_rank
from polargrad.problems.problem import check_alike, check_matrix

__all__ = ["ReducedRankRegression"]


@dataclass(frozen=True, eq=False, repr=False)
class ReducedRankRegression(FactoredProblem):
    r"""Least squares with coefficients of rank r, in two factors.

    .. math:: f(X, Y) = \tfrac12\|A X Y^{\mathsf T} - C\|_F^2, \qquad R = A X Y^{\mathsf T} - C,
              \qquad \nabla_X f = A^{\mathsf T} R Y, \quad \nabla_Y f = R^{\mathsf T} A X

    Not convex, yet its optimum has a closed form: with :math:`A = Q S P^{\mathsf T}` and the fitted
    values :math:`Q Q^{\mathsf T} C`,

    .. math:: f^\star = \tfrac12\|(I - Q Q^{\mathsf T}) C\|_F^2
              + \tfrac12\sum_{i>r}\sigma_i(Q^{\mathsf T} C)^2, \qquad
              X^\star Y^{\star\mathsf T} = A^+ Q (Q^{\mathsf T} C)_r

    where :math:`(\cdot)_r` is the best approximation of rank r: Eckart and Young in the metric of
    :math:`A^{\mathsf T} A`.

    Args:
        A: p × m, the regressors, float32 or float64.
        C: p × q, the responses, of the dtype and on the device of ``A``.
        rank: r, the number of columns of X (m × r) and Y (q × r), from 1 to min(m, q).

    Raises:
        TypeError: if a matrix is not a tensor or ``rank`` not an integer.
        ValueError: if a matrix is not a finite real matrix, or shapes, dtypes, devices or the rank
            do not fit together.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> problem = ReducedRankRegression.random(3, 4, 2, 6, generator)
        >>> problem.gap(*problem.solution()) < 1e-25
        True

    Source: A. J. Izenman, *Reduced-rank regression for the multivariate linear model*, Journal of
    Multivariate Analysis 5 (1975).
    """

    A: Tensor
    C: Tensor
    rank: int

    def __post_init__(self) -> None:
        for name in ("A", "C"):
            check_matrix(name, getattr(self, name))
        check_alike(A=self.A, C=self.C)
        if len(self.A) != len(self.C):
            raise ValueError(
                f"C has {len(self.C)} rows, but A has {len(self.A)}: give both one per observation"
            )
        check_rank(self.rank, self.A.shape[1], self.C.shape[1])

    @classmethod
    def random(
        cls,
        m: int,
        q: int,
        rank: int,
        p: int,
        generator: torch.Generator | None = None,
        *,
        noise: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> ReducedRankRegression:
        """Draw C = A U Vᵀ + noise: A, U, V, then the noise, all standard Gaussian.

        Args:
            m: columns of A.
            q: columns of C.
            rank: of U Vᵀ, and the number of columns of X and Y.
            p: rows of A and C, at least 1.
            generator: where the numbers come from; torch's global one if it is not given.
            noise: the standard deviation of the noise, at least 0.
            dtype: float32 or float64.

        Raises:
            TypeError: if ``rank`` is not an integer.
            ValueError: for a number outside its range.
        """
        check_rank(rank, m, q)
        if p < 1:
            raise ValueError(f"p must be at least 1, got {p}")
        if not 0 <= noise < float("inf"):
            raise ValueError(f"noise must be finite and at least 0, got {noise}")
        shapes = ((p, m), (m, rank), (q, rank), (p, q))
        A, U, V, N = (torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes)
        return cls(A, A @ U @ V.mT + noise * N, rank)

    def __repr__(self) -> str:
        (p, m), q = self.A.shape, self.C.shape[1]
        return f"ReducedRankRegression(m={m}, q={q}, rank={self.rank}, p={p}, dtype={self.dtype})"

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """The shapes m × r of X and q × r of Y."""
        return ((self.A.shape[1], self.rank), (self.C.shape[1], self.rank))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of A."""
        return self.A.dtype

    @property
    def device(self) -> torch.device:
        """Where A is."""
        return self.A.device

    def to(self, dtype: torch.dtype) -> ReducedRankRegression:
        """Return the same problem with its data in ``dtype``, float32 or float64."""
        return ReducedRankRegression(self.A.to(dtype), self.C.to(dtype), self.rank)

    def left(self, X: Tensor) -> Tensor:
        """Return A X, p × r."""
        return self.A @ X

    def left_adjoint(self, G: Tensor) -> Tensor:
        """Return Aᵀ G, m × r."""
        return self.A.mT @ G

    def loss(self, Z: Tensor) -> Tensor:
        """Return ½‖Z - C‖² for Z = A X Yᵀ, p × q."""
        return 0.5 * (Z - self.C).square().sum()

    def loss_gradient(self, Z: Tensor) -> Tensor:
        """Return Z - C, p × q."""
        return Z - self.C

    def loss_hessian_vector(self, Z: Tensor, V: Tensor) -> Tensor:
        """Return V itself."""
        return V

    @cached_property
    def _fit(self) -> _Fit:
        left, values, right = torch.linalg.svd(self.A.double(), full_matrices=False)
        cutoff = max(self.A.shape) * torch.finfo(torch.float64).eps * values[0]
        k = int((values > cutoff).sum())  # the rank of A: 0 if A is
        Q, S, P, C = left[:, :k], values[:k], right[:k].mT, self.C.double()
        inside = Q.mT @ C
        return _Fit(
            forward=S[:, None] * P.mT,
            inverse=P / S,
            truncation=Truncation.of(inside, self.rank),
            unexplained=0.5 * float((C - Q @ inside).square().sum()),
        )

    @cached_property
    def loss_smoothness(self) -> float:
        """σ₁(A)²: the Lipschitz constant of the gradient as a function of X Yᵀ, in float64."""
        return float(torch.linalg.matrix_norm(self.A.double(), ord=2)) ** 2

    @property
    def optimum(self) -> float:
        """f* by its closed form, in float64."""
        return self._fit.unexplained + self._fit.truncation.discarded

    def solution(self) -> tuple[Tensor, Tensor]:
        """Return balanced minimisers in float64, X of m × r and Y of q × r, XᵀX = YᵀY diagonal.

        Of all minimisers their product has the least norm, where A has not full column rank.
        """
        X, Y = self._fit.truncation.factors()
        return balanced(self._fit.inverse @ X, Y)

    def gap(self, X: Tensor, Y: Tensor) -> float:
        """Return f - f* in float64, without the cancellation of the subtraction.

        The residual of the fit is orthogonal to every A X, so that only Qᵀ (A X Yᵀ - C) counts; for
        that see :meth:`Truncation.excess`. Rounding is relative to the distance of A X Yᵀ to its
        best value.

        Args:
            X: m × r, of any real floating dtype.
            Y: q × r, likewise.

        Raises:
            ValueError: if one of them has another shape.
        """
        self.checked((X, Y), any_dtype=True)
        return self._fit.truncation.excess(self._fit.forward @ X.double(), Y)


class _Fit(NamedTuple):
    """A = Q S Pᵀ of its own rank k, and what of C its columns do and do not reach.

    Attributes:
        forward: S Pᵀ = Qᵀ A, k × m.
        inverse: P S⁻¹, m × k.
        truncation: of Qᵀ C, k × q.
        unexplained: ½‖C - Q Qᵀ C‖².
    """

    forward: Tensor
    inverse: Tensor
    truncation: Truncation
    unexplained: float
