"""What every method hands back, and what it promises beforehand."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

Norm = Literal["spectral", "schatten4", "frobenius"]


class Factor(NamedTuple):
    """What a method made of a tall stack (m, n) or (B, m, n).

    Attributes:
        U: the factor, of the stack's shape.
        steps: the iterations taken: 1 for a direct method.
        rank: the numerical rank of each matrix that was used, int64 of the stack's batch shape;
            None where the method does not ask for it.
    """

    U: Tensor
    steps: int = 1
    rank: Tensor | None = None


class SplitFactor(NamedTuple):
    """The factor of one tall matrix (m, n) as a product that is still to be formed.

    U = scale · left · right, which another product may be made of, or which may be added to
    something in one call.

    Attributes:
        left: the matrix, or it in a wider dtype, (m, n).
        right: (n, n), in the same dtype.
        inner: ⟨A, U⟩.
        scale: a number.
    """

    left: Tensor
    right: Tensor
    inner: float
    scale: float = 1.0


@dataclass(frozen=True)
class Promise:
    r"""What a method promises without looking at the result: a bound that every result keeps.

    Attributes:
        deviation: :math:`|\sigma_{\text{out}} - 1|` is at most this for every singular value of A
            that is at least ``down_to`` times the norm ``of``.
        down_to: in (0, 1]; smaller singular values are left below 1 (or count as zero).
        of: what ``down_to`` is a share of: the spectral norm, the Schatten-4 norm or the Frobenius
            norm of A.
        residual: :math:`\|A - UH\|_F/\|A\|_F` is at most this, H = sym(UᴴA), for matrices with all
            nonzero singular values at least ``down_to``; infinite where nothing is promised.
    """

    deviation: float
    down_to: float
    residual: float = math.inf
    of: Norm = "spectral"


class Work(NamedTuple):
    """What a call does, counted for one matrix or one batched call.

    Attributes:
        products: of two matrices, Gram matrices among them; not with single vectors.
        factorizations: Cholesky, QR, inverse, eigenvalue and singular value decompositions.
        solves: of triangular systems with as many right sides as a matrix has rows or columns.
        synchronizations: how often the host looks at a value.
    """

    products: int = 0
    factorizations: int = 0
    solves: int = 0
    synchronizations: int = 0

    def plus(self, other: Work) -> Work:
        """Return the sum of both."""
        return Work(*(a + b for a, b in zip(self, other, strict=True)))
