"""Objectives of a product of two factors, their derivatives, and the best of a given rank."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from polargrad.problems.problem import OptimumError, Problem

__all__ = [
    "FactoredProblem",
    "Truncation",
    "balanced",
    "check_known_optimum",
    "check_rank",
    "required_optimum",
]


class FactoredProblem(Problem):
    r"""A loss φ of a product of two factors, X of m × r and Y of n × r.

    .. math:: f(X, Y) = \varphi(A X Y^{\mathsf T}), \qquad G = \nabla\varphi(A X Y^{\mathsf T}),
              \qquad \nabla_X f = A^{\mathsf T} G Y, \quad \nabla_Y f = G^{\mathsf T} A X

    A is the identity except where a subclass says otherwise. Along :math:`(\dot X, \dot Y)`, with
    :math:`\dot Z = A(\dot X Y^{\mathsf T} + X \dot Y^{\mathsf T})` and
    :math:`H = \nabla^2\varphi(A X Y^{\mathsf T})[\dot Z]`, the Hessian's product is

    .. math:: (A^{\mathsf T}(H Y + G \dot Y),\; H^{\mathsf T} A X + G^{\mathsf T} A \dot X).

    f does not change from (X, Y) to :math:`(X Q, Y Q^{-\mathsf T})`, Q invertible. So it is not
    convex, its minimisers are never isolated and its Hessian is singular or indefinite there:
    there is no strong convexity, and no Lipschitz constant of its gradient that holds everywhere.
    What there is: :attr:`loss_smoothness`, and the inherited ``curvature`` at a point.
    """

    rank: int

    @abc.abstractmethod
    def loss(self, Z: Tensor) -> Tensor:
        """Return φ(Z), a tensor without dimensions."""

    @abc.abstractmethod
    def loss_gradient(self, Z: Tensor) -> Tensor:
        """Return ∇φ(Z), of the shape of Z."""

    @abc.abstractmethod
    def loss_hessian_vector(self, Z: Tensor, V: Tensor) -> Tensor:
        """Return ∇²φ(Z)[V], of the shape of Z."""

    @property
    @abc.abstractmethod
    def loss_smoothness(self) -> float:
        """The Lipschitz constant of the gradient of f as a function of X Yᵀ alone, in float64."""

    def left(self, X: Tensor) -> Tensor:
        """Return A X; X itself where A is the identity."""
        return X

    def left_adjoint(self, G: Tensor) -> Tensor:
        """Return Aᵀ G; G itself where A is the identity."""
        return G

    def objective(self, X: Tensor, Y: Tensor) -> Tensor:
        """Return f(X, Y) as a tensor without dimensions, in the dtype of the data."""
        self.checked((X, Y))
        return self.loss(self.left(X) @ Y.mT)

    def gradients(self, X: Tensor, Y: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients in X, m × r, and in Y, n × r."""
        self.checked((X, Y))
        W = self.left(X)
        G = self.loss_gradient(W @ Y.mT)
        return (self.left_adjoint(G @ Y), G.mT @ W)

    def partial_gradient(self, index: int, X: Tensor, Y: Tensor) -> Tensor:
        """Return one of the two gradients, for methods that move one factor at a time.

        Args:
            index: 0 for the gradient in X, m × r, or 1 for that in Y, n × r.
            X: m × r, of the dtype of the data.
            Y: n × r, likewise.

        Raises:
            ValueError: if ``index`` is another number, or a factor has another shape or dtype.
        """
        if index not in (0, 1):
            raise ValueError(f"index must be 0 (X) or 1 (Y), got {index}")
        self.checked((X, Y))
        W = self.left(X)
        G = self.loss_gradient(W @ Y.mT)
        return self.left_adjoint(G @ Y) if index == 0 else G.mT @ W

    def hessian_vectors(
        self, unknowns: Sequence[Tensor], along: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Return the Hessian at (X, Y) times a direction of the same two shapes."""
        (X, Y), (dX, dY) = self.checked(unknowns), self.checked(along)
        W, dW = self.left(X), self.left(dX)
        Z = W @ Y.mT
        G = self.loss_gradient(Z)
        H = self.loss_hessian_vector(Z, torch.addmm(dW @ Y.mT, W, dY.mT))
        return (self.left_adjoint(torch.addmm(H @ Y, G, dY)), torch.addmm(H.mT @ W, G.mT, dW))


@dataclass(frozen=True, eq=False)
class Truncation:
    r"""A matrix T and the best approximation :math:`T_r` of it of rank r, by its SVD in float64.

    .. math:: T = P \Sigma Q^{\mathsf T}, \qquad
              \min_{\operatorname{rank} Z \le r} \tfrac12\|Z - T\|_F^2
              = \tfrac12 \sum_{i > r} \sigma_i^2

    Attributes:
        left: P, thin.
        values: σ, in descending order.
        right: Q, thin.
        rank: r; it may exceed the number of values.

    Source: C. Eckart and G. Young, *The approximation of one matrix by another of lower rank*,
    Psychometrika 1 (1936).
    """

    left: Tensor
    values: Tensor
    right: Tensor
    rank: int

    @classmethod
    def of(cls, matrix: Tensor, rank: int) -> Self:
        """Decompose ``matrix``, of any real floating dtype."""
        left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
        return cls(left, values, right.mT, rank)

    @property
    def discarded(self) -> float:
        """½ Σ σᵢ² over i > r: the least value of ½‖Z - T‖² over matrices Z of rank r."""
        return 0.5 * float(self.values[self.rank :].square().sum())

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return P Σ^½ and Q Σ^½ of r columns, whose product is the best approximation."""
        root = self.values[: self.rank].sqrt()
        missing = self.rank - len(root)  # a rank beyond the size of T: columns of zeros
        return (
            torch.nn.functional.pad(self.left[:, : self.rank] * root, (0, missing)),
            torch.nn.functional.pad(self.right[:, : self.rank] * root, (0, missing)),
        )

    def excess(self, X: Tensor, Y: Tensor) -> float:
        r"""Return ½‖X Yᵀ - T‖² less its least value, without the cancellation of the subtraction.

        .. math:: \tfrac12 \|X Y^{\mathsf T} - T_r\|_F^2
                  - \sum_{i>r} \sigma_i \langle X^{\mathsf T} p_i, Y^{\mathsf T} q_i\rangle

        since :math:`T_r` is orthogonal to :math:`T - T_r`. Near the optimum each of the two vectors
        is as small as the distance to it, so that rounding is relative to that distance. Not
        finite exactly if the factors are not, or too large to be squared.
        """
        X, Y = X.double(), Y.double()
        kept, r = self.factors(), self.rank
        first = 0.5 * (X @ Y.mT - kept[0] @ kept[1].mT).square().sum()
        rows = (self.left[:, r:].mT @ X) * (self.right[:, r:].mT @ Y)
        value = float(first - (self.values[r:, None] * rows).sum())
        # The least value is the least: what is below is rounding.
        return value if math.isnan(value) else max(value, 0.0)


def balanced(X: Tensor, Y: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return factors of the same product with :math:`X^{\mathsf T}X = Y^{\mathsf T}Y` diagonal.

    Among all factors of the product these have the least :math:`\|X\|_F^2 + \|Y\|_F^2`.

    Args:
        X: m × r with m at least r, float32 or float64.
        Y: n × r with n at least r, of the same dtype.

    Example:
        >>> X, Y = balanced(torch.tensor([[8.0], [0.0]]), torch.tensor([[0.5], [0.0]]))
        >>> X.norm().item(), Y.norm().item()
        (2.0, 2.0)
    """
    (left, left_core), (right, right_core) = torch.linalg.qr(X), torch.linalg.qr(Y)
    P, sigma, Qh = torch.linalg.svd(left_core @ right_core.mT)
    return (left @ (P * sigma.sqrt()), right @ (Qh.mT * sigma.sqrt()))


def check_rank(rank: object, m: int, n: int) -> None:
    """Raise unless ``rank`` is an integer from 1 to min(m, n).

    Raises:
        TypeError: if it is not an integer.
        ValueError: if it is outside the range.
    """
    if not isinstance(rank, int) or isinstance(rank, bool):
        raise TypeError(f"rank must be an integer, got {type(rank).__name__}")
    if not 1 <= rank <= min(m, n):
        raise ValueError(
            f"rank must be from 1 to {min(m, n)} for a matrix of shape ({m}, {n}), got {rank}"
        )


def check_known_optimum(value: float | None) -> None:
    """Raise unless the optimum is not stated, or is a finite number of at least 0.

    Raises:
        ValueError: otherwise.
    """
    if value is not None and not 0 <= value < math.inf:
        raise ValueError(f"known_optimum must be finite and at least 0, or None, got {value}")


def required_optimum(value: float | None, reason: str) -> float:
    """Return the optimum if it is known.

    Raises:
        OptimumError: if it is not, with the reason.
    """
    if value is None:
        raise OptimumError(
            f"the optimum is unknown: {reason}; give known_optimum if you know it, "
            "or compare values of the objective"
        )
    return float(value)
