"""Matrix logistic regression: the stochastic problem of the PolarGrad paper, section 6.2."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from polargrad.linalg.precision import rank_cutoff
from polargrad.problems.bilinear import BilinearProblem, product
from polargrad.problems.divergence import LINEAR, softplus_divergence
from polargrad.problems.minimise import Minimum, minimise
from polargrad.problems.problem import OptimumError
from polargrad.problems.row_batches import RowBatches

__all__ = ["PUBLISHED_SIZES", "Labels", "MatrixLogisticRegression"]

# The sizes of the paper: X is m × n, A is N × m, B is n × q, C is N × q.
PUBLISHED_SIZES = (1000, 100, 10000, 400)
PUBLISHED_BATCH = 1000
# Rows that a gap is computed on at once: float64 temporaries of so many rows, not of all data.
BLOCK = 1024

Labels = Literal["signs", "zero-one"]


@dataclass(frozen=True, eq=False, repr=False)
class MatrixLogisticRegression(BilinearProblem):
    r"""Logistic regression of labels on a bilinear form.

    .. math:: f(X) = \sum_{ij} \log(1 + e^{-Z_{ij}}), \qquad Z = C \circ (A X B)

    .. math:: \nabla f(X) = -A^{\mathsf T} (C \circ \sigma(-Z)) B^{\mathsf T}, \qquad
              \nabla^2 f(X)[V] = A^{\mathsf T} (C^2 \circ \sigma'(Z) \circ A V B) B^{\mathsf T}

    where :math:`\sigma(z) = 1 / (1 + e^{-z})` and :math:`\sigma' \le \tfrac14`, so that
    :math:`L = \tfrac14 \sigma_1(A)^2 \sigma_1(B)^2 \max C^2`. The Hessian vanishes at infinity:
    there is no global μ above 0, but :meth:`curvature` gives the extreme eigenvalues at a point.

    An entry of C is a label, -1 or 1, or 0 where there is none: it adds log 2 to f, whatever X is.
    The paper's code has drawn labels from {-1, 1} and, before August 2026, from {0, 1}; the second
    leaves half of the data inert, and is reproduced with ``published(seed, labels="zero-one")``.

    Values and derivatives are computed in the dtype of the data; optimum, minimiser, gap and
    constants in float64.

    Args:
        A: N × m, float32 or float64.
        B: n × q, of the dtype and on the device of ``A``.
        C: N × q, likewise, of entries -1, 0 and 1.

    Raises:
        TypeError: if one of them is not a tensor.
        ValueError: if one of them is not a finite real matrix, their shapes, dtypes or devices do
            not fit together, or C has other entries.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> problem = MatrixLogisticRegression.random(2, 2, 30, 5, generator)
        >>> print(f"{problem.loss_per_entry(torch.zeros(2, 2)):.6f}")  # log 2
        0.693147
        >>> problem.gap(problem.solution())
        0.0

    Source: Lau, Long and Su, arXiv 2505.21799, section 6.2.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        strange = self.C[(self.C.abs() != 1) & (self.C != 0)]
        if strange.numel():
            raise ValueError(
                "C must hold labels -1 and 1, and 0 where there is none, "
                f"got {strange[0].item():g} among {strange.numel()} other entries"
            )

    @classmethod
    def _unchecked(cls, A: Tensor, B: Tensor, C: Tensor) -> MatrixLogisticRegression:
        """A problem from data that are known to be good."""
        problem = object.__new__(cls)
        for name, value in (("A", A), ("B", B), ("C", C)):
            object.__setattr__(problem, name, value)
        return problem

    @classmethod
    def random(
        cls,
        m: int,
        n: int,
        N: int,
        q: int,
        generator: torch.Generator | None = None,
        *,
        labels: Labels = "signs",
        dtype: torch.dtype = torch.float32,
    ) -> MatrixLogisticRegression:
        """Draw a problem with standard Gaussian A and B and random labels, in this order.

        Args:
            m: rows of X.
            n: columns of X.
            N: rows of A and C.
            q: columns of B and C.
            generator: where the numbers come from; torch's global one if it is not given.
            labels: "signs" draws 1 where a standard normal number is above ½ (30.9 %), else -1;
                "zero-one" draws 1 where a uniform one is, else 0.
            dtype: float32 or float64.

        Raises:
            ValueError: if a size is smaller than 1, or ``labels`` is something else.
        """
        for name, size in (("m", m), ("n", n), ("N", N), ("q", q)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if labels not in ("signs", "zero-one"):
            raise ValueError(f'labels must be "signs" or "zero-one", got {labels!r}')
        A = torch.randn(N, m, generator=generator, dtype=dtype)
        B = torch.randn(n, q, generator=generator, dtype=dtype)
        draw = torch.randn if labels == "signs" else torch.rand
        above = (draw(N, q, generator=generator, dtype=dtype) > 0.5).to(dtype)
        return cls(A, B, 2 * above - 1 if labels == "signs" else above)

    @classmethod
    def published(
        cls, seed: int = 42, *, labels: Labels = "signs"
    ) -> tuple[MatrixLogisticRegression, Tensor]:
        """Return the paper's problem for this seed and its start, as the published code draws them.

        The published code calls ``torch.manual_seed(seed)``, draws A, B and the labels, calls it
        again, draws the start uniformly on [-1, 1], and then the rows of each mini-batch
        (:meth:`published_batches`). Generators of this method's own leave torch's global one alone.

        Args:
            seed: of the data and of the start.
            labels: "signs" for today's published code, "zero-one" for that of the paper's time.

        Returns:
            The problem, with A 10000 × 1000, B 100 × 400 and C 10000 × 400, and the start,
            1000 × 100, all float32.

        Source: arXiv 2505.21799, section 6.2, and its code (timlautk/polargrad, mat_log_reg.py).
        """
        m, n, N, q = PUBLISHED_SIZES
        problem = cls.random(m, n, N, q, torch.Generator().manual_seed(seed), labels=labels)
        return problem, _published_start(torch.Generator().manual_seed(seed))

    @staticmethod
    def published_batches(seed: int = 42) -> RowBatches:
        """Return the published stream of mini-batches for this seed: 1000 of the 10000 rows each.

        The generator is that which has drawn the start of :meth:`published`.

        Example:
            >>> batches = MatrixLogisticRegression.published_batches(seed=42)
            >>> next(batches).shape
            torch.Size([1000])
        """
        generator = torch.Generator().manual_seed(seed)
        _published_start(generator)
        return RowBatches(generator, PUBLISHED_SIZES[2], PUBLISHED_BATCH)

    def __repr__(self) -> str:
        (m, n), (N, q) = self.shape, self.C.shape
        return f"{type(self).__name__}(m={m}, n={n}, N={N}, q={q}, dtype={self.A.dtype})"

    def batch(self, rows: Tensor) -> MatrixLogisticRegression:
        """Return the problem of these rows of A and C, a sum over them alone.

        Only the rows are copied, and nothing is checked again.

        Args:
            rows: indices from 0 to N - 1, int64; one that stands twice counts twice.
        """
        return self._unchecked(self.A[rows], self.B, self.C[rows])

    def margins(self, X: Tensor) -> Tensor:
        """Return Z = C ∘ (A X B), N × q: above 0 where the sign of A X B is the label.

        Raises:
            ValueError: if ``X`` is not m × n or not of the dtype of the data.
        """
        self.checked((X,))
        return self.C * product(self.A, X, self.B)

    def objective(self, X: Tensor) -> Tensor:
        """Return f(X) as a tensor without dimensions, a sum over all entries."""
        return softplus(-self.margins(X), threshold=LINEAR).sum()

    def loss_per_entry(self, X: Tensor) -> float:
        """Return f(X) / (N q), the entries in the dtype of the data and their mean in float64."""
        losses = softplus(-self.margins(X), threshold=LINEAR)
        return float(losses.mean(dtype=torch.float64))

    def gradient(self, X: Tensor) -> Tensor:
        """Return -Aᵀ (C ∘ σ(-Z)) Bᵀ, m × n, in the dtype of the data."""
        weights = self.C * torch.sigmoid(-self.margins(X))
        return -product(self.A.mT, weights, self.B.mT)

    def hessian_vector(self, X: Tensor, V: Tensor) -> Tensor:
        """Return Aᵀ (C² ∘ σ'(Z) ∘ A V B) Bᵀ, m × n, in the dtype of the data."""
        self.checked((V,))
        return self._hessian_product(X)(V)

    def hessian_at(
        self, unknowns: Sequence[Tensor]
    ) -> Callable[[Sequence[Tensor]], tuple[Tensor, ...]]:
        """Return the Hessian at X as a function of the direction; Z is computed once."""
        hessian = self._hessian_product(*self.checked(unknowns))
        return lambda along: (hessian(*self.checked(along)),)

    def _hessian_product(self, X: Tensor) -> Callable[[Tensor], Tensor]:
        """The Hessian at X, as a function of the direction."""
        Z = self.margins(X)
        weights = self.C.square() * torch.sigmoid(Z) * torch.sigmoid(-Z)  # C² σ'(Z)
        return lambda V: product(self.A.mT, weights * product(self.A, V, self.B), self.B.mT)

    @cached_property
    def _spectra(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Singular values and right singular vectors of A and of Bᵀ in float64."""
        double = self.in_double
        return _right_singular(double.A), _right_singular(double.B.mT)

    @property
    def smoothness(self) -> float:
        """L = ¼ σ₁(A)² σ₁(B)² max C², a Lipschitz constant of the gradient."""
        (left, _), (right, _) = self._spectra
        largest = (left[:1].sum() * right[:1].sum()).item()  # 0 for a matrix of zeros
        return 0.25 * largest**2 * self.C.abs().max().item()

    @property
    def strong_convexity(self) -> float:
        """0: the Hessian tends to 0 at infinity. :meth:`curvature` gives μ at a point."""
        return 0.0

    @cached_property
    def minimum(self) -> Minimum:
        """The minimiser in float64, with its certificate.

        A truncated Newton method from X = 0, preconditioned by (Aᵀ A)⁻¹ ⊗ (B Bᵀ)⁻¹.

        Raises:
            OptimumError: if there is no minimiser, as for labels that some X separates.
        """
        if self.in_double is not self:
            return self.in_double.minimum
        zero = torch.zeros(self.shape, dtype=torch.float64, device=self.device)
        return minimise(
            self._attained,
            self.gradient,
            self._hessian_product,
            zero,
            precondition=self._inverse_grams,
        )

    def _attained(self, X: Tensor) -> Tensor:
        """f(X), unless X shows that f has no minimiser."""
        Z = self.margins(X)
        if bool((Z[self.C != 0] > 0).all()) and bool(self.C.any()):
            raise OptimumError(
                "f has no minimiser: an X of norm "
                f"{float(X.norm()):.3g} gives every entry of A X B the sign of its label, and "
                "multiples of it decrease f without end. Give more rows, or labels with noise"
            )
        return softplus(-Z, threshold=LINEAR).sum()

    def _inverse_grams(self, G: Tensor) -> Tensor:
        """(Aᵀ A)⁺ G (B Bᵀ)⁺: the inverse Hessian for equal weights, up to a factor."""
        (left, V), (right, W) = self._spectra
        scaled = (V.mT @ G @ W) / left.square().unsqueeze(-1) / right.square()
        return V @ scaled @ W.mT

    def solution(self) -> Tensor:
        """Return X*, m × n in float64: the minimiser, of least norm if there are many.

        Raises:
            OptimumError: if there is none.
        """
        return self.minimum.point.clone()

    @property
    def optimum(self) -> float:
        """f* = f(X*), in float64.

        Raises:
            OptimumError: if it is not attained.
        """
        return self.minimum.value

    def gap(self, X: Tensor) -> float:
        r"""Return f(X) - f* in float64, without the cancellation of the subtraction.

        .. math:: f(X) - f^\star = \sum_{ij} D(-Z_{ij}, -Z^\star_{ij}), \qquad
                  D(u, v) = \phi(u) - \phi(v) - \phi'(v) (u - v)

        with φ = softplus, since the gradient at X* is zero. Each term is zero or positive; what is
        left of the gradient at X* is neglected, at most ‖∇f(X*)‖ ‖X - X*‖. It is not finite exactly
        if X is not finite or too large.

        Args:
            X: m × n, of any real floating dtype.

        Raises:
            ValueError: if ``X`` is not m × n.
            OptimumError: if f* is not attained.
        """
        self.checked((X,), any_dtype=True)
        double, best = self.in_double, self.minimum.point
        difference, gap = X.double() - best, 0.0
        for first in range(0, len(self.A), BLOCK):
            rows = slice(first, first + BLOCK)
            A, C = double.A[rows], double.C[rows]
            base = -C * product(A, best, double.B)
            change = -C * product(A, difference, double.B)
            gap += float(softplus_divergence(base, change).sum())
        return gap if math.isfinite(gap) else math.inf


def _published_start(generator: torch.Generator) -> Tensor:
    """Draw the published start: m × n, uniform on [-1, 1], float32."""
    m, n, _, _ = PUBLISHED_SIZES
    return torch.empty(m, n).uniform_(-1, 1, generator=generator)


def _right_singular(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The singular values above rounding, and their right singular vectors as columns."""
    R = torch.linalg.qr(matrix, mode="r").R
    _, values, Vh = torch.linalg.svd(R, full_matrices=False)
    rank = int((values > rank_cutoff(min(matrix.shape), torch.float64) * values[0]).sum())
    return values[:rank], Vh[:rank].mT
