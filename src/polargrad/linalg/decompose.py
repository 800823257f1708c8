"""The one entry: prepare a stack of matrices, call a method, hand back the polar decomposition."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from polargrad.errors import NonFiniteError
from polargrad.linalg.methods import Method
from polargrad.linalg.methods import method as method_of
from polargrad.linalg.planner import plan
from polargrad.linalg.precision import compute_dtype as resolve_compute_dtype
from polargrad.linalg.precision import working_dtype
from polargrad.linalg.scaling import scale_by_power_of_two, times_power_of_two

__all__ = ["PolarResult", "polar", "polar_factor"]

Side = Literal["auto", "right", "left"]
NonFinite = Literal["raise", "propagate"]
MethodSpec = str | Mapping[str, Any] | Method


@dataclass(frozen=True, eq=False)
class PolarResult:
    r"""A polar decomposition :math:`A = UH` or :math:`A = HU`; unpacks as ``U, H``.

    Attributes:
        U: the polar factor, shape and dtype of A.
        nuclear_norm: :math:`\langle A, U\rangle = \operatorname{tr} H`, one real number a matrix,
            shape ``A.shape[:-2]``, in at least float32. For a method that has not converged it is
            off by at most the deviation of the factor's singular values from 1.
        method: the description of the method that was used.
        side: ``"right"`` for :math:`A = UH`, ``"left"`` for :math:`A = HU`.
    """

    U: Tensor
    nuclear_norm: Tensor
    method: Method
    side: Literal["right", "left"]
    _matrix: Tensor = field(repr=False)
    _factor: Tensor = field(repr=False)
    _exponent: Tensor = field(repr=False)

    @functools.cached_property
    def H(self) -> Tensor:
        r"""The Hermitian factor, sym(UᴴA) or sym(AUᴴ), computed when it is first asked for.

        Positive semidefinite to rounding where the method has converged; dtype of A.
        """
        a, u = self._matrix, self._factor
        h = u.mH @ a if self.side == "right" else a @ u.mH
        h = times_power_of_two(0.5 * (h + h.mH), self._exponent)
        return h.to(self.U.dtype)

    def __iter__(self) -> Iterator[Tensor]:
        yield self.U
        yield self.H


def polar(
    A: Tensor,
    *,
    method: MethodSpec = "auto",
    side: Side = "auto",
    tol: float | None = None,
    compute_dtype: torch.dtype | None = None,
    nonfinite: NonFinite = "raise",
) -> PolarResult:
    r"""Polar decomposition of a matrix or a stack of matrices.

    .. math:: A = U H \;\text{(right)} \quad\text{or}\quad A = H U \;\text{(left)}, \qquad
              H = H^{\mathsf H} \succeq 0

    U has orthonormal columns where A is tall and orthonormal rows where A is wide; it is the
    nearest such matrix to A. Directions in which A is zero to rounding
    (:math:`\sigma \le \sqrt n\,\mathrm{eps}\,\sigma_1`) stay zero in U under the converged methods
    ``svd`` and ``qdwh``, so that ``polar(0)`` is 0 and a rank-deficient matrix gets its canonical
    partial isometry. The result is the same for c·A, c > 0, up to the scale of H: entries are
    first scaled by an exact power of two, so 1e-30 and 1e30 are as good as 1.

    Args:
        A: shape (..., m, n): float16, bfloat16, float32, float64, and for ``svd`` and ``qdwh`` also
            complex64 and complex128. Half precision is worked on in float32. Not changed.
        method: ``"auto"`` (see :func:`polargrad.linalg.plan`), a name (``"svd"``, ``"qdwh"``,
            ``"newton_schulz"``, ``"polar_express"``), a description such as ``QDWH(steps=2)``, or
            its plain data.
        side: the side of H: ``"right"`` as in scipy, ``"left"``, or ``"auto"``, the small side.
        tol: for ``method="auto"`` alone: how far singular values of U may be from 1. None, the
            default, is converged; from 0.05 on, training accuracy.
        compute_dtype: the dtype of the products of ``newton_schulz`` and ``polar_express``.
        nonfinite: ``"raise"``, or ``"propagate"``: a matrix with a non-finite entry gives NaN, its
            neighbours in the stack are not touched, and nothing waits for the device.

    Returns:
        The result, which unpacks as ``U, H``; ``.nuclear_norm``; H is computed when asked for.

    Raises:
        TypeError: if A is not a floating-point tensor, or complex with a method of real products.
        ValueError: if A has fewer than two dimensions, or for an argument outside its range.
        NonFiniteError: if A has a non-finite entry and ``nonfinite="raise"``.

    Example:
        >>> A = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
        >>> U, H = polar(A)
        >>> torch.allclose(U @ H, A, atol=1e-5)
        True
        >>> polar(A).nuclear_norm.round(decimals=2)
        tensor(10.0400)

    Source: N. J. Higham, *Functions of Matrices* (2008), chapter 8.
    """
    _check_choice("side", side, get_args(Side))
    _check_choice("nonfinite", nonfinite, get_args(NonFinite))
    _check_matrix(A)
    chosen = _choose(A, method, tol, compute_dtype)
    if side == "auto":
        side = "left" if A.shape[-2] < A.shape[-1] else "right"

    working = A.to(working_dtype(A.dtype))
    finite = _finite(working, nonfinite)
    if finite is not None:
        working = torch.where(finite, working, torch.zeros_like(working))
    if A.numel() == 0:
        scaled, exponent = working, torch.zeros(A.shape[:-2], dtype=torch.int32, device=A.device)
        factor = torch.zeros_like(working)
    else:
        scaled, exponent = scale_by_power_of_two(working)
        source = scaled if chosen.scale_free else working
        factor = _apply(chosen, source, resolve_compute_dtype(A.dtype, compute_dtype))
    if finite is not None:
        factor = torch.where(finite, factor, torch.full_like(factor, torch.nan))
    trace = (scaled.conj() * factor).sum(dim=(-2, -1)).real
    nuclear_norm = times_power_of_two(trace, exponent)
    return PolarResult(
        U=factor.to(A.dtype),
        nuclear_norm=nuclear_norm,
        method=chosen,
        side=side,
        _matrix=scaled,
        _factor=factor,
        _exponent=exponent[..., None, None],
    )


def polar_factor(
    A: Tensor,
    *,
    method: MethodSpec = "auto",
    tol: float | None = None,
    compute_dtype: torch.dtype | None = None,
    nonfinite: NonFinite = "raise",
) -> Tensor:
    """The polar factor U of a matrix or a stack of matrices, the tensor alone.

    .. math:: U = A (A^{\\mathsf H}A)^{-1/2}

    Arguments, shapes, dtypes and errors are those of :func:`polar`.

    Example:
        >>> polar_factor(torch.tensor([[0.0, 2.0], [-3.0, 0.0]])).round()
        tensor([[ 0.,  1.],
                [-1.,  0.]])

    Source: as :func:`polar`.
    """
    return polar(A, method=method, tol=tol, compute_dtype=compute_dtype, nonfinite=nonfinite).U


def _apply(chosen: Method, scaled: Tensor, dtype: torch.dtype) -> Tensor:
    """Call the method on a tall stack: one matrix as two dimensions, several as three."""
    # A square matrix counts as wide: its left Gram matrix is the one that Muon's formula squares.
    wide = scaled.shape[-2] <= scaled.shape[-1]
    tall = scaled.mH if wide else scaled
    single = tall.numel() == tall.shape[-2] * tall.shape[-1]
    flat = tall.reshape(tall.shape[-2:] if single else (-1, *tall.shape[-2:]))
    factor = chosen(flat.to(dtype)).U.to(scaled.dtype).reshape(tall.shape)
    return factor.mH if wide else factor


def _choose(
    A: Tensor, spec: MethodSpec, tol: float | None, compute_dtype: torch.dtype | None
) -> Method:
    """Resolve the method and check it against the matrix."""
    if isinstance(spec, str) and spec == "auto":
        chosen = plan(tol=tol, dtype=A.dtype, device=A.device.type).method
    elif tol is not None:
        raise ValueError(f"tol is for method='auto' alone, got tol={tol} with method={spec!r}")
    else:
        chosen = method_of(spec)
    if A.is_complex() and not chosen.complex_input:
        raise TypeError(f"method {chosen.name!r} needs a real matrix, got {A.dtype}")
    resolved = resolve_compute_dtype(A.dtype, compute_dtype)
    if not chosen.products_only and resolved in (torch.float16, torch.bfloat16):
        raise ValueError(
            f"compute_dtype must be None, float32 or float64 for method {chosen.name!r}, "
            f"got {compute_dtype}"
        )
    return chosen


def _check_matrix(A: Tensor) -> None:
    """Raise unless A is a floating-point tensor of at least two dimensions."""
    if not isinstance(A, Tensor):
        raise TypeError(f"A must be a torch.Tensor, got {type(A).__name__}")
    if not (A.is_floating_point() or A.is_complex()):
        raise TypeError(f"A must hold floating-point or complex numbers, got {A.dtype}")
    if A.dtype not in SUPPORTED:
        raise TypeError(f"A must be of one of {', '.join(map(str, SUPPORTED))}, got {A.dtype}")
    if A.ndim < 2:
        raise ValueError(f"A must be a matrix or a stack of matrices, got shape {tuple(A.shape)}")


SUPPORTED = (
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.complex128,
)


def _check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def _finite(A: Tensor, nonfinite: NonFinite) -> Tensor | None:
    """Raise on a non-finite entry; or return which matrices are finite, as (..., 1, 1)."""
    finite = torch.isfinite(A)
    if nonfinite == "propagate":
        return finite.all(dim=-1, keepdim=True).all(dim=-2, keepdim=True)
    if not bool(finite.all()):
        count = int(finite.logical_not().sum())
        raise NonFiniteError(
            f"A of shape {tuple(A.shape)} has {count} non-finite entries: "
            "remove them, or pass nonfinite='propagate'"
        )
    return None
