"""The rank rule of the iterative methods: what is zero to rounding stays zero in the factor."""

from __future__ import annotations

import torch
from torch import Tensor

from polargrad.linalg.methods.svd import SVD
from polargrad.linalg.precision import rank_cutoff


def without_null_space(x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Replace u by the partial isometry of an SVD for every x that is not clearly of full rank.

    Where x is zero to rounding, rounding errors have been blown up to singular values anywhere in
    [0, 1]. A Cholesky factorization of H − 10τ‖H‖_F I proves that there is no such direction; a
    tenfold cutoff, because H itself is known to a few eps ‖H‖ only.
    """
    h = u.mH @ x
    h = 0.5 * (h + h.mH)
    shift = 10.0 * rank_cutoff(x.shape[-1], x.real.dtype) * torch.linalg.matrix_norm(h)
    identity = torch.eye(h.shape[-1], dtype=h.dtype, device=h.device)
    _, info = torch.linalg.cholesky_ex(h - shift[..., None, None] * identity)
    suspect = info != 0
    rank = torch.full(suspect.shape, x.shape[-1], dtype=torch.int64, device=x.device)
    if not bool(suspect.any()):
        return u, rank
    exact = SVD()(x[suspect])
    assert exact.rank is not None  # the SVD always tells
    u = u.clone().masked_scatter_(suspect[..., None, None], exact.U)
    return u, rank.masked_scatter_(suspect, exact.rank)
