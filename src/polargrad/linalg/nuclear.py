"""The nuclear norm, with an error that is proved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from polargrad.linalg.decompose import polar
from polargrad.linalg.methods import Method
from polargrad.linalg.norms import double, round_up, tall, value_and_error
from polargrad.linalg.precision import working_dtype
from polargrad.linalg.preparation import check_matrix
from polargrad.linalg.scaling import scale_by_power_of_two, times_power_of_two

__all__ = ["NuclearNorm", "nuclear_norm"]


class NuclearNorm(NamedTuple):
    """A nuclear norm and how far it may be off.

    Attributes:
        value: the norm, one real number a matrix.
        error: the true norm lies between ``value - error`` and ``value + error``; infinite where
            the factor that was used proves nothing, as one with a flipped singular pair.
    """

    value: Tensor
    error: Tensor


def nuclear_norm(
    A: Tensor,
    *,
    method: str | Mapping[str, Any] | Method = "auto",
    tol: float | None = None,
) -> NuclearNorm:
    r"""The nuclear norm of a matrix or a stack of matrices, with a proved bound of its error.

    .. math:: \|A\|_* = \sum_i \sigma_i \approx v = \operatorname{Re}\langle A, U\rangle, \qquad
              \frac{v}{1+\delta} \;\le\; \|A\|_* \;\le\;
              (1 + \delta)\,(v + 2 n\nu) + \sqrt{n}\,\|A - UH\|_F

    for any U whatever with :math:`\|U\|_2 \le 1 + \delta` and :math:`H = \operatorname{sym}
    (U^{\mathsf H}A) \succeq -\nu I`. The factor comes from ``method``, and the error is measured on
    it, not assumed: :math:`\delta` from :math:`\|G^2 - G\|_F`, G = UᴴU, :math:`\nu` by a Cholesky
    factorization, and rounding by its worst case. The value itself is usually much better than
    what can be proved: of the norm, the bound is about 1e-6 to 1e-5 in float32 and 1e-10 to 1e-9 in
    float64 for a converged factor, and tens of percent for five steps of Newton–Schulz.

    The proof costs 8 m n² + 11 n³ flops in float64 and does not wait for the device beyond what
    ``method`` does.

    Args:
        A: shape (..., m, n), any dtype that :func:`polargrad.linalg.polar` takes.
        method: as for ``polar``.
        tol: as for ``polar``.

    Returns:
        Value and error, shape ``A.shape[:-2]``, real, in at least float32.

    Raises:
        TypeError, ValueError, NonFiniteError: as ``polar``.

    Example:
        >>> value, error = nuclear_norm(torch.diag(torch.tensor([3.0, -4.0])))
        >>> abs(value.item() - 7.0) <= error.item() <= 1e-4
        True

    Source: the duality of the nuclear and the spectral norm, R. A. Horn, C. R. Johnson, *Topics in
    Matrix Analysis* (1991), section 3.4.
    """
    check_matrix(A)
    working = A.to(working_dtype(A.dtype))
    real = working.real.dtype
    factor = polar(working, method=method, tol=tol).U
    if A.numel() == 0:
        zero = torch.zeros(A.shape[:-2], dtype=real, device=A.device)
        return NuclearNorm(zero, zero.clone())
    scaled, exponent = scale_by_power_of_two(double(working))
    value, error = value_and_error(tall(scaled), tall(double(factor)), torch.finfo(real).eps)
    value, error = (times_power_of_two(x, exponent) for x in (value, error))
    rounded = value.to(real)
    if real != value.dtype:
        error = error + (value - rounded.to(value.dtype)).abs()
    return NuclearNorm(rounded, round_up(error, real))
