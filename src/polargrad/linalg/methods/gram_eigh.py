"""The polar factor from the eigenvectors of the Gram matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from polargrad.linalg.methods.outcome import Factor, Promise, SplitFactor, Work
from polargrad.linalg.precision import double_dtype, rank_cutoff
from polargrad.linalg.products import gram

# A tall matrix of this many rows a column is multiplied once, by V f(Λ) Vᴴ in double precision; a
# squarer one twice, by V f(Λ) in double and by Vᴴ in its own precision, which is cheaper there.
TALL = 2
# Down to which share of σ₁ a float64 matrix is promised anything: there κ² is still far from 1/eps.
LEAST_DOUBLE = 1e-5
# Defects in eps that are left as they are: the other rounding of U is as large.
ENOUGH = 2.0


@dataclass(frozen=True)
class GramEigh:
    r"""The polar factor by the eigenvectors of the Gram matrix, in double precision.

    .. math:: A^{\mathsf H}A = V\Lambda V^{\mathsf H}, \qquad
              U = A\,V \operatorname{diag}(f(\lambda_i))\,V^{\mathsf H}, \quad
              f(\lambda) = \lambda^{-1/2} \text{ for } \lambda > \tau^2\lambda_1, \text{ else } 0

    For float32 (and half) matrices exact to a few eps at every condition number, rank-revealing
    with the cutoff :math:`\tau = \sqrt n\,\mathrm{eps}` of the working dtype, and for tall matrices
    the fastest: squaring the condition number costs nothing in twice the precision.

    For float64 matrices there is no such room: singular values below
    :math:`\sqrt{8 n\,\mathrm{eps}}\,\sigma_1` count as zero, and the residual grows as
    :math:`\kappa\,\mathrm{eps}`. Choose :class:`SVD` or :class:`Newton` there.

    Cost: 4 m n² + 10 n³ flops in double precision for a tall matrix; each step of polishing 4 m n².

    Args:
        polish: how many Newton–Schulz steps follow, which make U orthonormal to rounding where the
            spread of the eigenvalues has cost digits; 0 suffices up to
            :math:`\kappa = 2\cdot10^4`, 2 always. None takes as many as the eigenvalues ask for,
            at one host synchronization.

    Raises:
        ValueError: if ``polish`` is neither None nor 0, 1 or 2.

    Example:
        >>> import polargrad as pg
        >>> A = torch.diag(torch.tensor([1.0, -1e-4]))
        >>> pg.polar_factor(A, method=GramEigh()).round(decimals=6) + 0.0
        tensor([[ 1.,  0.],
                [ 0., -1.]])

    Source: N. J. Higham, *Functions of Matrices* (2008), section 8.1; the error of small
    eigenvalues is that of a Hermitian eigenproblem, eps · λ₁.
    """

    polish: int | None = 2

    name: ClassVar[str] = "gram_eigh"
    products_only: ClassVar[bool] = False
    scale_free: ClassVar[bool] = True
    converged: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.polish not in (None, 0, 1, 2):
            raise ValueError(f"polish must be None, 0, 1 or 2, got {self.polish!r}")

    @property
    def adaptive(self) -> bool:
        """Whether values are looked at to decide how to go on."""
        return self.polish is None

    def promise(self, rows: int, columns: int, dtype: torch.dtype) -> Promise:
        """See :class:`Promise`; 10 and 5 eps for float32, where κ² still fits into float64.

        The eigenvalues are off by 5 eps(double) λ₁; each step of polishing squares what that makes.
        """
        eps = torch.finfo(dtype).eps
        double = double_dtype(dtype) == dtype
        down_to = LEAST_DOUBLE if double else rank_cutoff(columns, dtype)
        defect = 5.0 * torch.finfo(torch.float64).eps / down_to**2
        for _ in range(2 if self.polish is None else self.polish):
            defect = 0.75 * defect * defect
        residual = 3.0 * eps / down_to if double else 5.0 * eps
        return Promise(defect + (40.0 if double else 10.0) * eps, down_to, residual + defect)

    def work(self, rows: int, columns: int, dtype: torch.dtype, condition: float) -> Work:
        """See :class:`Work`."""
        polish = self.polish
        if polish is None:
            values = torch.tensor([condition**-2.0, 1.0], dtype=torch.float64)
            polish = _polishing(values, values > 0.0, dtype)
        return Work(3 + 2 * polish, 1, 0, int(self.polish is None))

    def __call__(self, x: Tensor) -> Factor:
        """Return the factor of a tall stack ``x`` (..., m, n) with finite entries."""
        wide = x.to(double_dtype(x.dtype))
        return from_gram(x, wide, gram(wide), self.polish)

    def gram_weights(self, c: Tensor) -> Tensor:
        r"""Return W with U = A W for a stack of Gram matrices c = AᴴA in double precision.

        Without polishing, which needs A; singular values below :math:`\sqrt{8n\,\mathrm{eps}}`
        of the largest count as zero.
        """
        eigenvalues, vectors = torch.linalg.eigh(c)
        kept = eigenvalues > _cutoff(c.shape[-1], c.dtype) * eigenvalues[..., -1:]
        inverse_root = torch.where(kept, eigenvalues, torch.inf).rsqrt()
        weights: Tensor = (vectors * inverse_root.unsqueeze(-2)) @ vectors.mH
        return weights

    def split(self, x: Tensor) -> SplitFactor | None:
        r"""Return the factor of one tall matrix as :math:`A\,(V f(\Lambda) V^{\mathsf H})`.

        The host looks at the eigenvalues, whose roots are the singular values. None with polishing,
        and for a matrix that is zero or not finite.
        """
        if self.polish != 0:
            return None
        wide = x.to(double_dtype(x.dtype))
        c = gram(wide)
        if not 0.0 < float(c.trace()) < math.inf:
            return None
        eigenvalues, vectors = torch.linalg.eigh(c)
        squares = eigenvalues.tolist()
        cutoff = _cutoff(x.shape[-1], x.dtype) * squares[-1]
        singular = [math.sqrt(square) if square > cutoff else 0.0 for square in squares]
        inverses = [1.0 / value if value else 0.0 for value in singular]
        weighted = vectors * torch.tensor(inverses, dtype=eigenvalues.dtype)
        return SplitFactor(wide, weighted @ vectors.mH, math.fsum(singular))


def from_gram(x: Tensor, wide: Tensor, c: Tensor, polish: int | None) -> Factor:
    """The factor of x from the Gram matrix c of ``wide``, which is x in double precision."""
    rows, columns = x.shape[-2:]
    eigenvalues, vectors = torch.linalg.eigh(c)
    kept = eigenvalues > _cutoff(columns, x.dtype) * eigenvalues[..., -1:]
    inverse_root = torch.where(kept, eigenvalues, torch.inf).rsqrt()
    weighted = vectors * inverse_root.unsqueeze(-2).to(vectors.dtype)
    if rows >= TALL * columns:
        # Polished before it is rounded: long sums in single precision would undo it.
        u = wide @ (weighted @ vectors.mH)
    else:
        u = (wide @ weighted).to(x.dtype) @ vectors.mH.to(x.dtype)
    steps = _polishing(eigenvalues, kept, x.dtype) if polish is None else polish
    fused = torch.addmm if u.ndim == 2 else torch.baddbmm
    for step in range(steps):
        half_defect = -0.5 * gram(u)
        half_defect.diagonal(dim1=-2, dim2=-1).add_(0.5)
        # The last correction is small: it may be added to what is rounded already.
        dtype = x.dtype if step == steps - 1 else u.dtype
        u = u.to(dtype)
        u = fused(u, u, half_defect.to(dtype))
    return Factor(u.to(x.dtype), steps=1 + steps, rank=kept.sum(dim=-1))


def _cutoff(columns: int, dtype: torch.dtype) -> float:
    """The share of the largest eigenvalue up to which an eigenvalue counts as zero."""
    if double_dtype(dtype) == dtype:
        return 8.0 * columns * torch.finfo(dtype).eps
    return rank_cutoff(columns, dtype) ** 2


def _polishing(eigenvalues: Tensor, kept: Tensor, dtype: torch.dtype) -> int:
    """How many cubic steps bring the defect ‖UᴴU − I‖_F/√n to 2 eps of the dtype.

    The Gram matrix is off by some 3 eps(double) λ₁, as measured, which is λ₁/λᵢ times as much of
    direction i: the root of the mean of its squares is the defect.
    """
    share = torch.where(kept, eigenvalues[..., -1:] / eigenvalues, 0.0)
    spread = float(share.square().mean(dim=-1).amax()) ** 0.5
    defect = 3.0 * torch.finfo(eigenvalues.dtype).eps * spread
    steps = 0
    while defect > ENOUGH * torch.finfo(dtype).eps and steps < 2:
        # One direction may have all of it, and its square.
        defect = 0.75 * defect * defect * eigenvalues.shape[-1] ** 0.5
        steps += 1
    return steps
