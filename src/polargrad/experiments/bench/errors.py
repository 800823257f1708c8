"""How wrong a polar factor is, against a singular value decomposition in double precision."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Singular values of at least this part of ‖AᴴA‖_F^½ are asked to become 1 at training accuracy:
# the same as in the tolerance of `polargrad.linalg.plan`.
DOWN_TO = 1e-3

ERRORS = (
    "orthogonality",
    "backward_error",
    "forward_error",
    "nuclear_norm_error",
    "deviation",
)


@dataclass(frozen=True, eq=False)
class Oracle:
    r"""The singular value decomposition :math:`A = W\Sigma V^{\mathsf H}` of a tall stack."""

    matrix: Tensor
    w: Tensor
    sigma: Tensor
    vh: Tensor
    wide: bool

    @classmethod
    def of(cls, A: Tensor) -> Oracle:
        """Decompose a stack of any orientation in double precision."""
        wide = A.shape[-2] < A.shape[-1]
        matrix = _double(A.mH if wide else A)
        w, sigma, vh = torch.linalg.svd(matrix, full_matrices=False)
        return cls(matrix, w, sigma, vh, wide)

    def errors(self, U: Tensor) -> dict[str, float]:
        r"""Return the errors of a factor, the worst of the stack, evaluated in double precision.

        ``orthogonality`` :math:`\|U^{\mathsf H}U - I\|_F/\sqrt n`; ``backward_error``
        :math:`\|A - U\operatorname{sym}(U^{\mathsf H}A)\|_F/\|A\|_F`; ``forward_error``
        :math:`\|U - WV^{\mathsf H}\|_F/\sqrt n`; ``nuclear_norm_error``
        :math:`|\langle A, U\rangle/\operatorname{tr}\Sigma - 1|`; ``deviation``, the largest
        :math:`|w_i^{\mathsf H}Uv_i - 1|` over
        :math:`\sigma_i \ge 10^{-3}\|A^{\mathsf H}A\|_F^{1/2}`.

        Example:
            >>> found = Oracle.of(torch.diag(torch.tensor([2.0, 1.0]))).errors(0.9 * torch.eye(2))
            >>> round(found["deviation"], 6), round(found["nuclear_norm_error"], 6)
            (0.1, 0.1)
        """
        norm = torch.linalg.matrix_norm
        u = _double(U.mH if self.wide else U)
        n = u.shape[-1]
        h = u.mH @ self.matrix
        h = 0.5 * (h + h.mH)
        trace = (self.matrix.conj() * u).sum(dim=(-2, -1)).real
        # What the method made of each singular value: a turned sign shows as a deviation of 2.
        made = ((self.w.mH @ u) * self.vh.conj()).sum(dim=-1).real
        bound = self.sigma.pow(4).sum(dim=-1, keepdim=True).pow(0.25)
        asked = self.sigma >= DOWN_TO * bound
        identity = torch.eye(n, dtype=u.dtype, device=u.device)
        found = (
            norm(u.mH @ u - identity) / n**0.5,
            norm(self.matrix - u @ h) / norm(self.matrix),
            norm(u - self.w @ self.vh) / n**0.5,
            (trace / self.sigma.sum(dim=-1) - 1.0).abs(),
            torch.where(asked, (made - 1.0).abs(), torch.zeros_like(made)),
        )
        return {name: error.max().item() for name, error in zip(ERRORS, found, strict=True)}


def _double(A: Tensor) -> Tensor:
    return A.to(torch.complex128 if A.is_complex() else torch.float64)
