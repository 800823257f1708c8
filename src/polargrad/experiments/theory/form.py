"""Section 6.1 in the error E = X - X*, where every quantity of the theorems is one product away."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from polargrad.problems import MatrixQuadraticRegression
from polargrad.problems.quadratic import PUBLISHED_SIZES


@dataclass(frozen=True, eq=False)
class ErrorForm:
    r"""Matrix quadratic regression as a quadratic form of the error, in float64.

    .. math:: f(X) - f^\star = \tfrac12 \langle E, H(E)\rangle, \qquad
              \nabla f(X) = H(E) = A^{\mathsf T}A\, E\, B B^{\mathsf T}, \qquad E = X - X^\star

    Nothing cancels near the optimum. L and μ are the extreme eigenvalues of H in the Frobenius
    norm; in the spectral norm the smoothness is known in closed form too,

    .. math:: L_{op} = \max_{\|D\|_2 \le 1} \langle D, H(D)\rangle
                     = \sum_i \sigma_i(A)^2 \sigma_i(B)^2 ,

    both spectra in descending order: the maximum of a convex form is at an isometry D, where it is
    tr(Dᵀ AᵀA D BBᵀ), and von Neumann's trace inequality and Cauchy's interlacing bound that by the
    sum, which pairs of singular vectors attain. L ≤ L_op ≤ min(m, n) L.

    Args:
        left: Aᵀ A, m × m.
        right: B Bᵀ, n × n.
        start: E₀ = X₀ - X*, m × n.
        smoothness: L.
        strong_convexity: μ.
        spectral_smoothness: L_op.

    Source: arXiv 2505.21799, section 6.1; the closed form of L_op is derived here.
    """

    left: Tensor
    right: Tensor
    start: Tensor
    smoothness: float
    strong_convexity: float
    spectral_smoothness: float

    @classmethod
    def of(cls, problem: MatrixQuadraticRegression, start: Tensor) -> ErrorForm:
        """The form of a problem, and the error of the start X₀.

        Example:
            >>> problem = MatrixQuadraticRegression(*(2.0 * torch.eye(2) for _ in "ABC"))
            >>> form = ErrorForm.of(problem, torch.zeros(2, 2))
            >>> form.smoothness, form.spectral_smoothness
            (16.0, 32.0)
        """
        A, B = problem.A.double(), problem.B.double()
        return cls(
            left=A.mT @ A,
            right=B @ B.mT,
            start=start.double() - problem.solution(),
            smoothness=problem.smoothness,
            strong_convexity=problem.strong_convexity,
            spectral_smoothness=problem.spectral_smoothness,
        )

    @property
    def rank(self) -> int:
        """min(m, n): the rank of every gradient of a full-rank problem but on a null set."""
        return min(self.start.shape)

    @property
    def condition_number(self) -> float:
        """κ_H = L / μ."""
        return self.smoothness / self.strong_convexity

    @property
    def certain_step(self) -> float:
        """1 / (L r), the step of the theorems."""
        return 1.0 / (self.smoothness * self.rank)

    @property
    def stability_limit(self) -> float:
        """2 / L_op: with an exact factor, every smaller γ decreases f at every X."""
        return 2.0 / self.spectral_smoothness

    def gradient(self, E: Tensor) -> Tensor:
        """H(E), of the shape (..., m, n) of ``E``."""
        return self.left @ E @ self.right

    def gap(self, E: Tensor, G: Tensor | None = None) -> Tensor:
        """f - f* = ½⟨E, H(E)⟩, of shape (...); ``G`` is H(E) where it is known."""
        return 0.5 * (E * (self.gradient(E) if G is None else G)).sum(dim=(-2, -1))

    def curvature(self, D: Tensor) -> Tensor:
        """‖A D B‖²_F = ⟨D, H(D)⟩, of shape (...)."""
        return (D * self.gradient(D)).sum(dim=(-2, -1))


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How much of the checks is run.

    Args:
        version: "full" or the name of a shorter version.
        sizes: m, n, p, q of the problem; the paper's are 500, 100, 1000, 250.
        small: the sizes where thousands of steps are repeated many times.
        share: the share of the steps that are taken.
        oracles: how many of the oracles are looked at.
        halvings: how often the interval of a stability limit is halved.
    """

    version: str
    sizes: tuple[int, int, int, int] = PUBLISHED_SIZES
    small: tuple[int, int, int, int] = (50, 10, 100, 25)
    share: float = 1.0
    oracles: int = 8
    halvings: int = 9

    def steps(self, full: int, least: int = 2) -> int:
        """The number of steps where the full version takes ``full``."""
        return max(least, round(full * self.share))


FULL = Extent(version="full")
QUICK = Extent(version="quick", share=0.15, oracles=3, halvings=6)


@dataclass(frozen=True)
class Setting:
    """What every check is given: the extent and the seed of data, starts and noise."""

    extent: Extent
    seed: int = 42

    @property
    def form(self) -> ErrorForm:
        """The problem of section 6.1 for this seed, and its start."""
        return _form(self.extent.sizes, self.seed)

    @property
    def small(self) -> ErrorForm:
        """A problem with a tenth of the paper's sizes, drawn alike."""
        return _form(self.extent.small, self.seed)


def instance(
    sizes: tuple[int, int, int, int], seed: int
) -> tuple[MatrixQuadraticRegression, Tensor]:
    """The problem of these sizes and its start, drawn as the published code draws them, float32."""
    m, n = sizes[:2]
    problem = MatrixQuadraticRegression.random(*sizes, torch.Generator().manual_seed(seed))
    start = torch.empty(m, n).uniform_(-1, 1, generator=torch.Generator().manual_seed(seed))
    return problem, start


@functools.lru_cache(maxsize=4)
def _form(sizes: tuple[int, int, int, int], seed: int) -> ErrorForm:
    return ErrorForm.of(*instance(sizes, seed))
