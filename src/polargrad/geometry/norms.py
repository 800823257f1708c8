r"""Norms with their dual norms and unit directions.

For a norm with dual norm :math:`\|\cdot\|_*` the *unit direction* of a signal S is

.. math:: D = \arg\max_{\|D\| \le 1} \langle S, D\rangle, \qquad \langle S, D\rangle = \|S\|_*,

and :math:`\|S\|_* D` is the gradient that the norm sees.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from polargrad.linalg import SVD, Method, polar


class Ascent(NamedTuple):
    """A unit direction and the dual norm of the signal, for each matrix of a stack.

    Attributes:
        direction: (..., m, n), in at least float32.
        dual_norm: (...), in at least float32.
    """

    direction: Tensor
    dual_norm: Tensor


@dataclass(frozen=True)
class Spectral:
    r"""The spectral norm: its dual is the nuclear norm, its unit direction the polar factor.

    .. math:: \|X\| = \sigma_1(X), \qquad \|S\|_* = \sum_i \sigma_i(S) = \langle S, U\rangle,
              \qquad D = U, \; S = UH

    With a method that has not converged, U and :math:`\langle S, U\rangle` are what it computes.

    Args:
        method: how the polar factor is computed.
        compute_dtype: the dtype of the products of a polynomial method; None for float32 at least.

    Example:
        >>> Spectral().ascent(torch.diag(torch.tensor([3.0, -1.0]))).dual_norm
        tensor(4.)

    Source: arXiv 2505.21799 (PolarGrad), section 4.
    """

    method: Method = field(default_factory=SVD)
    compute_dtype: torch.dtype | None = None

    def ascent(self, signal: Tensor) -> Ascent:
        """Return direction and dual norm of a stack (..., m, n); NaN for one that is not finite."""
        signal = signal.float() if signal.dtype in (torch.float16, torch.bfloat16) else signal
        result = polar(
            signal, method=self.method, compute_dtype=self.compute_dtype, nonfinite="propagate"
        )
        return Ascent(result.U, result.nuclear_norm)
