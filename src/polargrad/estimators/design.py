"""The linear map of a regression with two designs, an intercept and missing targets."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from polargrad.estimators.validation import Array, Mask

__all__ = ["Design", "best_amounts", "inner", "polar_direction", "rounding", "times"]

PARALLEL = 1e-10  # the smallest relative eigenvalue of a Hessian on two directions that counts
MARGIN = 4.0  # on the estimate of a rounding error


def inner(left: Array, right: Array) -> float:
    """⟨left, right⟩ = Σ leftᵢⱼ rightᵢⱼ."""
    return float(np.vdot(left, right))


def polar_direction(gradient: Array, noise: float) -> tuple[Array, float]:
    """Return the polar factor of a matrix and its nuclear norm, without what is noise.

    Directions with a singular value of at most ``noise`` are zero in the factor. They would have
    length 1 in it like all others: where the gradient has a null space by the structure of the
    problem (dependent columns of X, logits of classes that only differences matter of), its
    rounding would steer the iterates.
    """
    U, s, Vt = np.linalg.svd(gradient, full_matrices=False)
    counts = s > noise
    factor: Array = U[:, counts] @ Vt[counts]
    return factor, float(s[counts].sum())


def rounding(X: Array, R: Array, B: Array | None) -> float:
    """About the rounding error of Xᵀ R Bᵀ: MARGIN · eps · ‖X‖_F ‖R‖_F ‖B‖_F."""
    norms = [float(np.linalg.norm(factor)) for factor in (X, R, B) if factor is not None]
    return MARGIN * float(np.finfo(np.float64).eps) * math.prod(norms)


def times(X: Array, W: Array, B: Array | None) -> Array:
    """X W B, multiplied in the order that costs least; X W where B is None."""
    if B is None:
        return X @ W
    product: Array = np.linalg.multi_dot([X, W, B])
    return product


def best_amounts(
    directions: list[Array],
    images: list[Array],
    slopes: list[float],
    curvature: float,
    alpha: float,
) -> Array:
    r"""Return the x for which :math:`\sum_i x_i D_i` lowers a quadratic most.

    .. math:: \min_x\; -\langle s, x\rangle + \tfrac12\langle x, Hx\rangle, \qquad
              H_{ij} = h\langle \mathcal A D_i, \mathcal A D_j\rangle
              + \alpha\langle D_i, D_j\rangle

    The directions may differ in length by many orders, or be parallel: H is scaled to a unit
    diagonal, and what is zero to rounding in it is left out.

    Args:
        directions: the Dᵢ.
        images: the 𝒜Dᵢ.
        slopes: the sᵢ, by how much the function falls along Dᵢ per unit length.
        curvature: h.
        alpha: α.
    """
    D, AD = (np.array([each.ravel() for each in group]) for group in (directions, images))
    hessian = curvature * (AD @ AD.T) + alpha * (D @ D.T)
    diagonal = np.sqrt(hessian.diagonal())
    scale = np.where(diagonal > 0, diagonal, 1.0)
    scaled = hessian / np.outer(scale, scale)
    amounts: Array = np.linalg.lstsq(scaled, np.array(slopes) / scale, rcond=PARALLEL)[0] / scale
    return amounts


@dataclass(frozen=True)
class Design:
    r"""The map :math:`\mathcal A(W) = P(\Omega \circ (X W B))` and its adjoint.

    Ω is 1 where a target is observed and 0 elsewhere. P subtracts from each column its mean over
    the observed rows, where the model has an intercept: since

    .. math:: \min_c \|\Omega \circ (X W B + \mathbf 1 c^{\mathsf T} - Y)\|_F
              = \|\mathcal A(W) - P(\Omega \circ Y)\|_F,

    the intercept need not be carried along. P and Ω commute and are orthogonal projections, so the
    adjoint is :math:`\mathcal A^*(R) = X^{\mathsf T} P(\Omega \circ R)\, B^{\mathsf T}`.

    Args:
        X: n × p.
        B: k × q; None for the identity, k = q.
        observed: Ω, n × q; None where every target is observed.
        centred: whether the model has an intercept.
    """

    X: Array
    B: Array | None
    observed: Mask | None
    centred: bool

    def project(self, R: Array) -> Array:
        """P(Ω ∘ R), n × q."""
        if self.observed is None:
            return R - R.mean(axis=0) if self.centred else R
        R = np.where(self.observed, R, 0.0)
        if not self.centred:
            return R
        return np.where(self.observed, R - self.column_means(R), 0.0)

    def column_means(self, R: Array) -> Array:
        """The means of the columns of R over the observed entries."""
        means: Array = R.mean(axis=0, where=True if self.observed is None else self.observed)
        return means

    def apply(self, W: Array) -> Array:
        """A(W), n × q, for W of p × k."""
        return self.project(times(self.X, W, self.B))

    def adjoint(self, R: Array) -> Array:
        """A*(R), p × k, for R of n × q that P(Ω ∘ ·) leaves alone."""
        return times(self.X.T, R, None if self.B is None else self.B.T)

    def shape(self, columns: int) -> tuple[int, int]:
        """The shape p × k of W, for q ``columns`` of targets."""
        return self.X.shape[1], columns if self.B is None else self.B.shape[0]

    def norm_bound(self) -> float:
        """σ₁(X) σ₁(B), at least the norm of A."""
        right = 1.0 if self.B is None else float(np.linalg.norm(self.B, 2))
        return float(np.linalg.norm(self.X, 2)) * right
