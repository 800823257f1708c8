"""Estimates of the largest and the smallest eigenvalue of Gram matrices, by a few power steps.

Estimates, not bounds: they lie inside the spectrum. Who uses them leaves a margin and checks the
result. The start vector is fixed, so that equal matrices give equal estimates everywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polargrad.linalg.products import SpdFactor

__all__ = ["largest_eigenvalue", "largest_singular_value", "smallest_eigenvalue"]

# So many steps find either end to some 10 % even where n eigenvalues spread evenly over eight
# decades. Each is a product or two solves with one vector: 0.1 % of the work of an exact method.
LEAST_STEPS = 5
COLUMNS_PER_STEP = 128


def largest_eigenvalue(c: Tensor) -> Tensor:
    """Return an estimate from below of the largest eigenvalue of each positive matrix, (..., 1, 1).

    Example:
        >>> largest_eigenvalue(torch.diag(torch.tensor([4.0, 1.0]))).round(decimals=3)
        tensor([[4.]])
    """
    vector = _start(c)
    size = torch.ones_like(vector[..., :1, :])
    for _ in range(_steps(vector)):
        product = c @ vector
        size = _length(product)
        vector = product / size
    return size


def largest_singular_value(x: Tensor, steps: int) -> Tensor:
    """Return an estimate from below of the largest singular value of each matrix, (..., 1, 1).

    Example:
        >>> largest_singular_value(torch.diag(torch.tensor([2.0, -1.0])), 8).round(decimals=3)
        tensor([[2.]])
    """
    vector = _start(x)
    size = torch.ones_like(vector[..., :1, :])
    for _ in range(steps):
        product = x.mH @ (x @ vector)
        size = _length(product)
        vector = product / size
    return size.sqrt()


def smallest_eigenvalue(factor: SpdFactor) -> Tensor:
    """Return an estimate from above of the smallest eigenvalue of each matrix, (..., 1, 1).

    Example:
        >>> from polargrad.linalg.products import factorize
        >>> smallest_eigenvalue(factorize(torch.diag(torch.tensor([4.0, 1.0])))).round(decimals=3)
        tensor([[1.]])
    """
    lower = factor.lower
    vector = _start(lower)
    size = torch.ones_like(vector[..., :1, :])
    for _ in range(_steps(vector)):
        half = torch.linalg.solve_triangular(lower, vector, upper=False)
        solved = torch.linalg.solve_triangular(lower.mH, half, upper=True)
        size = _length(solved)
        vector = solved / size
    return 1.0 / size


def _steps(vector: Tensor) -> int:
    """How many power steps a vector of this length takes: close eigenvalues are closer in it."""
    return LEAST_STEPS + vector.shape[-2] // COLUMNS_PER_STEP


def _start(c: Tensor) -> Tensor:
    """A fixed vector with entries that look random: orthogonal to no eigenvector in practice."""
    index = torch.arange(1, c.shape[-1] + 1, dtype=c.real.dtype, device=c.device)
    vector = torch.sin(index.square() * 0.6180339887498949).to(c.dtype).unsqueeze(-1)
    return vector.expand(*c.shape[:-2], *vector.shape)


def _length(vector: Tensor) -> Tensor:
    """Its 2-norm, at least the smallest normal number: a zero matrix gives zero, not NaN."""
    length: Tensor = torch.linalg.vector_norm(vector, dim=(-2, -1), keepdim=True)
    return length.clamp_min(torch.finfo(length.dtype).tiny)
