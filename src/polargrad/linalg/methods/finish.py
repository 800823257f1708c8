"""The end of the exact iterations: check that all singular values have arrived, and polish."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from polargrad.linalg.methods.outcome import Factor, Work
from polargrad.linalg.products import gram

__all__ = ["LAST_STEP", "finish", "last_deviation"]

# A defect of 4 eps √n is what the iterations leave by rounding alone; below it nothing is gained.
ENOUGH = 4.0
# Each step of order three takes a singular value of 0.5 to 0.8 to 0.98 to 1: where three are not
# enough, or a value is above 1.3, the estimate of the smallest singular value was far off.
MOST_STEPS = 3
# What the last step takes: the defect, its square and the product with U; one look at its size.
LAST_STEP = Work(products=3, synchronizations=1)
LARGEST_DEFECT = 0.75


def last_deviation(columns: int, dtype: torch.dtype) -> float:
    """How far from 1 singular values may be for one step of order three to end it, if all are."""
    return float(torch.finfo(dtype).eps ** (1.0 / 3.0) / (2.0 * columns**0.5))


def finish(x: Tensor, u: Tensor, steps: int, exact: Callable[[Tensor], Factor]) -> Factor:
    r"""Bring the singular values of u to 1, and start anew with ``exact`` where they are too far.

    .. math:: E = I - U^{\mathsf H}U, \qquad U \leftarrow U\left(I + \tfrac12 E\right)
              \quad\text{or}\quad U \leftarrow U\left(I + \tfrac12 E + \tfrac38 E^2\right)

    One host synchronization a step. Most calls take one step, or none.

    Args:
        x: the matrices, (m, n) or (B, m, n), of full rank.
        u: their factors but for singular values that are nearly 1.
        steps: how many steps were taken so far.
        exact: a method for the matrices that are not nearly done.
    """
    fused = torch.addmm if u.ndim == 2 else torch.baddbmm
    columns = u.shape[-1]
    eps = torch.finfo(x.dtype).eps
    rank = torch.full(u.shape[:-2], columns, dtype=torch.int64, device=x.device)
    for attempt in range(MOST_STEPS + 1):
        # I − UᴴU tells whether all singular values have arrived, and is half of a step.
        defect = -gram(u)
        defect.diagonal(dim1=-2, dim2=-1).add_(1.0)
        size = torch.linalg.matrix_norm(defect).nan_to_num(torch.inf)
        largest = float(size.amax())
        if largest <= ENOUGH * eps * columns**0.5:
            break
        far = LARGEST_DEFECT * columns**0.5 if attempt < MOST_STEPS else eps ** (1.0 / 3.0)
        if largest > far:
            lost = size > far
            anew = exact(x[lost])
            assert anew.rank is not None  # exact methods tell the rank
            u = u.masked_scatter(lost[..., None, None], anew.U)
            rank = rank.masked_scatter(lost, anew.rank)
            # Those are done: for them the step below is none.
            defect = defect.masked_fill(lost[..., None, None], 0.0)
            size = size.masked_fill(lost, 0.0)
            largest = float(size.amax())
        steps += 1
        if largest > eps**0.5:
            defect = fused(defect, defect, defect, alpha=0.75)
        u = fused(u, u, defect, alpha=0.5)
        if largest <= eps ** (1.0 / 3.0):
            break
    return Factor(u, steps, rank)
