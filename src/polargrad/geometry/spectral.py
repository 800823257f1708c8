"""The spectral norm: its unit direction is the polar factor."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from polargrad.geometry.base import (
    Ascent,
    Geometry,
    Norm,
    State,
    inner,
    on_scaled,
    over_power_of_two,
)
from polargrad.geometry.checks import check_flag, check_number
from polargrad.linalg import SVD, Method, polar
from polargrad.linalg.direct import factor_and_norm, split_factor
from polargrad.linalg.methods.gram_eigh import from_gram
from polargrad.linalg.methods.outcome import SplitFactor
from polargrad.linalg.precision import double_dtype
from polargrad.linalg.products import gram
from polargrad.linalg.scaling import times_power_of_two

__all__ = ["PolarGeometry", "Spectral"]

Side = Literal["left", "right"]
SIDES = (None, "left", "right")
# Newton–Schulz steps that make the factor from a Gram matrix orthonormal at every condition number.
POLISH = 2


@dataclass(frozen=True)
class PolarGeometry(Geometry):
    r"""A geometry that uses the polar factor: how the factor is computed.

    Args:
        method: how the polar factor is computed, where neither ``side`` nor ``damping`` is given.
        compute_dtype: the dtype of the products of a polynomial method; None for float32 at least.
        side: ``"right"`` or ``"left"`` computes it from that Gram matrix instead,
            :math:`S(S^{\mathsf H}S)^{-1/2}` or :math:`(SS^{\mathsf H})^{-1/2}S`, by
            eigendecomposition in double precision.
        damping: δ of the damped factor, at least 0; then the smaller side is taken in any case.
        correct: correct :math:`\langle S, \hat U\rangle` for a factor that has not converged.

    Raises:
        ValueError: for another side, a damping below 0, or a correction of a damped factor.
        TypeError: for an option that is not a number or a truth value.
    """

    method: Method = field(default_factory=SVD)
    compute_dtype: torch.dtype | None = None
    side: Side | None = None
    damping: float = 0.0
    correct: bool = False

    def __post_init__(self) -> None:
        if self.side not in SIDES:
            raise ValueError(f"side must be None, 'left' or 'right', got {self.side!r}")
        check_number("damping", self.damping)
        check_flag("correct", self.correct)
        if self.correct and self.damping:
            raise ValueError(
                f"correct is for an undamped factor, got correct=True with damping={self.damping}"
            )

    @property
    def uses_polar(self) -> bool:
        """Whether ``method`` is used: where neither a side nor a damping is given."""
        return self.side is None and not self.damping

    def with_polar(self, method: Method, compute_dtype: torch.dtype | None) -> Self:
        """Return this geometry with that method, itself where it uses none."""
        if not self.uses_polar:
            return self
        return dataclasses.replace(self, method=method, compute_dtype=compute_dtype)

    def workspace(self, rows: int, columns: int) -> int:
        """The Gram matrix of a given side, in double precision."""
        if self.side is None or self.damping:
            return 0
        side = columns if self.side == "right" else rows
        return 8 * side * side if side > min(rows, columns) else 0

    def factor(self, signal: Tensor) -> Ascent:
        """Return the polar factor of a stack in at least float32, and the nuclear norm with it."""
        if not self.uses_polar:
            return on_scaled(signal, self._from_gram)
        result = polar(
            signal, method=self.method, compute_dtype=self.compute_dtype, nonfinite="propagate"
        )
        if not self.correct:
            return Ascent(result.U, result.nuclear_norm)
        scaled, exponent, _ = over_power_of_two(signal)
        value = _corrected(scaled, result.U).to(signal.real.dtype)[..., None, None]
        return Ascent(result.U, times_power_of_two(value, exponent)[..., 0, 0])

    def _from_gram(self, scaled: Tensor) -> tuple[Tensor, Tensor]:
        """The factor, damped or not, from the Gram matrix of one side, and its inner product."""
        smaller = "right" if scaled.shape[-2] >= scaled.shape[-1] else "left"
        # Damped, both sides are the same matrix; the larger one would invert a null space by 1/√ε.
        side = smaller if self.damping or self.side is None else self.side
        x = scaled if side == "right" else scaled.mH
        flat = x.reshape(-1, *x.shape[-2:])
        wide = flat.to(double_dtype(x.dtype))
        if self.damping:
            u = _damped(wide, self.damping).to(x.dtype)
        else:
            u = from_gram(flat, wide, gram(wide), POLISH).U
        u = u.reshape(x.shape)
        u = u if side == "right" else u.mH.resolve_conj()
        value = _corrected(scaled, u) if self.correct else inner(scaled, u)
        return u, value


@dataclass(frozen=True)
class Spectral(PolarGeometry, Norm):
    r"""The spectral norm: its dual is the nuclear norm, its unit direction the polar factor.

    .. math:: \|X\| = \sigma_1(X), \qquad \|S\|_* = \sum_i \sigma_i(S) = \langle S, U\rangle,
              \qquad D = U, \; S = UH

    With a method that has not converged, U and :math:`\langle S, U\rangle` are what it computes.
    With ``correct`` the norm is that of the factor after one step of Newton–Schulz more,

    .. math:: \nu = \bigl\langle S, \tfrac12 \hat U(3I - \hat U^{\mathsf H}\hat U)\bigr\rangle,

    at two extra products: singular values of Û that are off by δ make it off by about
    :math:`\tfrac32\delta^2`. The direction stays Û.

    With a ``side`` the factor comes from the Gram matrix of that side. All agree: the side decides
    the cost, an eigendecomposition of m × m or n × n, and the accuracy. Float32 signals are exact
    to a few eps, with singular values up to :math:`\sqrt k\,\mathrm{eps}\,\sigma_1` taken for zero,
    k the length of the side; in float64 those up to :math:`\sqrt{8k\,\mathrm{eps}}\,\sigma_1` are,
    and the residual grows as :math:`\kappa\,\mathrm{eps}`. An eigendecomposition waits for a GPU.

    With ``damping`` :math:`\delta` the direction is

    .. math:: D = S\,(S^{\mathsf H}S + \varepsilon I)^{-1/2}
                = (SS^{\mathsf H} + \varepsilon I)^{-1/2} S, \qquad
              \varepsilon = \delta^2\,\frac{\|S\|_F^2}{\min(m, n)},

    ε being δ² times the mean squared singular value: D is the same for c·S, c > 0. Each singular
    value becomes :math:`\sigma/\sqrt{\sigma^2 + \varepsilon} < 1`: directions that are small beside
    δ times the root mean square are not raised to 1. D lies inside the unit ball, and the dual norm
    is :math:`\langle S, D\rangle`, less than the nuclear norm. It is computed from the smaller Gram
    matrix, whatever the side: the other would invert its null space by
    :math:`1/\sqrt{\varepsilon}`.

    Args:
        method, compute_dtype, side, damping, correct: see :class:`PolarGeometry`.

    Raises:
        ValueError: for another side, a damping below 0, or a correction of a damped factor.
        TypeError: for an option that is not a number or a truth value.

    Example:
        >>> Spectral().ascent(torch.diag(torch.tensor([3.0, -1.0]))).dual_norm
        tensor(4.)

    Source: arXiv 2505.21799 (PolarGrad), section 4; one-sided and damped: arXiv 2605.18106.
    """

    name: ClassVar[str] = "spectral"

    def ascent_on_host(
        self,
        signal: Tensor,
        method: Method,
        compute_dtype: torch.dtype | None,
        *,
        norm: bool = True,
    ) -> Ascent | None:
        """What :meth:`ascent` gives with this method, where the host may look at sizes, or None.

        None where it takes more than the short way of :mod:`polargrad.linalg.direct`. Without
        ``norm`` the dual norms are NaN, for steps of which they are no part.
        """
        if not self.uses_polar or self.correct:
            return None
        found = factor_and_norm(signal, method, compute_dtype, norm=norm)
        return None if found is None else Ascent(*found)

    def split_on_host(
        self, signal: Tensor, method: Method, compute_dtype: torch.dtype | None
    ) -> SplitFactor | None:
        """The direction of one matrix as a product still to be formed, and its dual norm, or None.

        See :func:`polargrad.linalg.direct.split_factor`.
        """
        if not self.uses_polar or self.correct:
            return None
        return split_factor(signal, method, compute_dtype)

    def _ascent(self, signal: Tensor, state: State | None) -> Ascent:
        return self.factor(signal)

    def _norm(self, scaled: Tensor, state: State | None) -> Tensor:
        largest: Tensor = torch.linalg.matrix_norm(scaled.to(double_dtype(scaled.dtype)), 2)
        return largest


def _damped(x: Tensor, damping: float) -> Tensor:
    """X (XᴴX + εI)^(-1/2) of a stack (B, m, n) in double precision."""
    eigenvalues, vectors = torch.linalg.eigh(gram(x))
    eigenvalues = eigenvalues.clamp(min=0.0)
    mean = eigenvalues.sum(dim=-1, keepdim=True) / min(x.shape[-2:])
    shifted = eigenvalues + damping**2 * mean
    # Only a zero matrix has nothing to divide by; its factor is zero whatever stands here.
    weights = torch.where(shifted > 0, shifted, 1.0).rsqrt()
    factor: Tensor = (x @ (vectors * weights.unsqueeze(-2))) @ vectors.mH
    return factor


def _corrected(s: Tensor, u: Tensor) -> Tensor:
    """⟨S, U(3I − UᴴU)/2⟩ = 3/2 tr(UᴴS) − 1/2 ⟨UᴴU, UᴴS⟩, on the smaller side."""
    tall = s.shape[-2] >= s.shape[-1]
    defect, h = (u.mH @ u, u.mH @ s) if tall else (u @ u.mH, s @ u.mH)
    trace = h.diagonal(dim1=-2, dim2=-1).real.sum(dim=-1, dtype=torch.float64)
    return 1.5 * trace - 0.5 * inner(defect, h)
