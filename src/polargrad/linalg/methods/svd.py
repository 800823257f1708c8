"""The polar factor from a singular value decomposition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from polargrad.linalg.methods.outcome import Factor, Promise, Work
from polargrad.linalg.precision import rank_cutoff
from polargrad.linalg.preparation import is_traced

Reduction = Literal["none", "qr"]
# Defects ‖(UᴴU)² − UᴴU‖_F/√n in eps, above what a sound decomposition has been seen to leave.
LARGEST_DEFECT = 35.0


@dataclass(frozen=True)
class SVD:
    r"""The polar factor by the singular value decomposition.

    .. math:: A = W \Sigma V^{\mathsf H}, \qquad
              U = \sum_{\sigma_i > \tau\sigma_1} w_i v_i^{\mathsf H}

    The definition itself: the most robust choice for any condition number, and for large float64
    matrices on a CPU also the fastest. For float32 :class:`GramEigh` and :class:`MixedQDWH` are
    faster and ten times as accurate; on a GPU choose :class:`QDWH`.

    Directions with :math:`\sigma_i \le \tau\sigma_1`, :math:`\tau = \sqrt n\,\mathrm{eps}` of the
    working dtype, stay zero: a rank-deficient matrix gets its canonical partial isometry.

    Cost: about 22 n³ flops for a square matrix, backward stable in the working dtype; with
    reduction 6 m n² + 22 n³ for a tall one.

    The divide-and-conquer SVD of today's libraries sometimes goes wrong where singular values are
    zero to rounding: of random float64 matrices 128 × 128 of rank 64, one in twelve came out with U
    off from a partial isometry by up to 3·10⁻⁸, where 10⁻¹⁴ is usual. On a CPU, where looking at
    values costs nothing, the factor of a rank-deficient matrix is therefore checked, and computed
    anew from bases of its range where need be.

    Args:
        reduction: ``"qr"`` decomposes the triangular factor R of A = QR instead, where m > n, and
            multiplies with Q: a little faster for m ≥ 4 n.

        check: whether to check rank-deficient matrices, on a CPU and outside of torch.compile.

    Raises:
        ValueError: for another reduction.

    Example:
        >>> import polargrad as pg
        >>> pg.polar_factor(torch.tensor([[0.0, -2.0], [3.0, 0.0]]), method=SVD()).round()
        tensor([[ 0., -1.],
                [ 1.,  0.]])

    Source: N. J. Higham, *Functions of Matrices* (2008), chapter 8.
    """

    reduction: Reduction = "none"
    check: bool = True

    name: ClassVar[str] = "svd"
    products_only: ClassVar[bool] = False
    scale_free: ClassVar[bool] = True
    converged: ClassVar[bool] = True
    adaptive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.reduction not in get_args(Reduction):
            raise ValueError(f"reduction must be one of none, qr, got {self.reduction!r}")

    def promise(self, rows: int, columns: int, dtype: torch.dtype) -> Promise:
        """See :class:`Promise`: (20 + 2 √n) eps, which is some twice what has been seen."""
        bound = (20.0 + 2.0 * columns**0.5) * torch.finfo(dtype).eps
        return Promise(bound, rank_cutoff(columns, dtype), bound)

    def work(self, rows: int, columns: int, dtype: torch.dtype, condition: float) -> Work:
        """See :class:`Work`; the same for every condition number."""
        reduced = self.reduction == "qr" and rows > columns
        return Work(1 + reduced, 1 + reduced, 0, int(self.check))

    def __call__(self, x: Tensor) -> Factor:
        """Return the factor of a tall stack ``x`` (..., m, n) with finite entries."""
        if self.reduction == "qr" and x.shape[-2] > x.shape[-1]:
            q, r = torch.linalg.qr(x)
            inner = SVD(check=self.check)(r)
            return Factor(q @ inner.U, rank=inner.rank)
        w, sigma, vh = torch.linalg.svd(x, full_matrices=False)
        kept = sigma > rank_cutoff(x.shape[-1], sigma.dtype) * sigma[..., :1]
        factor = Factor((w * kept.unsqueeze(-2)) @ vh, rank=kept.sum(dim=-1))
        if not self.check or x.device.type != "cpu" or is_traced(x) or bool(kept.all()):
            return factor
        u = factor.U
        gram = u.mH @ u
        defect = torch.linalg.matrix_norm(gram @ gram - gram)
        bad = defect > LARGEST_DEFECT * torch.finfo(sigma.dtype).eps * x.shape[-1] ** 0.5
        if not bool(bad.any()):
            return factor
        u = u.clone().reshape(-1, *u.shape[-2:])
        parts = (part.reshape(len(u), *part.shape[x.ndim - 2 :]) for part in (x, w, vh, kept))
        for index, (one, left, right, keep) in enumerate(zip(*parts, strict=True)):
            if bad.flatten()[index]:
                u[index] = _from_range(one, left[:, keep], right[keep])
        return factor._replace(U=u.reshape(x.shape))


def _from_range(x: Tensor, w: Tensor, vh: Tensor) -> Tensor:
    """The partial isometry of x from vectors that nearly span its range and its row space.

    One step of subspace iteration brings both to rounding: x v lies in the range whatever v has
    caught of the null space. Between the bases x is a square matrix of full rank.
    """
    left = torch.linalg.qr(_unit_columns(x @ vh.mH)).Q
    right = torch.linalg.qr(_unit_columns(x.mH @ w)).Q
    inner = SVD(check=False)(left.mH @ x @ right).U
    factor: Tensor = left @ inner @ right.mH
    return factor


def _unit_columns(x: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, dim=-2, keepdim=True)
    return x / norm
