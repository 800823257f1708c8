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
# ‖(UᴴU)² − UᴴU‖_F/√n and ‖A − UH‖_F/‖A‖_F in eps: a little above what a sound decomposition leaves.
LARGEST_ERROR = 36.0
# Singular values below so many cutoffs may be noise of the decomposition itself.
UNSURE = 100.0


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
    values costs nothing, the factor of a rank-deficient matrix is therefore checked, orthogonality
    and residual, and computed anew from bases of its range where need be. (QR has the same fault:
    of exactly rank-deficient integer matrices it gave a Q off by 4000 eps.)

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
        """See :class:`Promise`: (50 + 3 √n) eps, which is some twice what has been seen."""
        bound = (50.0 + 3.0 * columns**0.5) * torch.finfo(dtype).eps
        return Promise(bound, rank_cutoff(columns, dtype), bound)

    def work(self, rows: int, columns: int, dtype: torch.dtype, condition: float) -> Work:
        """See :class:`Work`; the same for every condition number."""
        reduced = self.reduction == "qr" and rows > columns
        return Work(1 + reduced, 1 + reduced, 0, int(self.check))

    def __call__(self, x: Tensor) -> Factor:
        """Return the factor of a tall stack ``x`` (..., m, n) with finite entries."""
        q = None
        small = x
        if self.reduction == "qr" and x.shape[-2] > x.shape[-1]:
            q, small = torch.linalg.qr(x)
        w, sigma, vh = torch.linalg.svd(small, full_matrices=False)
        cutoff = rank_cutoff(x.shape[-1], sigma.dtype) * sigma[..., :1]
        kept = sigma > cutoff
        u = (w * kept.unsqueeze(-2)) @ vh
        factor = Factor(u if q is None else q @ u, rank=kept.sum(dim=-1))
        if self.check and x.device.type == "cpu" and not is_traced(x):
            sure = sigma > UNSURE * cutoff
            return _checked(x, factor, (kept & ~sure).any(dim=-1))
        return factor


def _checked(x: Tensor, factor: Factor, unsure: Tensor) -> Factor:
    """Compute anew what came out wrong of the rank-deficient matrices, or with a rank of noise."""
    u, _, rank = factor
    assert rank is not None
    if bool(((rank == x.shape[-1]) & ~unsure).all()):
        return factor
    square, h = u.mH @ u, u.mH @ x
    norm = torch.linalg.matrix_norm
    eps = torch.finfo(x.dtype).eps
    wrong = unsure | (norm(square @ square - square) > LARGEST_ERROR * eps * x.shape[-1] ** 0.5)
    wrong |= norm(x - 0.5 * u @ (h + h.mH)) > LARGEST_ERROR * eps * norm(x)
    if not bool(wrong.any()):
        return factor
    mended, ranks = u.reshape(-1, *u.shape[-2:]).clone(), rank.flatten().clone()
    stack = x.reshape(mended.shape)
    for index in wrong.flatten().nonzero().flatten().tolist():
        mended[index], ranks[index] = _from_range(stack[index], mended[index])
    return Factor(mended.reshape(u.shape), rank=ranks.reshape(rank.shape))


def _from_range(x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """The partial isometry of x, and its rank, from one that nearly has its range.

    One step of subspace iteration brings range and row space to rounding: x v lies in the range
    whatever v has caught of the null space. Between their bases x is a small matrix of full rank,
    or nearly: what u had too much of is dropped.
    """
    values, vectors = torch.linalg.eigh(u.mH @ u)
    v = vectors[:, values > 0.5]
    left = torch.linalg.qr(_unit_columns(x @ v)).Q
    right = torch.linalg.qr(_unit_columns(x.mH @ left)).Q
    core = left.mH @ x @ right
    w, sigma, vh = torch.linalg.svd(core, full_matrices=False)
    kept = sigma > rank_cutoff(x.shape[-1], sigma.dtype) * sigma[:1]
    anew = left @ (w * kept) @ vh @ right.mH
    # Where u had too many directions their noise was in the bases: once more without them.
    return (anew, kept.sum()) if bool(kept.all()) else _from_range(x, anew)


def _unit_columns(x: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, dim=-2, keepdim=True)
    return x / norm.clamp_min(torch.finfo(norm.dtype).tiny)
