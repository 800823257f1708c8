"""The one entry: prepare a stack of matrices, call a method, hand back the polar decomposition."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from polargrad.linalg.certificate import Certificate, measure, promised
from polargrad.linalg.choice import MethodSpec, OnFailure, choose, fail
from polargrad.linalg.completion import completed
from polargrad.linalg.derivative import differentiable_factor
from polargrad.linalg.direct import factor_on_host
from polargrad.linalg.methods import Method, label
from polargrad.linalg.methods.outcome import Factor, Promise
from polargrad.linalg.planner import plan
from polargrad.linalg.precision import compute_dtype as resolve_compute_dtype
from polargrad.linalg.precision import double_dtype
from polargrad.linalg.preparation import (
    NonFinite,
    Prepared,
    check_choice,
    is_plain,
    is_traced,
    prepare,
)
from polargrad.linalg.products import gram, inner
from polargrad.linalg.scaling import times_power_of_two

__all__ = ["PolarResult", "polar", "polar_factor"]

Side = Literal["auto", "right", "left"]


def _cached_by_grad_mode(compute: Callable[[PolarResult], Tensor]) -> property:
    """A property computed once with a graph and once without: the first look decides nothing."""
    key = f"_{compute.__name__}_of_mode"

    def look(result: PolarResult) -> Tensor:
        known: dict[bool, Tensor] = result.__dict__.setdefault(key, {})
        mode = torch.is_grad_enabled()
        if mode not in known:
            known[mode] = compute(result)
        return known[mode]

    return property(look, doc=compute.__doc__)


@dataclass(frozen=True, eq=False)
class PolarResult:
    r"""A polar decomposition :math:`A = UH` or :math:`A = HU`; unpacks as ``U, H``.

    Attributes:
        U: the polar factor, shape and dtype of A.
        method: the description of the method that was used.
        side: ``"right"`` for :math:`A = UH`, ``"left"`` for :math:`A = HU`.
    """

    U: Tensor
    method: Method
    side: Literal["right", "left"]
    _prepared: Prepared = field(repr=False)
    _factor: Factor = field(repr=False)
    _dtype: torch.dtype = field(repr=False)
    _measured: Certificate | None = field(default=None, repr=False)

    @_cached_by_grad_mode
    def H(self) -> Tensor:
        r"""The Hermitian factor, sym(UᴴA) or sym(AUᴴ), computed when it is first asked for.

        Positive semidefinite to rounding where the method has converged; dtype of A. The product is
        taken in float64, so that the residual A − UH is that of U and not of long sums.
        """
        a, u = (x.to(double_dtype(x.dtype)) for x in (self._prepared.scaled, self._factor.U))
        h = u.mH @ a if self.side == "right" else a @ u.mH
        h = times_power_of_two(0.5 * (h + h.mH), self._prepared.exponent)
        return h.to(self.U.dtype)

    @_cached_by_grad_mode
    def nuclear_norm(self) -> Tensor:
        r"""The nuclear norm :math:`\langle A, U\rangle = \operatorname{tr} H` of each matrix.

        Real, shape ``A.shape[:-2]``, in at least float32; ``certificate`` bounds its error. In
        float64 a converged method's own rounding, :math:`\tfrac12\langle (U^{\mathsf H}U)^2 -
        U^{\mathsf H}U, H\rangle` to first order, is taken off again: it can be several eps.
        """
        a, u = self._prepared.scaled, self._factor.U
        trace = inner(a, u)
        if self.method.converged and a.real.dtype == torch.float64:
            tall = a.shape[-2] >= a.shape[-1]
            # What the first product rounds is what is measured: long sums go in pieces.
            square, h = (gram(u), u.mH @ a) if tall else (gram(u.mH), a @ u.mH)
            excess = _real((square @ square - square).conj() * h)
            trace = trace - 0.5 * excess.sum(dim=(-2, -1))
        exponent = self._prepared.exponent
        exponent = exponent if isinstance(exponent, int) else exponent[..., 0, 0]
        return times_power_of_two(trace.to(a.real.dtype), exponent)

    @functools.cached_property
    def certificate(self) -> Certificate:
        """What is known of the errors: measured with ``certify=True``, else promised."""
        if self._measured is not None:
            return self._measured
        u = self._factor.U
        columns = min(u.shape[-2:])
        promise = _promise(u, self.method, self._dtype)
        batch = u.shape[:-2]
        return promised(
            promise, label(self.method), self._factor.steps, self._factor.rank, batch, columns
        )

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
    complete: bool = False,
    certify: bool = False,
    on_failure: OnFailure = "raise",
) -> PolarResult:
    r"""Polar decomposition of a matrix or a stack of matrices.

    .. math:: A = U H \;\text{(right)} \quad\text{or}\quad A = H U \;\text{(left)}, \qquad
              H = H^{\mathsf H} \succeq 0

    U has orthonormal columns where A is tall and orthonormal rows where A is wide; it is the
    nearest such matrix to A. Directions in which A is zero to rounding
    (:math:`\sigma \le \sqrt n\,\mathrm{eps}\,\sigma_1`) stay zero in U under the converged methods,
    so that ``polar(0)`` is 0 and a rank-deficient matrix gets its canonical partial isometry. The
    result is the same for c·A, c > 0, up to the scale of H: entries are first scaled by an exact
    power of two, so 1e-30 and 1e30 are as good as 1. Differentiable to any order, in forward mode
    too; under ``torch.func.vmap``, ``torch.compile`` and ``torch.export`` use
    :func:`polar_factor`.

    Args:
        A: shape (..., m, n): float16, bfloat16, float32, float64, complex64 or complex128. Half
            precision is worked on in float32. Not changed.
        method: ``"auto"`` (see :func:`polargrad.linalg.plan`), a name of
            :data:`polargrad.linalg.METHODS`, a description such as ``QDWH(steps=2)``, or its plain
            data.
        side: the side of H: ``"right"`` as in scipy, ``"left"``, or ``"auto"``, the small side.
        tol: for ``method="auto"`` alone: how far singular values of U may be from 1. None, the
            default, is converged; from 0.05 on, training accuracy.
        compute_dtype: the dtype of the method's arithmetic; half precision for the methods of
            products alone.
        nonfinite: ``"raise"``, or ``"propagate"``: a matrix with a non-finite entry gives NaN, its
            neighbours in the stack are not touched, and nothing waits for the device.
        complete: give a rank-deficient matrix a factor with orthonormal columns: directions in
            which A is zero get partners outside of its range. Converged methods only.
        certify: measure the errors instead of stating what the method promises, at the cost of some
            two singular value decompositions; see :class:`Certificate`.
        on_failure: what to do where no method promises ``tol``, or a measurement finds that it, or
            the method's own promise, was not kept: ``"raise"``, ``"warn"``, or ``"fallback"`` to
            the default converged method.

    Returns:
        The result, which unpacks as ``U, H``; ``.nuclear_norm`` and ``.certificate``. H and the
        norm are computed when asked for.

    Raises:
        TypeError: if A is not a floating-point or complex tensor.
        ValueError: if A has fewer than two dimensions, or for an argument outside its range.
        NonFiniteError: if A has a non-finite entry and ``nonfinite="raise"``.
        ToleranceError: if a tolerance cannot be, or was not kept, and ``on_failure="raise"``.

    Example:
        >>> A = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
        >>> U, H = polar(A)
        >>> torch.allclose(U @ H, A, atol=1e-5)
        True
        >>> polar(A).nuclear_norm.round(decimals=2)
        tensor(10.0400)

    Source: N. J. Higham, *Functions of Matrices* (2008), chapter 8.
    """
    check_choice("side", side, get_args(Side))
    check_choice("on_failure", on_failure, get_args(OnFailure))
    chosen = choose(A, method, tol, compute_dtype, nonfinite, on_failure)
    if side == "auto":
        side = "left" if A.shape[-2] < A.shape[-1] else "right"
    dtype = resolve_compute_dtype(A.dtype, compute_dtype)
    prepared, factor = _decompose(A, chosen, dtype, nonfinite, complete)
    measured = None
    if certify and A.numel():
        promise = _promise(prepared.scaled, chosen, dtype)
        measured = _measure(prepared, factor, chosen, promise)
        target = tol if tol is not None else promise.deviation
        if not bool(measured.confirms(target, promise.residual).all()):
            message = (
                f"method {label(chosen)!r} was to keep singular values within {target:.3g} of 1 "
                f"and a residual of {promise.residual:.3g}, with H positive semidefinite; "
                f"measured are {float(measured.deviation.nan_to_num().amax()):.3g}, "
                f"{float(measured.residual.nan_to_num().amax()):.3g}, and semidefinite is "
                f"{bool(measured.semidefinite.all()) if measured.semidefinite is not None else '?'}"
            )
            better = None if on_failure != "fallback" else _better(A, chosen)
            if better is not None:
                return polar(
                    A,
                    method=better,
                    side=side,
                    compute_dtype=compute_dtype,
                    nonfinite=nonfinite,
                    complete=complete,
                    certify=True,
                    on_failure="raise",
                )
            fail(message, on_failure)
    return PolarResult(
        U=factor.U.to(A.dtype),
        method=chosen,
        side=side,
        _prepared=prepared,
        _factor=factor,
        _dtype=dtype,
        _measured=measured,
    )


def polar_factor(
    A: Tensor,
    *,
    method: MethodSpec = "auto",
    tol: float | None = None,
    compute_dtype: torch.dtype | None = None,
    nonfinite: NonFinite = "raise",
    complete: bool = False,
) -> Tensor:
    """The polar factor U of a matrix or a stack of matrices, the tensor alone.

    .. math:: U = A (A^{\\mathsf H}A)^{-1/2}

    For ``torch.compile``, ``torch.export`` and ``torch.func``. Arguments, shapes, dtypes and errors
    are those of :func:`polar`.

    Example:
        >>> polar_factor(torch.tensor([[0.0, 2.0], [-3.0, 0.0]])).round()
        tensor([[ 0.,  1.],
                [-1.,  0.]])

    Source: as :func:`polar`.
    """
    chosen = choose(A, method, tol, compute_dtype, nonfinite, "raise")
    dtype = resolve_compute_dtype(A.dtype, compute_dtype)
    return _decompose(A, chosen, dtype, nonfinite, complete)[1].U.to(A.dtype)


def _real(x: Tensor) -> Tensor:
    return x.real if x.is_complex() else x


def _decompose(
    A: Tensor, chosen: Method, dtype: torch.dtype, nonfinite: NonFinite, complete: bool
) -> tuple[Prepared, Factor]:
    """Prepare A and call the method: the factor has A's orientation and the working dtype."""
    # Where nothing has to be raised nothing is looked at.
    quick = factor_on_host(A, chosen, dtype) if nonfinite == "raise" else None
    if quick is not None:
        scaled, power, factor = quick
        return Prepared(scaled, power, None), completed(factor, chosen) if complete else factor
    prepared = prepare(A, nonfinite)
    scaled, _, finite = prepared
    if A.numel() == 0:
        return prepared, Factor(0.0 * scaled, 0)
    source = scaled if chosen.scale_free else A.to(scaled.dtype)
    if finite is not None and not chosen.scale_free:
        source = torch.where(finite, source, torch.zeros_like(source))
    factor = _apply(chosen, source, dtype)
    if complete:
        factor = completed(factor, chosen)
    if finite is not None:
        u = torch.where(finite, factor.U, torch.full_like(factor.U, torch.nan))
        factor = factor._replace(U=u)
    return prepared, factor


def _apply(chosen: Method, scaled: Tensor, dtype: torch.dtype) -> Factor:
    """Call the method on a tall stack: one matrix as two dimensions, several as three."""
    # A square matrix counts as wide: its left Gram matrix is the one that Muon's formula squares.
    wide = scaled.shape[-2] <= scaled.shape[-1]
    tall = scaled.mH if wide else scaled
    single = tall.numel() == tall.shape[-2] * tall.shape[-1]
    flat = tall.reshape(tall.shape[-2:] if single else (-1, *tall.shape[-2:])).to(dtype)
    if chosen.converged and _wants_derivative(flat):
        outcome: list[Factor] = []

        def compute(x: Tensor) -> Tensor:
            outcome.append(chosen(x))
            return outcome[-1].U

        u = differentiable_factor(flat, compute)
        _, steps, rank = outcome[-1]
        rank = None if is_traced(flat) else rank
    else:
        u, steps, rank = chosen(flat)
    u = u.to(scaled.dtype).reshape(tall.shape)
    rank = None if rank is None else rank.reshape(scaled.shape[:-2])
    # Without a pending conjugation, with which a tensor cannot go to numpy.
    return Factor(u.mH.resolve_conj() if wide else u, steps, rank)


def _wants_derivative(x: Tensor) -> bool:
    """Whether the formula has to stand for the method: in autograd, forward mode and vmap."""
    if torch.compiler.is_compiling():
        return torch.is_grad_enabled() and x.requires_grad
    return not is_plain(x)


def _measure(prepared: Prepared, factor: Factor, chosen: Method, promise: Promise) -> Certificate:
    """Certify one stack of any batch shape, tall or wide; NaN for a matrix that is not finite."""
    a, u, finite = prepared.scaled, factor.U, prepared.finite
    if finite is not None:
        u = torch.where(finite, u, torch.zeros_like(u))
    wide = a.shape[-2] < a.shape[-1]
    a, u = (x.mH if wide else x for x in (a, u))
    eps = torch.finfo(a.dtype).eps
    certificate = measure(a, u, label(chosen), factor.steps, promise, eps)
    return certificate if finite is None else certificate.only(finite[..., 0, 0])


def _promise(x: Tensor, chosen: Method, dtype: torch.dtype) -> Promise:
    """What the method promises in the dtype that it works in."""
    columns, rows = sorted(x.shape[-2:])
    return chosen.promise(max(rows, 1), max(columns, 1), dtype)


def _better(A: Tensor, chosen: Method) -> Method | None:
    """The default method, or None where that is what has just failed."""
    best = plan(A).method
    return None if best == chosen else best
