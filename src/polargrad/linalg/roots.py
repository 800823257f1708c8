"""Inverse roots of Hermitian positive semidefinite matrices: what preconditioners are made of."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from polargrad.errors import NonFiniteError
from polargrad.linalg.precision import double_dtype, rank_cutoff
from polargrad.linalg.preparation import check_matrix, prepare
from polargrad.linalg.scaling import scale_by_power_of_two, times_power_of_two

__all__ = ["hermitian_eigen", "inverse_root", "inverse_root_unchecked"]

# So many cutoffs below zero, or from symmetry, is more than rounding of the input explains.
ROUNDING = 10.0


def inverse_root(A: Tensor, p: float, *, damping: float = 0.0, relative: bool = False) -> Tensor:
    r"""The inverse p-th root of a Hermitian positive semidefinite matrix or a stack of them.

    .. math:: A = V \Lambda V^{\mathsf H}, \qquad
              (A + \varepsilon I)^{-1/p}
              = V \operatorname{diag}\bigl((\lambda_i + \varepsilon)^{-1/p}\bigr) V^{\mathsf H}

    by an eigendecomposition in float64, whatever the dtype of A: the root of an ill-conditioned
    float32 matrix is good to rounding of its entries. Eigenvalues of at most
    :math:`\sqrt n\,\mathrm{eps}\,\lambda_1`, eps that of the dtype of A, are zero to rounding and
    count as 0; without damping they stay 0 in the root, which is then that of the
    pseudo-inverse, and the root of a zero matrix is zero.

    With p = 2 and A = XᴴX the product :math:`X A^{-1/2}` is the polar factor of X; p = 4 is
    Shampoo's root for matrices.

    Cost: about 9 n³ flops for the eigendecomposition and 2 n³ for the root, in float64. Waits for
    the device once, for the checks.

    Args:
        A: shape (..., n, n): float16, bfloat16, float32, float64, complex64 or complex128.
        p: positive; any number, 2 or 4 in most uses.
        damping: ε, at least 0, in the unit of A.
        relative: ε is ``damping`` times the largest eigenvalue of each matrix instead.

    Returns:
        The roots, exactly Hermitian, shape and dtype of A.

    Raises:
        TypeError: if A is no floating-point or complex tensor, or p or damping is not a number.
        ValueError: if A is not square, not Hermitian or has an eigenvalue below zero, beyond what
            rounding explains (ten times the cutoff above); if p ≤ 0 or damping < 0.
        NonFiniteError: if A has a non-finite entry.

    Example:
        >>> inverse_root(torch.diag(torch.tensor([4.0, 0.25, 0.0])), 2).diagonal()
        tensor([0.5000, 2.0000, 0.0000])
        >>> inverse_root(torch.eye(2), 4, damping=15.0).diagonal()
        tensor([0.5000, 0.5000])

    Source: N. J. Higham, *Functions of Matrices* (2008), chapter 7.
    """
    check_matrix(A)
    _check_positive("p", p, zero=False)
    _check_positive("damping", damping, zero=True)
    if A.shape[-2] != A.shape[-1]:
        raise ValueError(f"A must be square, got shape {tuple(A.shape)}")
    if A.numel() == 0:
        return A.clone()
    if not bool(torch.isfinite(A).all()):
        count = int(torch.isfinite(A).logical_not().sum())
        raise NonFiniteError(f"A of shape {tuple(A.shape)} has {count} non-finite entries")
    scaled, exponent = scale_by_power_of_two(A.to(double_dtype(A.dtype)))
    cutoff = rank_cutoff(A.shape[-1], A.dtype)
    _check_hermitian(scaled, A, cutoff)
    eigenvalues, v = hermitian_eigen(scaled)
    largest = eigenvalues.abs().amax(dim=-1, keepdim=True)
    _check_semidefinite(eigenvalues / torch.where(largest > 0, largest, 1.0), A, cutoff)
    return _root(eigenvalues, v, exponent, p, _Damping(damping, relative), cutoff).to(A.dtype)


def inverse_root_unchecked(
    A: Tensor,
    p: float,
    *,
    damping: float = 0.0,
    relative: bool = False,
    cutoff: float | None = None,
) -> Tensor:
    """:func:`inverse_root` of a stack that is taken on trust; a negative p gives the root itself.

    A matrix that is not finite gives NaN and leaves its neighbours alone. Nothing is looked at on
    the host beyond what :func:`torch.linalg.eigh` does, which waits for a GPU.

    Args:
        A: shape (..., n, n), Hermitian positive semidefinite to rounding, or not finite.
        p, damping, relative: as :func:`inverse_root`, within their ranges; p may be negative.
        cutoff: eigenvalues of at most this share of the largest count as zero; None for those that
            are zero to rounding of A.

    Returns:
        The roots, exactly Hermitian, shape and dtype of A.

    Example:
        >>> inverse_root_unchecked(torch.diag(torch.tensor([4.0, 0.0])), -2).diagonal()
        tensor([2., 0.])
    """
    if A.numel() == 0:
        return A.clone()
    scaled, exponent, finite = prepare(A.to(double_dtype(A.dtype)), "propagate")
    assert finite is not None  # as prepare promises where it propagates
    assert isinstance(exponent, Tensor)
    eigenvalues, v = hermitian_eigen(scaled)
    cutoff = rank_cutoff(A.shape[-1], A.dtype) if cutoff is None else cutoff
    root = _root(eigenvalues, v, exponent[..., 0, 0], p, _Damping(damping, relative), cutoff)
    return torch.where(finite, root, torch.nan).to(A.dtype)


class _Damping(NamedTuple):
    """What is added to the eigenvalues, in their unit or as a share of the largest one."""

    value: float
    relative: bool


def hermitian_eigen(A: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues, ascending, and eigenvectors of the Hermitian part of a finite stack."""
    eigenvalues, vectors = torch.linalg.eigh(0.5 * (A + A.mH))
    return eigenvalues, vectors


def _root(
    eigenvalues: Tensor, v: Tensor, exponent: Tensor, p: float, damping: _Damping, cutoff: float
) -> Tensor:
    """V diag((λ + ε)^(-1/p)) Vᴴ, λ being 2^exponent times the eigenvalues; zero stays zero."""
    largest = eigenvalues.abs().amax(dim=-1, keepdim=True)
    eigenvalues = torch.where(eigenvalues > cutoff * largest, eigenvalues, 0.0)
    eigenvalues = times_power_of_two(eigenvalues, exponent[..., None])
    shift = damping.value
    damped = eigenvalues + (
        shift * eigenvalues.amax(dim=-1, keepdim=True) if damping.relative else shift
    )
    roots = torch.where(damped > 0, damped, 1.0).pow(-1.0 / p) * (damped > 0)
    root: Tensor = (v * roots.unsqueeze(-2)) @ v.mH
    return 0.5 * (root + root.mH)


def _check_positive(name: str, value: float, *, zero: bool) -> None:
    """Raise unless the value is a finite number above zero, or zero where that is allowed."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not (value >= 0.0 if zero else value > 0.0) or math.isinf(value):
        allowed = "at least 0" if zero else "positive"
        raise ValueError(f"{name} must be {allowed} and finite, got {value}")


def _check_hermitian(scaled: Tensor, A: Tensor, cutoff: float) -> None:
    """Raise unless the scaled matrices, with entries up to 1, are Hermitian to rounding."""
    worst = (scaled - scaled.mH).abs().max().item()
    if worst > ROUNDING * cutoff:
        raise ValueError(
            f"A must be Hermitian, got a matrix that differs from its conjugate transpose by about "
            f"{worst:.1e} of its largest entry, more than rounding in {A.dtype}: "
            "symmetrize it as (A + A.mH) / 2"
        )


def _check_semidefinite(share: Tensor, A: Tensor, cutoff: float) -> None:
    """Raise if an eigenvalue, as a share of the largest one in size, is clearly negative."""
    lowest = share.min().item()
    if lowest < -ROUNDING * cutoff:
        raise ValueError(
            f"A must be positive semidefinite, got an eigenvalue of {lowest:.1e} times the largest "
            f"one in size, more than rounding in {A.dtype}"
        )
