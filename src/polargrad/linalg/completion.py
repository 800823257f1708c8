"""Completing a partial isometry: partners for the directions in which a matrix is zero."""

from __future__ import annotations

import torch
from torch import Tensor

from polargrad.errors import PolarGradError
from polargrad.linalg.methods import Method, label
from polargrad.linalg.methods.outcome import Factor
from polargrad.linalg.preparation import is_traced

__all__ = ["completed"]


def completed(factor: Factor, method: Method) -> Factor:
    """Return the factor with orthonormal columns (rows of a wide matrix) for every matrix.

    What the factor has is kept; directions that it maps to zero are mapped to orthonormal vectors
    outside of its range, the same ones in every run.

    Raises:
        ValueError: if the method does not find the rank.
    """
    if is_traced(factor.U):
        raise PolarGradError(
            "complete=True looks at ranks, which torch.compile, torch.export and torch.func.vmap "
            "cannot: complete outside of them"
        )
    if factor.rank is None:
        raise ValueError(
            f"complete=True needs a method that finds the rank, got {label(method)!r}: "
            "choose svd, gram_eigh, mixed_qdwh, newton, qdwh or zolotarev"
        )
    u = factor.U
    if bool((factor.rank == min(u.shape[-2:])).all()):
        return factor
    wide = u.shape[-2] < u.shape[-1]
    tall = (u.mH if wide else u).detach()
    stack = torch.stack([_complete(one) for one in tall.reshape(-1, *tall.shape[-2:])])
    stack = stack.reshape(tall.shape)
    full = (factor.rank == min(u.shape[-2:]))[..., None, None]
    return factor._replace(U=torch.where(full, u, stack.mH.resolve_conj() if wide else stack))


def _complete(u: Tensor) -> Tensor:
    """Complete one tall partial isometry."""
    values, vectors = torch.linalg.eigh(u.mH @ u)
    null = vectors[:, values < 0.5]
    if null.shape[1] == 0:
        return u
    present = u @ vectors[:, values >= 0.5]
    generator = torch.Generator(device=u.device).manual_seed(0)
    others = torch.randn(len(u), null.shape[1], dtype=u.dtype, device=u.device, generator=generator)
    # Against the range twice: once leaves what rounding puts back into it.
    for _ in range(2):
        others = others - present @ (present.mH @ others)
        others = torch.linalg.qr(others).Q
    completed: Tensor = u + others @ null.mH
    return completed
