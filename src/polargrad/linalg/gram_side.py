"""The polar factor from the Gram matrix alone, for who has no more of the matrix than a strip."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from polargrad.linalg.methods import (
    GramEigh,
    GramPolynomial,
    GramZolotarev,
    Method,
    NewtonSchulz,
    PolarExpress,
)

__all__ = ["GramSide", "gram_side", "works_from_gram"]


class GramSide(NamedTuple):
    """What is known of tall matrices A once their Gram matrices are.

    Attributes:
        weights: W with U = A W, (B, n, n): a strip of rows of A times W is that strip of U.
        inner: :math:`\\langle A, U\\rangle`, (B,).
    """

    weights: Tensor
    inner: Tensor


def works_from_gram(method: Method) -> bool:
    """Whether the Gram matrix, in double precision, is all that a method needs of a float32 matrix.

    So it is for functions of the Gram matrix, and for polynomials, which are such functions too;
    not for a peer's floor under the norm, which depends on scale, and not for what is converged for
    every condition number, which needs the matrix once more.

    Example:
        >>> from polargrad.linalg import QDWH
        >>> works_from_gram(NewtonSchulz()), works_from_gram(QDWH()), works_from_gram(GramEigh())
        (True, False, False)
    """
    if isinstance(method, GramEigh):
        return method.polish == 0
    functions = GramZolotarev | GramPolynomial | NewtonSchulz | PolarExpress
    return isinstance(method, functions) and method.scale_free


def gram_side(method: Method, c: Tensor) -> GramSide:
    r"""Return what :math:`C = A^{\mathsf H}A` says of the polar factor U of a tall A.

    .. math:: U = A\,W(C), \qquad \langle A, U\rangle = \operatorname{tr}(C\,W)

    Exact in exact arithmetic. In double precision the rounding of C, some :math:`\sqrt m` eps of
    its norm, shows in U by the square of what the method multiplies small singular values by: of
    the million that methods of training accuracy have that makes 1e-10, and of the
    :math:`\kappa^2` that :class:`GramEigh` has 1e-8 at :math:`\kappa = 10^4`.

    Args:
        method: one that :func:`works_from_gram` is true of.
        c: C, (B, n, n), float64.

    Raises:
        TypeError: for another method, or another dtype.

    Example:
        >>> A = torch.tensor([[[3.0], [4.0]]], dtype=torch.float64)
        >>> found = gram_side(GramEigh(polish=0), A.mT @ A)
        >>> (A @ found.weights).flatten(), found.inner
        (tensor([0.6000, 0.8000], dtype=torch.float64), tensor([5.], dtype=torch.float64))
    """
    if not works_from_gram(method):
        raise TypeError(f"method must work from the Gram matrix alone, got {method!r}")
    if c.dtype != torch.float64:
        raise TypeError(f"c must be float64, got {c.dtype}")
    weights = method.gram_weights(c)  # type: ignore[union-attr]  # as those methods have it
    return GramSide(weights, (c * weights.mT).sum(dim=(-2, -1)))
