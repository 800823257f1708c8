"""Bounds that are sure: of the spectral norm, of the nuclear norm from a factor, orthogonality."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from polargrad.linalg.precision import double_dtype, working_dtype
from polargrad.linalg.preparation import check_matrix
from polargrad.linalg.scaling import scale_by_power_of_two, times_power_of_two

__all__ = ["orthogonality_defect", "rounding", "spectral_norm_bound", "value_and_error"]

POWERS = (1, 2, 4, 8, 16, 32, 64)
# Keeps the factorization of a zero matrix from failing; all others have entries near 1.
SMALLEST_SHIFT = 1e-300


def spectral_norm_bound(A: Tensor, *, power: int = 4) -> Tensor:
    r"""An upper bound of the spectral norm, from k products on the small side, sure and repeatable.

    .. math:: \|A\|_2 \;\le\; \|(A^{\mathsf H}A)^k\|_F^{1/(2k)}
              = \Bigl(\sum_i \sigma_i^{4k}\Bigr)^{1/(4k)} \;\le\; n^{1/(4k)}\,\|A\|_2

    n is the smaller side: at k = 4 and n = 1000 the bound is at most 1.54 times too large, and
    close to 1 where the spectrum decays. Unlike a power iteration it is never too small: it is
    raised by the worst case of rounding, about :math:`4(m + n)\sqrt n` eps of float64, and rounded
    upwards. It is worked on in float64 and scaled by powers of two on the way, so that neither
    1e-30 nor 1e30 is lost.

    Cost: 2 m n² + 2 n³ log₂ k flops in float64; nothing waits for the device.

    Args:
        A: shape (..., m, n), any floating-point or complex dtype.
        power: k, a power of two from 1 to 64; 1 is the Schatten-4 norm.

    Returns:
        The bounds, shape ``A.shape[:-2]``, real, in at least float32; NaN where A is not finite,
        and 0 for a zero or an empty matrix.

    Raises:
        TypeError: if A is not such a tensor.
        ValueError: if A has fewer than two dimensions, or for another power.

    Example:
        >>> bound = spectral_norm_bound(torch.diag(torch.tensor([2.0, 1.0])))
        >>> 2.0 <= bound.item() <= 2.00001
        True

    Source: R. Bhatia, *Matrix Analysis* (1997), section IV.2; rounding as in N. J. Higham,
    *Accuracy and Stability of Numerical Algorithms* (2002), section 3.5.
    """
    check_matrix(A)
    if power not in POWERS:
        raise ValueError(f"power must be one of {', '.join(map(str, POWERS))}, got {power!r}")
    real = working_dtype(A.real.dtype if A.is_complex() else A.dtype)
    if A.numel() == 0:
        return torch.zeros(A.shape[:-2], dtype=real, device=A.device)
    finite = torch.isfinite(A).flatten(start_dim=-2).all(dim=-1)
    x, exponent = scale_by_power_of_two(double(torch.where(finite[..., None, None], A, 0.0)))
    x = tall(x)
    rows, columns = x.shape[-2:]
    gram, shift = scale_by_power_of_two(x.mH @ x)
    # ‖(AᴴA)^k‖ = ‖gram‖ · 2^(2k·logarithm), the logarithm being a sum of e_j / 2^(j+1).
    logarithm = shift.double() / 2.0
    for squaring in range(1, int(math.log2(power)) + 1):
        gram, shift = scale_by_power_of_two(gram @ gram)
        logarithm = logarithm + shift.double() / 2.0 ** (squaring + 1)
    size = torch.linalg.matrix_norm(gram)
    whole = logarithm.floor()
    bound = size.pow(1.0 / (2 * power)) * torch.exp2(logarithm - whole)
    bound = bound * (1.0 + rounding(rows, columns))
    bound = times_power_of_two(bound, exponent + whole.to(exponent.dtype))
    return torch.where(finite, round_up(bound, real), torch.nan)


def orthogonality_defect(U: Tensor) -> Tensor:
    r"""How far the columns of a tall matrix, or the rows of a wide one, are from orthonormal.

    .. math:: \frac{\|U^{\mathsf H}U - I\|_F}{\sqrt n} \;\text{(tall)}, \qquad
              \frac{\|UU^{\mathsf H} - I\|_F}{\sqrt n} \;\text{(wide)}

    n is the smaller side: the root mean square of :math:`\sigma_i^2 - 1`, so 1 for a zero matrix
    and about twice the deviation of the singular values from 1. Worked on in float64, so that what
    is measured is U and not the measurement.

    Args:
        U: shape (..., m, n), any floating-point or complex dtype.

    Returns:
        The defects in float64, shape ``U.shape[:-2]``; NaN where U is not finite, and 0 for an
        empty matrix.

    Raises:
        TypeError: if U is not such a tensor.
        ValueError: if U has fewer than two dimensions.

    Example:
        >>> orthogonality_defect(torch.eye(3)), orthogonality_defect(torch.zeros(4, 2))
        (tensor(0., dtype=torch.float64), tensor(1., dtype=torch.float64))

    Source: N. J. Higham, *Functions of Matrices* (2008), section 8.1.
    """
    check_matrix(U)
    if U.numel() == 0:
        return torch.zeros(U.shape[:-2], dtype=torch.float64, device=U.device)
    x = tall(double(U))
    identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    defect: Tensor = torch.linalg.matrix_norm(x.mH @ x - identity)
    return defect / math.sqrt(x.shape[-1])


def value_and_error(a: Tensor, u: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """⟨a, u⟩ and the bound of its error, of tall double stacks; eps of the dtype u came from."""
    rows, columns = a.shape[-2:]
    size = torch.linalg.matrix_norm(a)
    above = _excess(u)
    # What rounding makes of a product or a factorization here, in the Frobenius norm, at its worst.
    lost = rounding(rows, columns) * size * (1.0 + above)
    h = u.mH @ a
    h = 0.5 * (h + h.mH)
    value = h.diagonal(dim1=-2, dim2=-1).real.sum(dim=-1)
    left = torch.linalg.matrix_norm(a - u @ h) + lost
    # A Cholesky factorization of H + sI proves H ⪰ −2sI, its own rounding included. The small
    # shift does unless H is singular; then u has been computed to about eps ‖a‖ only.
    negative = torch.full_like(size, torch.inf)
    identity = torch.eye(columns, dtype=h.dtype, device=h.device)
    for slack in (10.0 * eps * size + lost, lost):
        shift = (slack + SMALLEST_SHIFT)[..., None, None]
        _, info = torch.linalg.cholesky_ex(h + shift * identity)
        negative = torch.where(info == 0, 2.0 * slack, negative)
    upper = (1.0 + above) * (value + 2.0 * columns * negative) + columns**0.5 * left
    lower = value / (1.0 + above)
    return value, torch.maximum(upper - value, value - lower) + columns**0.5 * lost


def _excess(u: Tensor) -> Tensor:
    """An upper bound of ‖u‖₂ − 1, and at least 0.

    An eigenvalue g ≥ 1 of G = uᴴu has g − 1 ≤ g² − g ≤ ‖G² − G‖_F, which is rounding for a partial
    isometry too; where u is far from one, the Schatten norm is the smaller bound.
    """
    rows, columns = u.shape[-2:]
    schatten = spectral_norm_bound(u, power=16)
    gram = u.mH @ u
    trace = gram.diagonal(dim1=-2, dim2=-1).real.sum(dim=-1)
    lost = rounding(rows, columns) * trace * (1.0 + schatten.square())
    defect = torch.linalg.matrix_norm(gram @ gram - gram) + lost
    return (torch.minimum((1.0 + defect).sqrt(), schatten) - 1.0).clamp(min=0.0)


def rounding(rows: int, columns: int) -> float:
    """Relative rounding error of a Gram matrix and its powers in float64, at its worst.

    m eps of ‖A‖_F² for the Gram matrix, which is at most √n ‖AᴴA‖_F; n √n eps for each squaring,
    halved again by the root; four for complex arithmetic.
    """
    return 4.0 * (rows + columns + 10) * math.sqrt(columns) * torch.finfo(torch.float64).eps


def round_up(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The next larger number of ``dtype``; zero stays zero."""
    rounded = x.to(dtype)
    above = torch.nextafter(rounded, torch.full_like(rounded, torch.inf))
    return torch.where(x > 0, above, rounded)


def double(A: Tensor) -> Tensor:
    return A.to(double_dtype(A.dtype))


def tall(A: Tensor) -> Tensor:
    return A.mH if A.shape[-2] < A.shape[-1] else A
