"""A Hessian that is known: Newton's method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from polargrad.errors import NonFiniteError
from polargrad.geometry.base import State
from polargrad.geometry.preconditioner import Preconditioner
from polargrad.linalg import inverse_root
from polargrad.linalg.precision import double_dtype

__all__ = ["GivenHessian"]

Matrix = Tensor | Sequence[Sequence[float]]


@dataclass(frozen=True, eq=False)
class GivenHessian(Preconditioner):
    r"""The norm of a Hessian with two known factors; its step is Newton's.

    .. math:: PX = AXB, \qquad P^{-1}S = A^{-1} S B^{-1}

    A quadratic :math:`\tfrac12\|CXD - E\|_F^2` has the factors :math:`A = C^{\mathsf T}C`,
    :math:`B = DD^{\mathsf T}`. The factors are held in float64, and their inverses are computed
    once, when the description is made, by eigendecomposition; of singular factors they are the
    pseudo-inverses (:func:`polargrad.linalg.inverse_root`). As plain data the factors are nested
    lists, exact but large: keep the description itself where it is used at every step.

    Cost: 2 m n (m + n) flops, in float64: of factors of any scale only the direction and the dual
    norm have to fit the dtype of the signal. The inverses are copied to its device each time if the
    factors were given on another. Real matrices.

    Args:
        left: A, m × m, symmetric positive semidefinite: a tensor, which is copied, or nested lists.
        right: B, n × n, as A.

    Raises:
        ValueError: if a factor is not such a matrix; in use, if a signal is not m × n.
        NonFiniteError: if a factor has a non-finite entry.

    Example:
        >>> newton = GivenHessian(left=[[4.0, 0.0], [0.0, 1.0]], right=[[2.0]])
        >>> newton.sharp(torch.tensor([[[8.0], [8.0]]]))
        tensor([[[1.],
                 [4.]]])

    Source: arXiv 2505.21799, section 6.1 (Newton's method on the matrix quadratic).
    """

    left: Matrix
    right: Matrix
    _factors: tuple[Tensor, Tensor] = field(init=False, repr=False)
    _inverses: tuple[Tensor, Tensor] = field(init=False, repr=False)

    name: ClassVar[str] = "given_hessian"

    def __post_init__(self) -> None:
        left, right = _matrix("left", self.left), _matrix("right", self.right)
        values = {
            "left": left,
            "right": right,
            "_factors": (left, right),
            "_inverses": (_inverse("left", left), _inverse("right", right)),
        }
        for key, value in values.items():
            object.__setattr__(self, key, value)  # frozen from here on

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GivenHessian):
            return NotImplemented
        pairs = zip(self._factors, other._factors, strict=True)
        return all(torch.equal(a.cpu(), b.cpu()) for a, b in pairs)

    def __hash__(self) -> int:
        return hash((self.name, *(a.shape[-1] for a in self._factors)))

    def _solve(self, S: Tensor, state: State) -> Tensor:
        return self._between(S, self._inverses)

    def _apply(self, X: Tensor, state: State) -> Tensor:
        return self._between(X, self._factors)

    def _between(self, x: Tensor, factors: tuple[Tensor, Tensor]) -> Tensor:
        wide = x.to(double_dtype(x.dtype))
        left, right = (a.to(device=x.device, dtype=wide.dtype) for a in factors)
        expected = (left.shape[-1], right.shape[-1])
        if tuple(x.shape[-2:]) != expected:
            raise ValueError(f"the given Hessian is of {expected} matrices, got {tuple(x.shape)}")
        return left @ wide @ right


def _matrix(name: str, given: Matrix) -> Tensor:
    """A copy of a square matrix in float64."""
    try:
        matrix = torch.as_tensor(given, dtype=torch.float64).detach().clone()
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be a matrix of real numbers: {error}") from error
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"{name} must be a square matrix, got shape {tuple(matrix.shape)}")
    return matrix


def _inverse(name: str, matrix: Tensor) -> Tensor:
    """The pseudo-inverse of a symmetric positive semidefinite matrix."""
    try:
        return inverse_root(matrix, 1)
    except (ValueError, NonFiniteError) as error:
        raise type(error)(f"{name} is no factor of a Hessian: {error}") from error
