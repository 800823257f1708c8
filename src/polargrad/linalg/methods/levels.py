"""Adaptive methods on stacks: matrices of like condition number go through one schedule together.

The schedule follows from the matrix's own lower bound alone, rounded down to a few values a decade:
a matrix is treated alike alone and in a stack, and a bad neighbour cannot change its result.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from polargrad.linalg.methods.outcome import Factor
from polargrad.linalg.products import lies_transposed

__all__ = ["by_level", "is_better_looped", "level_of", "one_by_one", "stacked"]

# From so many columns on a stack on a CPU is faster matrix by matrix: one matrix has both cores to
# itself in every product, and the blocked factorizations of products.py.
LEAST_LOOP_COLUMNS = 128


def is_better_looped(x: Tensor, columns: int = LEAST_LOOP_COLUMNS) -> bool:
    """Whether a stack is to be taken matrix by matrix rather than in batched calls."""
    if torch.compiler.is_compiling():  # a loop would fix the number of matrices
        return False
    return x.ndim > 2 and x.device.type == "cpu" and x.shape[-1] >= columns and x.shape[0] > 0


def one_by_one(method: Callable[[Tensor], Factor], x: Tensor) -> Factor:
    """Call a method for each matrix of a stack (B, m, n), B ≥ 1, and stack what comes out."""
    factors = [method(one) for one in x]
    ranks = [factor.rank for factor in factors if factor.rank is not None]
    return Factor(
        stacked([factor.U for factor in factors]),
        max(factor.steps for factor in factors),
        torch.stack(ranks) if len(ranks) == len(factors) else None,
    )


def stacked(matrices: list[Tensor]) -> Tensor:
    """A stack of matrices that lie as they do."""
    if all(map(lies_transposed, matrices)):
        return torch.stack([matrix.mT for matrix in matrices]).mT
    return torch.stack(matrices)


def by_level(
    function: Callable[..., Factor], lower: Tensor, per_decade: int, *stacks: Tensor
) -> Factor:
    r"""Call ``function(level, *stacks)`` for the matrices of each level, and put results together.

    The level of a matrix is :math:`\lceil -p \log_{10} l \rceil` for its lower bound l and p
    levels a decade, or None where l is zero or not a number. One host synchronization.

    Args:
        function: of the level and the stacks, cut down to its matrices.
        lower: l for each matrix, (..., 1, 1).
        per_decade: p.
        stacks: the matrices (m, n) or (B, m, n), and whatever else there is one of for each.
    """
    levels = [level_of(value, per_decade) for value in lower.flatten().tolist()]
    if len(set(levels)) == 1:
        return function(levels[0], *stacks)
    matrices = stacks[0]
    u = torch.empty_like(matrices, memory_format=torch.contiguous_format)
    rank = torch.empty(len(levels), dtype=torch.int64, device=matrices.device)
    steps = 0
    for level in sorted(set(levels), key=lambda level: -1 if level is None else level):
        where = [index for index, of in enumerate(levels) if of == level]
        index = torch.tensor(where, device=matrices.device)
        part = function(level, *(stack[index] for stack in stacks))
        assert part.rank is not None  # adaptive methods tell the rank
        u[index] = part.U
        rank[index] = part.rank
        steps = max(steps, part.steps)
    return Factor(u, steps, rank)


def level_of(lower: float, per_decade: int) -> int | None:
    """The level of a lower bound, None where it is zero or not a number."""
    if not lower > 0.0:
        return None
    return max(1, math.ceil(-per_decade * math.log10(lower)))
