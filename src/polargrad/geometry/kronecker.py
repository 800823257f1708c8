"""Kronecker preconditioners: Shampoo, on both sides or on one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from polargrad.geometry.base import State
from polargrad.geometry.checks import check_number
from polargrad.geometry.preconditioner import Preconditioner, check_beta, square_stack
from polargrad.geometry.spectral import Side
from polargrad.linalg.precision import working_dtype
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
    at most :math:`\sqrt m\,\mathrm{eps}` times the largest, which are rounding, count as zero;
    without damping they stay zero in the root. The products GGᵀ are kept in float32 at least:
    gradients below about 1e-19 or above 1e19 are out of their range.

    Cost: 2 m n (m + n) flops for each of accumulation and ascent, and an ascent some 11 (m³ + n³)
    in float64 for two eigendecompositions, which wait for a GPU.

    State: ``left`` (B, m, m) and ``right`` (B, n, n), in at least float32. Real matrices.

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
        dtype = working_dtype(example.dtype)
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
            inverse_root_unchecked(state[key], p, damping=self.damping, relative=True).to(x.dtype)
            for key in ("left", "right")
        )
        return left @ x @ right


@dataclass(frozen=True)
class OneSidedKronecker(Preconditioner):
    r"""The norm of one-sided Shampoo: P is a root on one side.

    .. math:: \text{left: } L \leftarrow L + GG^{\mathsf T}, \; P^{-1}S = L^{-1/2} S \qquad
              \text{right: } R \leftarrow R + G^{\mathsf T}G, \; P^{-1}S = S R^{-1/2}

    Damping, averages, range and rounding are those of :class:`Kronecker`. For a matrix with one
    long side: only the factor of the given side is kept.

    State: ``factor`` (B, m, m) or (B, n, n), in at least float32. Real matrices.

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
        return {"factor": square_stack(example, size, working_dtype(example.dtype))}

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
        root = inverse_root_unchecked(state["factor"], p, damping=self.damping, relative=True)
        root = root.to(x.dtype)
        return root @ x if self.side == "left" else x @ root


def taken_in(factor: Tensor, product: Tensor, beta: float | None) -> Tensor:
    """Return the sum of both for β = None, else β · factor + (1 − β) · product."""
    return factor + product if beta is None else torch.lerp(factor, product, 1.0 - beta)


def _check(beta: float | None, damping: float) -> None:
    if beta is not None:
        check_beta("beta", beta)
    check_number("damping", damping)
