"""Matrix quadratic regression: the strongly convex problem of the PolarGrad paper, section 6.1."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from polargrad.problems.bilinear import BilinearProblem, product

# The sizes of the paper: X is m × n, A is p × m, B is n × q, C is p × q.
PUBLISHED_SIZES = (500, 100, 1000, 250)


@dataclass(frozen=True, eq=False, repr=False)
class MatrixQuadraticRegression(BilinearProblem):
    r"""Least squares in a matrix between two others.

    .. math:: f(X) = \tfrac12 \|A X B - C\|_F^2, \qquad
              \nabla f(X) = A^{\mathsf T} (A X B - C) B^{\mathsf T}

    The Hessian of vec X is :math:`(B B^{\mathsf T}) \otimes (A^{\mathsf T} A)`, so that

    .. math:: L = \sigma_1(A)^2 \sigma_1(B)^2, \qquad \mu = \sigma_m(A)^2 \sigma_n(B)^2, \qquad
              \kappa_H = L / \mu .

    Values and gradients are computed in the dtype of the data. The constants, the minimiser and
    the gap are computed in float64 from the same data, once, when first asked for.

    Args:
        A: p × m, float32 or float64.
        B: n × q, of the dtype and on the device of ``A``.
        C: p × q, likewise.

    Raises:
        TypeError: if one of them is not a tensor.
        ValueError: if one of them is not a finite real matrix, or their shapes, dtypes or devices
            do not fit together.

    Example:
        >>> problem = MatrixQuadraticRegression.random(3, 2, 5, 4, torch.Generator().manual_seed(0))
        >>> problem.gap(problem.solution())
        0.0

    Source: Lau, Long and Su, arXiv 2505.21799, section 6.1.
    """

    @classmethod
    def random(
        cls,
        m: int,
        n: int,
        p: int,
        q: int,
        generator: torch.Generator | None = None,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> MatrixQuadraticRegression:
        """Draw a problem with standard Gaussian A, B and C, in this order.

        Args:
            m: rows of X.
            n: columns of X.
            p: rows of A and C.
            q: columns of B and C.
            generator: where the numbers come from; torch's global one if it is not given.
            dtype: float32 or float64.

        Raises:
            ValueError: if a size is smaller than 1.
        """
        for name, size in (("m", m), ("n", n), ("p", p), ("q", q)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        shapes = ((p, m), (n, q), (p, q))
        return cls(*(torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes))

    @classmethod
    def published(cls, seed: int = 42) -> tuple[MatrixQuadraticRegression, Tensor]:
        """Return the paper's problem for this seed and its start, as the published code draws them.

        The published code calls ``torch.manual_seed(seed)``, draws A, B and C, calls it again and
        draws the start uniformly on [-1, 1]. Generators of this method's own give the same numbers
        and leave torch's global one alone.

        Returns:
            The problem, with A 1000 × 500, B 100 × 250 and C 1000 × 250, and the start, 500 × 100,
            all float32.

        Example:
            >>> problem, start = MatrixQuadraticRegression.published(seed=42)
            >>> f"{problem.gap(start):.6e}"
            '2.142041e+09'

        Source: arXiv 2505.21799, section 6.1, and its code (timlautk/polargrad, mat_quad_reg.py).
        """
        m, n, p, q = PUBLISHED_SIZES
        problem = cls.random(m, n, p, q, torch.Generator().manual_seed(seed))
        start = torch.empty(m, n).uniform_(-1, 1, generator=torch.Generator().manual_seed(seed))
        return problem, start

    def __repr__(self) -> str:
        (m, n), (p, q) = self.shape, self.C.shape
        return f"{type(self).__name__}(m={m}, n={n}, p={p}, q={q}, dtype={self.A.dtype})"

    def residual(self, X: Tensor) -> Tensor:
        """Return A X B - C, p × q, in the dtype of the data.

        Raises:
            ValueError: if ``X`` is not m × n or not of the dtype of the data.
        """
        self.checked((X,))
        return product(self.A, X, self.B) - self.C

    def objective(self, X: Tensor) -> Tensor:
        """Return f(X) = ½‖A X B - C‖² as a tensor without dimensions.

        Near the optimum it is as coarse as one rounding of f* in the dtype of the data: use
        :meth:`gap` for f - f*.
        """
        return 0.5 * self.residual(X).square().sum()

    def gradient(self, X: Tensor) -> Tensor:
        """Return Aᵀ (A X B - C) Bᵀ, m × n, in the dtype of the data."""
        return product(self.A.mT, self.residual(X), self.B.mT)

    def hessian_vector(self, X: Tensor, V: Tensor) -> Tensor:
        """Return Aᵀ A V B Bᵀ, m × n, in the dtype of the data: the same at every ``X``."""
        self.checked((X,))
        self.checked((V,))
        return product(self.A.mT, product(self.A, V, self.B), self.B.mT)

    def step_curvature(self, D: Tensor) -> Tensor:
        r"""Return ‖A D B‖_F², the curvature of f along ``D``, as a tensor without dimensions.

        .. math:: f(X - \gamma\, a D) = f(X) - \gamma a \langle \nabla f(X), D\rangle
                  + \tfrac12 \gamma^2 a^2 \|A D B\|_F^2

        With :math:`a = \langle \nabla f(X), D\rangle > 0`, as PolarGrad takes it, the step
        decreases f exactly if :math:`\gamma < 2 / \|A D B\|_F^2`, and most at half of that.
        """
        self.checked((D,))
        return product(self.A, D, self.B).square().sum()

    def newton_direction(self, G: Tensor) -> Tensor:
        """Return (Aᵀ A)⁻¹ G (B Bᵀ)⁻¹, the inverse Hessian applied to ``G`` of shape m × n.

        X - γ times the direction of the gradient is Newton's method with step γ; γ = 1 solves the
        problem in one step.

        Raises:
            torch.linalg.LinAlgError: if the Hessian is singular, as where p < m or n > q.
        """
        left, right = self._gram_factors
        half = torch.cholesky_solve(G, left)  # (Aᵀ A)⁻¹ G
        direction: Tensor = torch.cholesky_solve(half.mT, right).mT
        return direction

    @cached_property
    def _gram_factors(self) -> tuple[Tensor, Tensor]:
        """Cholesky factors of Aᵀ A and B Bᵀ."""
        return (
            torch.linalg.cholesky(self.A.mT @ self.A),
            torch.linalg.cholesky(self.B @ self.B.mT),
        )

    @cached_property
    def _double(self) -> tuple[Tensor, Tensor, Tensor]:
        """A, B and C in float64."""
        return (self.A.double(), self.B.double(), self.C.double())

    @cached_property
    def _singular_values(self) -> tuple[Tensor, Tensor]:
        """The singular values of A and of B in float64, from the largest."""
        A, B, _ = self._double
        return torch.linalg.svdvals(A), torch.linalg.svdvals(B)

    @property
    def _extreme_eigenvalues(self) -> tuple[float, float]:
        """The smallest and the largest eigenvalue of the Hessian."""
        smallest = largest = 1.0
        # Both tall when the problem is strongly convex.
        for tall, values in zip((self.A, self.B.mT), self._singular_values, strict=True):
            full = tall.shape[0] >= tall.shape[1]
            smallest *= values[-1].item() ** 2 if full else 0.0
            largest *= values[0].item() ** 2
        return smallest, largest

    @property
    def smoothness(self) -> float:
        """L, the largest eigenvalue of the Hessian: the Lipschitz constant of the gradient."""
        return self._extreme_eigenvalues[1]

    @property
    def strong_convexity(self) -> float:
        """μ, the smallest eigenvalue of the Hessian; 0 where p < m or n > q."""
        return self._extreme_eigenvalues[0]

    @property
    def spectral_smoothness(self) -> float:
        r"""L_op, the smoothness of f in the spectral norm.

        .. math:: L_{\rm op} = \max_{\|D\|_2 \le 1} \|A D B\|_F^2
                  = \sum_i \sigma_i(A)^2 \sigma_i(B)^2, \qquad
                  L \le L_{\rm op} \le L \min(m, n)

        both in descending order: a convex form is largest at an isometry, von Neumann's trace
        inequality bounds it there, and paired singular vectors attain it. PolarGrad with an exact
        polar factor decreases f at every X if its learning rate is below :math:`2 / L_{\rm op}`.
        """
        left, right = self._singular_values
        paired = min(*self.shape, len(left), len(right))
        return float((left[:paired] * right[:paired]).square().sum())

    @cached_property
    def _minimiser(self) -> Tensor:
        """A⁺ C B⁺ in float64, by two least-squares solves (LAPACK's gelsd, no normal equations)."""
        A, B, C = (data.cpu() for data in self._double)
        half = torch.linalg.lstsq(A, C, driver="gelsd").solution  # A⁺ C, m × q
        solution: Tensor = torch.linalg.lstsq(B.mT, half.mT, driver="gelsd").solution.mT
        return solution.to(self.A.device)

    def solution(self) -> Tensor:
        """Return X* = A⁺ C B⁺, m × n in float64: the minimiser, of least norm if there are many."""
        return self._minimiser.clone()

    @cached_property
    def optimum(self) -> float:
        """f* = f(X*), in float64."""
        A, B, C = self._double
        return 0.5 * (A @ self._minimiser @ B - C).square().sum().item()

    def gap(self, X: Tensor) -> float:
        r"""Return f(X) - f* in float64, without the cancellation of the subtraction.

        .. math:: f(X) - f^\star = \tfrac12 \|A (X - X^\star) B\|_F^2

        since the residual at X* is orthogonal to every A Y B. It is zero or positive, and is not
        finite exactly if X is not finite or too large to be squared.

        Args:
            X: m × n, of any real floating dtype.

        Raises:
            ValueError: if ``X`` is not m × n.
        """
        self.checked((X,), any_dtype=True)
        A, B, _ = self._double
        return float(0.5 * product(A, X.double() - self._minimiser, B).square().sum())
