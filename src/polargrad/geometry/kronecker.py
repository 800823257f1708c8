"""Kronecker preconditioners: Shampoo, on both sides or on one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from polargrad.geometry.base import State
from polargrad.geometry.checks import check_number
from polargrad.geometry.preconditioner import Preconditioner, square_stack
from polargrad.geometry.spectral import Side
from polargrad.linalg.precision import double_dtype, rank_cutoff
from polargrad.linalg.roots import inverse_root_unchecked

__all__ = ["Kronecker", "OneSidedKronecker"]


@dataclass(frozen=True)
class Kronecker(Preconditioner):
    r"""The norm of Shampoo: P is a Kronecker product of quarter roots.

    .. math:: L \leftarrow L + GG^{\mathsf T}, \quad R \leftarrow R + G^{\mathsf T}G, \qquad
              PX = L^{1/4} X R^{1/4}, \qquad P^{-1}S = L^{-1/4} S R^{-1/4}

    The first step undamped is that of the spectral norm: :math:`(GG^{\mathsf T})^{-1/4} G
    (G^{\mathsf T}G)^{-1/4}` is the polar factor of G.

    Each root is taken of :math:`L + \varepsilon I` with ε = ``damping`` times the largest
    eigenvalue of L, so that the step does not depend on the unit of the gradient. Eigenvalues of
    at most τ² times the largest, :math:`\tau = \sqrt m\,\mathrm{eps}` of the dtype of the signal,
    are rounding of the gradients and count as zero (in float64 those of at most τ times, which are
    rounding of L); without damping they stay zero in the root.

    Cost: 2 m n (m + n) flops for each of accumulation and ascent, and some 11 (m³ + n³) for the two
    eigendecompositions of an ascent, which wait for a GPU; all in float64.

    State: ``left`` (B, m, m) and ``right`` (B, n, n), float64, 8 (m² + n²) bytes a matrix. The
    whole range of float32 gradients has its products in it. Real matrices.

    Args:
        beta: β in [0, 1) for the averages :math:`L \leftarrow \beta L + (1 - \beta) GG^{\mathsf T}`
            instead of sums; None for sums.
        damping: ε as a share of the largest eigenvalue, at least 0.

    Raises:
        ValueError: for a number outside its range.
        TypeError: for an option that is not a number.

    Example:
        >>> shampoo = Kronecker(damping=0.0)
        >>> G = torch.tensor([[[0.0, -4.0], [9.0, 0.0]]])
        >>> shampoo.sharp(G, shampoo.accumulate(shampoo.start(G), G)).round(decimals=5)
        tensor([[[ 0., -1.],
                 [ 1.,  0.]]])

    Source: V. Gupta, T. Koren, Y. Singer, *Shampoo* (2018), algorithm 1; damping relative to the
    largest eigenvalue: the code of R. Anil et al., arXiv 2002.09018.
    """

    beta: float | None = None
    damping: float = 1e-6

    name: ClassVar[str] = "kronecker"
    accumulates: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check(self.beta, self.damping)

    def start(self, example: Tensor) -> State:
        """Return L = 0 and R = 0."""
        rows, columns = example.shape[-2:]
        dtype = double_dtype(example.dtype)
        return {
            "left": square_stack(example, rows, dtype),
            "right": square_stack(example, columns, dtype),
        }

    def accumulate(self, state: State, gradient: Tensor) -> State:
        """Return L and R with the products of the gradient taken in."""
        left, right = (self._known(gradient, state)[key] for key in ("left", "right"))
        g = gradient.to(left.dtype)
        return {
            "left": taken_in(left, g @ g.mT, self.beta),
            "right": taken_in(right, g.mT @ g, self.beta),
        }

    def _solve(self, S: Tensor, state: State) -> Tensor:
        return self._between(S, state, 4.0)

    def _apply(self, X: Tensor, state: State) -> Tensor:
        return self._between(X, state, -4.0)

    def _between(self, x: Tensor, state: State, p: float) -> Tensor:
        """L^(-1/p) x R^(-1/p)."""
        left, right = (
            _inverse_root(state[key], p, self.damping, x.dtype) for key in ("left", "right")
        )
        return left @ x.to(left.dtype) @ right


@dataclass(frozen=True)
class OneSidedKronecker(Preconditioner):
    r"""The norm of one-sided Shampoo: P is a root on one side.

    .. math:: \text{left: } L \leftarrow L + GG^{\mathsf T}, \; P^{-1}S = L^{-1/2} S \qquad
              \text{right: } R \leftarrow R + G^{\mathsf T}G, \; P^{-1}S = S R^{-1/2}

    Damping, averages, range and rounding are those of :class:`Kronecker`. For a matrix with one
    long side: only the factor of the given side is kept.

    State: ``factor`` (B, m, m) or (B, n, n), float64, 8 m² or 8 n² bytes a matrix. Real matrices.

    Args:
        side: ``"left"`` or ``"right"``.
        beta: β in [0, 1) for averages instead of sums; None for sums.
        damping: ε as a share of the largest eigenvalue, at least 0.

    Raises:
        ValueError: for another side or a number outside its range.
        TypeError: for an option that is not a number.

    Example:
        >>> shampoo = OneSidedKronecker("right", damping=0.0)
        >>> G = torch.tensor([[[3.0], [4.0]]])
        >>> shampoo.sharp(G, shampoo.accumulate(shampoo.start(G), G))
        tensor([[[0.6000],
                 [0.8000]]])

    Source: S. Xie et al., *Structured Preconditioners in Adaptive Optimization: A Unified Analysis*
    (2025), arXiv 2503.10537, algorithm 2.
    """

    side: Side = "left"
    beta: float | None = None
    damping: float = 1e-6

    name: ClassVar[str] = "one_sided_kronecker"
    accumulates: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.side not in ("left", "right"):
            raise ValueError(f"side must be 'left' or 'right', got {self.side!r}")
        _check(self.beta, self.damping)

    def start(self, example: Tensor) -> State:
        """Return a factor of zero."""
        size = example.shape[-2 if self.side == "left" else -1]
        return {"factor": square_stack(example, size, double_dtype(example.dtype))}

    def accumulate(self, state: State, gradient: Tensor) -> State:
        """Return the factor with the product of the gradient taken in."""
        factor = self._known(gradient, state)["factor"]
        g = gradient.to(factor.dtype)
        product = g @ g.mT if self.side == "left" else g.mT @ g
        return {"factor": taken_in(factor, product, self.beta)}

    def _solve(self, S: Tensor, state: State) -> Tensor:
        return self._times(S, state, 2.0)

    def _apply(self, X: Tensor, state: State) -> Tensor:
        return self._times(X, state, -2.0)

    def _times(self, x: Tensor, state: State, p: float) -> Tensor:
        """factor^(-1/p) x, or x factor^(-1/p)."""
        root = _inverse_root(state["factor"], p, self.damping, x.dtype)
        wide = x.to(root.dtype)
        return root @ wide if self.side == "left" else wide @ root


def taken_in(factor: Tensor, product: Tensor, beta: float | None) -> Tensor:
    """Return the sum of both for β = None, else β · factor + (1 − β) · product."""
    return factor + product if beta is None else torch.lerp(factor, product, 1.0 - beta)


def _inverse_root(factor: Tensor, p: float, damping: float, dtype: torch.dtype) -> Tensor:
    """(factor + εI)^(-1/p) on the range of the factor, in double; NaN where it is not finite.

    ``dtype`` is that of the gradients, whose rounding makes eigenvalues that count as zero.
    """
    # Singular values of a gradient are known to eps of σ₁: their squares below eps² σ₁² are not.
    size = factor.shape[-1]
    wide = factor.to(double_dtype(factor.dtype))
    cutoff = max(rank_cutoff(size, dtype) ** 2, rank_cutoff(size, wide.dtype))
    return inverse_root_unchecked(wide, p, damping=damping, relative=True, cutoff=cutoff)


def _check(beta: float | None, damping: float) -> None:
    if beta is not None:
        check_number("beta", beta, below=1.0)
    check_number("damping", damping)
