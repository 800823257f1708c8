"""What is known of a polar factor: promised by its method, or measured on the result."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from polargrad.linalg.methods.outcome import Norm, Promise
from polargrad.linalg.norms import rounding, value_and_error
from polargrad.linalg.precision import double_dtype, rank_cutoff

__all__ = ["Certificate", "measure", "promised"]

# A singular value of U above one half is taken for a direction that U has.
PRESENT = 0.5
# The golden ratio, from the bound for partial isometries below.
GOLDEN = 0.5 * (1.0 + math.sqrt(5.0))

# Singular values of A below so many cutoffs of float64 may be noise of what computes them here.
NOISE = 100.0
MEASURES = (
    "deviation",
    "orthogonality",
    "residual",
    "negativity",
    "factor_error",
    "nuclear_norm_error",
)


@dataclass(frozen=True, eq=False)
class Certificate:
    r"""Bounds of every error of a computed polar decomposition, for each matrix of the stack.

    A certificate is *promised* unless ``certify=True`` was given: then its numbers follow from the
    method alone, which keeps them for every input, and what depends on the input is None. A
    *measured* one is computed from A and U in float64, and bounds the errors whatever the method
    did: a flipped singular pair, which leaves U orthonormal and A = UH, shows in ``negativity``
    and makes ``factor_error`` infinite. Both speak of the factor in its working dtype: of a half
    precision matrix before U is rounded to half precision again.

    Attributes:
        method: the method, as :func:`polargrad.linalg.label` writes it.
        steps: how many steps it took, 1 for a direct one.
        measured: whether the numbers were measured on this result.
        rank: the numerical rank r, int64; None where nobody looked.
        deviation: :math:`\max|\sigma_i(U) - 1|` over the r directions that U has (promised: over
            those with :math:`\sigma_i(A) \ge` ``down_to`` times the norm ``of`` A).
        orthogonality: :math:`\|(U^{\mathsf H}U)^2 - U^{\mathsf H}U\|_F/\sqrt n`, the defect on U's
            own range, which is ‖UᴴU − I‖_F/√n to first order for full rank. Promised, like
            ``residual``, for matrices whose nonzero singular values are all at least ``down_to``.
        residual: :math:`\|A - UH\|_F/\|A\|_F`, :math:`H = \operatorname{sym}(U^{\mathsf H}A)`.
        negativity: :math:`-\lambda_{\min}(H)/\|A\|_F`, at least 0; None unless measured.
        factor_error: :math:`\|U - U_*\|_F`, where :math:`U_*` is the polar factor of A, of its best
            approximation of rank r where that is less than n; None unless measured, infinite where
            the measurement proves nothing.
        nuclear_norm_error: :math:`|\langle A, U\rangle - \|A\|_*|/\|A\|_F`.
        down_to: the share of the norm ``of`` down to which the method promises anything.
        of: ``"spectral"``, ``"schatten4"`` or ``"frobenius"``.

    Source: derivations in docs/certificate.md.
    """

    method: str
    steps: int
    measured: bool
    rank: Tensor | None
    deviation: Tensor
    orthogonality: Tensor
    residual: Tensor
    negativity: Tensor | None
    factor_error: Tensor | None
    nuclear_norm_error: Tensor
    down_to: float
    of: Norm
    _present: Tensor | None = field(default=None, repr=False)
    _singular_values: Tensor | None = field(default=None, repr=False)
    _eps: float = field(default=0.0, repr=False)

    @property
    def semidefinite(self) -> Tensor | None:
        """Whether H is positive semidefinite to rounding; None unless measured."""
        if self.negativity is None:
            return None
        return self.negativity <= 2.0 * (self.residual + self.orthogonality) + 8.0 * self._eps

    def only(self, known: Tensor) -> Certificate:
        """Return the certificate with NaN for matrices of which nothing can be known."""

        def where(value: Tensor | None) -> Tensor | None:
            return None if value is None else torch.where(known, value, torch.nan)

        changed: dict[str, Any] = {name: where(getattr(self, name)) for name in MEASURES}
        return replace(self, **changed)

    def keeps(self, tol: float) -> Tensor:
        r"""Whether :math:`|\sigma_i(U) - 1| \le` tol for every σᵢ(A) that counts, for each matrix.

        Those are the ones of at least ``down_to``, of which a measured certificate counts that U
        has at least as many as A.
        """
        kept = self.deviation <= tol
        if self._present is None or self._singular_values is None:
            return kept
        sigma = self._singular_values
        power = {"spectral": torch.inf, "schatten4": 4.0, "frobenius": 2.0}[self.of]
        scale = torch.linalg.vector_norm(sigma, power, dim=-1, keepdim=True)
        least = max(self.down_to, NOISE * rank_cutoff(sigma.shape[-1], torch.float64))
        due = (sigma > least * scale * (1.0 + 1e-6)).sum(dim=-1)
        there = ((self._present - 1.0).abs() <= tol).sum(dim=-1)
        counted: Tensor = (there >= due) & (self._present.amax(dim=-1) <= 1.0 + tol)
        return counted

    def confirms(self, tol: float, residual: float) -> Tensor:
        """Whether this is a polar factor to ``tol``, as measured, for each matrix.

        Its singular values keep ``tol``, H is positive semidefinite, so that no pair is flipped,
        and A − UH is at most ``residual`` where every direction of A is in U: those that keep
        their tolerance are the directions of A.
        """
        if self.semidefinite is None or self._singular_values is None:
            return self.keeps(tol)
        whole = self._singular_values[..., -1] > self.down_to * self._singular_values[..., 0]
        sound = self.semidefinite & (~whole | (self.residual <= residual))
        unknown = self.deviation.isnan()  # a matrix that is not finite has nothing to confirm
        confirmed: Tensor = unknown | (self.keeps(tol) & sound)
        return confirmed


def promised(
    promise: Promise, label: str, steps: int, rank: Tensor | None, batch: torch.Size, columns: int
) -> Certificate:
    """The certificate that follows from the method alone, at no cost."""

    def everywhere(value: float) -> Tensor:
        return torch.full(batch, value, dtype=torch.float64)

    deviation = promise.deviation
    small = columns * promise.down_to  # what singular values below it can add to the norm
    return Certificate(
        method=label,
        steps=steps,
        measured=False,
        rank=rank,
        deviation=everywhere(deviation),
        orthogonality=everywhere(2.0 * deviation + 3.0 * deviation**2),
        residual=everywhere(promise.residual),
        negativity=None,
        factor_error=None,
        nuclear_norm_error=everywhere(columns**0.5 * deviation + small),
        down_to=promise.down_to,
        of=promise.of,
    )


def measure(
    a: Tensor, u: Tensor, label: str, steps: int, promise: Promise, eps: float
) -> Certificate:
    r"""The certificate of u as the polar factor of a, whatever computed it, in float64.

    Cost: about 16 m n² + 40 n³ flops in float64, some two singular value decompositions.

    Args:
        a: a tall stack (B, m, n), scaled so that its largest entries are near 1.
        u: its factor.
        label: the name of the method.
        steps: the steps it took.
        promise: the method's, for the range that it speaks of.
        eps: of the dtype in which the nuclear norm is returned.
    """
    a, u = (x.detach().to(double_dtype(x.dtype)) for x in (a, u))
    rows, columns = a.shape[-2:]
    size = torch.linalg.matrix_norm(a)
    scale = torch.where(size > 0, size, torch.ones_like(size))
    lost = rounding(rows, columns)
    gram = u.mH @ u
    values, vectors = torch.linalg.eigh(gram)
    present = values.clamp_min(0.0).sqrt()
    kept = present > PRESENT
    # The nearest partial isometry with these directions, Û, and the H̃ ⪰ 0 on its range that goes
    # with it: A = ÛH̃ + Δ.
    inverse = torch.where(kept, 1.0 / present.clamp_min(PRESENT), 0.0)
    nearest = (u @ (vectors * inverse.unsqueeze(-2))) @ vectors.mH
    distance = torch.linalg.matrix_norm(u - nearest) + lost
    compressed = _sym(nearest.mH @ a)
    on_range = (vectors * kept.unsqueeze(-2)) @ vectors.mH
    compressed = _sym(on_range @ compressed @ on_range)
    delta = torch.linalg.matrix_norm(a - nearest @ compressed) / scale + lost
    # On the complement of its range H̃ is zero; ‖A‖ I there leaves the smallest eigenvalue on it.
    identity = torch.eye(columns, dtype=a.dtype, device=a.device)
    raised = compressed + size[..., None, None] * (identity - on_range)
    smallest = torch.linalg.eigvalsh(raised)[..., 0] / scale - lost
    full = kept.all(dim=-1)
    gap = torch.where(full, 2.0 * smallest - delta, smallest - delta)
    bound = torch.where(full, 2.0 * delta, 2.0 * GOLDEN * delta) / gap
    error = distance + torch.where(gap > 0, bound, torch.inf)
    h = _sym(u.mH @ a)
    lowest = torch.linalg.eigvalsh(h)[..., 0] / scale
    _, nuclear = value_and_error(a, u, eps)
    over_kept = torch.where(kept, (present - 1.0).abs(), torch.zeros_like(present))
    return Certificate(
        method=label,
        steps=steps,
        measured=True,
        rank=kept.sum(dim=-1),
        deviation=over_kept.amax(dim=-1),
        orthogonality=torch.linalg.matrix_norm(gram @ gram - gram) / columns**0.5,
        residual=torch.linalg.matrix_norm(a - u @ h) / scale,
        negativity=(-lowest).clamp_min(0.0),
        # The factor of a zero matrix is zero.
        factor_error=torch.where(size > 0, error, torch.linalg.matrix_norm(u)),
        # What returning it rounds, its terms and their sum: |⟨A, U⟩| ≤ √n ‖A‖_F.
        nuclear_norm_error=nuclear / scale + 2.0 * eps * columns**0.5,
        down_to=promise.down_to,
        of=promise.of,
        _present=present,
        _singular_values=torch.linalg.svdvals(a),
        _eps=eps,
    )


def _sym(x: Tensor) -> Tensor:
    return 0.5 * (x + x.mH)
