"""How far a step goes along its unit direction, for each matrix."""

from __future__ import annotations

import math
from typing import Literal, get_args

from torch import Tensor

Magnitude = Literal["nuclear", "unit", "original", "match_rms_adamw"]
MAGNITUDES: tuple[str, ...] = get_args(Magnitude)


def magnitude(kind: str, dual_norm: Tensor, rows: int, columns: int) -> Tensor | float:
    r"""Return the magnitude of a step along a unit direction of an m × n matrix.

    ========================  =============================================================
    ``"nuclear"``             the dual norm :math:`\|S\|_*`: PolarGrad
    ``"unit"``                1: normalised steepest descent, matrix sign descent
    ``"original"``            :math:`\sqrt{\max(1, m/n)}`: Muon as K. Jordan scales it
    ``"match_rms_adamw"``     :math:`0.2\sqrt{\max(m, n)}`: Muon as Moonlight scales it
    ========================  =============================================================

    Args:
        kind: one of the above.
        dual_norm: one number a matrix, any shape.
        rows: m, the outputs of a linear layer.
        columns: n, its inputs.

    Raises:
        ValueError: for another kind.

    Example:
        >>> import torch
        >>> magnitude("original", torch.tensor(7.0), 8, 2)
        2.0

    Source: arXiv 2505.21799; the documentation of torch.optim.Muon; arXiv 2502.16982 (Moonlight).
    """
    match kind:
        case "nuclear":
            return dual_norm
        case "unit":
            return 1.0
        case "original":
            return math.sqrt(max(1.0, rows / columns))
        case "match_rms_adamw":
            return 0.2 * math.sqrt(max(rows, columns))
    raise ValueError(f"magnitude must be one of {', '.join(MAGNITUDES)}, got {kind!r}")
