"""The short way for plain matrices on a CPU: one look at their size, then the method alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from polargrad.linalg.methods import GramEigh, GramZolotarev, Method, PolarExpress
from polargrad.linalg.methods.levels import is_better_looped, stacked
from polargrad.linalg.methods.outcome import Factor, SplitFactor
from polargrad.linalg.precision import HALF
from polargrad.linalg.preparation import is_plain
from polargrad.linalg.products import inner
from polargrad.linalg.scaling import (
    greatest_entry,
    largest_entry,
    scale_by_power_of_two,
    times_power_of_two,
)

__all__ = ["factor_and_norm", "factor_on_host", "split_factor"]

DTYPES = (torch.float32, torch.float64)
# Far below the length from which a library cuts the sums of a product: some 300.
LARGEST_SPLIT = 128


def factor_and_norm(
    A: Tensor,
    method: Method,
    compute_dtype: torch.dtype | None = None,
    *,
    norm: bool = True,
) -> tuple[Tensor, Tensor] | None:
    r"""Return the polar factors U of a stack (B, m, n) and :math:`\langle A, U\rangle`, or None.

    What :func:`polargrad.linalg.polar` gives, to the last bit. There masks keep a matrix that is
    not finite from its neighbours without a look at it, which are more passes over a small matrix
    than its factor takes; on a CPU the host may look at the largest entry of each instead.

    None where there is more to do: a matrix that is not finite; another dtype than float32 and
    float64, another device than a CPU; what is traced or wants a derivative; a method that depends
    on scale; a converged one in float64, whose norm is corrected for rounding.

    Args:
        A: shape (B, m, n). Not changed.
        method: the description of the method.
        compute_dtype: as for ``polar``.
        norm: whether inner products are asked for. They take 2 % of the time that the factors of
            768 × 768 matrices take at training accuracy.

    Returns:
        U in the dtype and shape of A, and the inner products, shape (B,), NaN where they are not
        asked for; or None.

    Example:
        >>> from polargrad.linalg import GramEigh
        >>> U, norm = factor_and_norm(torch.tensor([[[0.0, 2.0], [-3.0, 0.0]]]), GramEigh())
        >>> U.round() + 0.0, norm
        (tensor([[[ 0.,  1.],
                 [-1.,  0.]]]), tensor([5.]))
    """
    if not _covers(A, method, compute_dtype) or A.ndim != 3:
        return None
    # As for polar, a square matrix counts as wide.
    wide = A.shape[-2] <= A.shape[-1]
    quick = _on_host(A.squeeze(0), method)
    if quick is not None:
        scaled, power, factor = quick
        return factor.U.view(A.shape), _norms(A, scaled, factor.U, power, norm)
    if A.shape[0] > 1:
        largest = largest_entry(A)
        if not all(map(math.isfinite, largest.tolist())):
            return None
        scaled, exponent = scale_by_power_of_two(A, largest)
        u = method(scaled.mH if wide else scaled).U
        u = u.mH if wide else u
        return u, _norms(A, scaled, u, exponent, norm)
    matrix = A.squeeze(0)
    greatest = greatest_entry(matrix)
    if not math.isfinite(greatest):
        return None
    power = math.frexp(greatest)[1]
    scaled = times_power_of_two(matrix, -power)
    u = method(scaled.mH if wide else scaled).U
    u = u.mH if wide else u
    return u.unsqueeze(0), _norms(A, scaled, u, power, norm)


def _norms(A: Tensor, scaled: Tensor, u: Tensor, power: Tensor | int, asked_for: bool) -> Tensor:
    """⟨A, U⟩ of each matrix of a stack from what it is over a power of two; else NaN, (B,)."""
    if not asked_for:
        return A.new_full((len(A),), math.nan)
    return times_power_of_two(inner(scaled, u).to(A.dtype), power).view(len(A))


def factor_on_host(
    A: Tensor, method: Method, compute_dtype: torch.dtype | None = None
) -> tuple[Tensor, int, Factor] | None:
    r"""Return matrices over a power of two, the power, and the polar factors, or None.

    Instead of a look at the largest entry the method's own one at ‖A‖ tells whether A is finite and
    how large it is: of small matrices under :class:`PolarExpress`, and under
    :class:`GramZolotarev` of those that are taken one by one. None where :func:`factor_and_norm` is
    None, for methods that do not look, and for a matrix that is zero, or a stack in which one is.

    Args:
        A: shape (m, n) or (B, m, n); in half precision it is taken to a wider ``compute_dtype``.
            Not changed.
        method: the description of the method.
        compute_dtype: as for ``polar``.

    Example:
        >>> from polargrad.linalg import PolarExpress
        >>> small = PolarExpress(steps=6, bound="schatten4")
        >>> _, power, factor = factor_on_host(torch.tensor([[2.0, 0.0], [0.0, -0.5]]), small)
        >>> power, factor.U.round()
        (0, tensor([[ 1.,  0.],
                [ 0., -1.]]))
    """
    if A.ndim > 3:
        return None
    if A.dtype in HALF and compute_dtype == torch.float32:
        A = A.float()
    return _on_host(A, method) if _covers(A, method, compute_dtype) else None


def _on_host(A: Tensor, method: Method) -> tuple[Tensor, int, Factor] | None:
    """The same of matrices that it is for."""
    # As for polar, a square matrix counts as wide.
    wide = A.shape[-2] <= A.shape[-1]
    x = A.mT if wide else A
    if isinstance(method, PolarExpress):
        found = method.on_host(x)
        if found is None:
            return None
        u, power = found
        scaled = times_power_of_two(A, -power)
        return scaled, power, Factor(u.mT if wide else u, steps=method.steps)
    if not isinstance(method, GramZolotarev):
        return None
    factor = _each_on_host(x, method)
    return None if factor is None else (A, 0, Factor(factor.mT if wide else factor))


def _each_on_host(x: Tensor, method: GramZolotarev) -> Tensor | None:
    """The factor of a matrix, or of each of a stack that is better taken one by one; or None."""
    if x.ndim == 2:
        return method.on_host(x)
    if not is_better_looped(x):
        return None
    factors = []
    for one in x:
        u = method.on_host(one)
        if u is None:
            return None
        factors.append(u)
    return stacked(factors)


def split_factor(
    A: Tensor, method: Method, compute_dtype: torch.dtype | None = None
) -> SplitFactor | None:
    r"""Return the polar factor of a small matrix as a product yet to be formed, or None.

    What :func:`factor_and_norm` gives, to rounding: a step along U is then one product that is
    added to the parameter. None also for methods that do not work from the Gram matrix, and where
    the smaller side is longer than 128: a longer sum is added to what it is taken from in parts,
    each of which is rounded, and its product costs so much that nothing is won.

    Args:
        A: shape (m, n), finite. Not changed.
        method: the description of the method.
        compute_dtype: as for ``polar``.

    Returns:
        Left and right factor, with U = scale · left · right also for a wide matrix; and ⟨A, U⟩.

    Example:
        >>> from polargrad.linalg import GramEigh
        >>> found = split_factor(torch.tensor([[0.0, 2.0], [-3.0, 0.0]]), GramEigh(polish=0))
        >>> (found.scale * found.left @ found.right).round() + 0.0, round(found.inner, 6)
        (tensor([[ 0.,  1.],
                [-1.,  0.]], dtype=torch.float64), 5.0)
    """
    if not isinstance(method, GramEigh | GramZolotarev) or min(A.shape) > LARGEST_SPLIT:
        return None
    if not _covers(A, method, compute_dtype):
        return None
    # As for polar, a square matrix counts as wide.
    wide = A.shape[-2] <= A.shape[-1]
    found = method.split(A.mH if wide else A)
    if found is None or not wide:
        return found
    return found._replace(left=found.right.mH, right=found.left.mH)


def _covers(A: Tensor, method: Method, compute_dtype: torch.dtype | None) -> bool:
    """Whether nothing but a look at its size stands between the matrices and the method."""
    if A.dtype not in DTYPES or compute_dtype not in (None, A.dtype) or A.device.type != "cpu":
        return False
    if not method.scale_free or (method.converged and A.dtype == torch.float64):
        return False
    return bool(A.numel()) and is_plain(A)
