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

__all__ = ["by_level"]


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
    levels = [_level(value, per_decade) for value in lower.flatten().tolist()]
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


def _level(lower: float, per_decade: int) -> int | None:
    if not lower > 0.0:
        return None
    return max(1, math.ceil(-per_decade * math.log10(lower)))
