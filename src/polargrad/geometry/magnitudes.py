"""How far a step goes along its unit direction, for each matrix."""

from __future__ import annotations

import math
from typing import Literal, get_args

from torch import Tensor

__all__ = ["MAGNITUDES", "Magnitude", "magnitude"]

Magnitude = Literal[
    "dual_norm",
    "unit",
    "original",
    "match_rms_adamw",
    "spectral_unclamped",
    "largest_dimension",
]
MAGNITUDES: tuple[str, ...] = get_args(Magnitude)


def magnitude(
    kind: str, dual_norm: Tensor | float, rows: int, columns: int, exponent: float = 1.0
) -> Tensor | float:
    r"""Return the magnitude of a step along a unit direction of an m × n matrix.

    ========================  =============================================================
    ``"dual_norm"``           :math:`\|S\|_*^\alpha`: PolarGrad with α = 1
    ``"unit"``                1: normalised steepest descent, matrix sign descent
    ``"original"``            :math:`\sqrt{\max(1, m/n)}`: Muon as K. Jordan scales it
    ``"match_rms_adamw"``     :math:`0.2\sqrt{\max(m, n)}`: Muon as Moonlight scales it
    ``"spectral_unclamped"``  :math:`\sqrt{m/n}`: the spectral condition on features, Scion
    ``"largest_dimension"``   :math:`\sqrt{\max(m, n)}`: "spectral" of Emerging-Optimizers
    ========================  =============================================================

    With the dual norm the step has the degree α of the signal: α = 1 scales with it, α = 0 is
    ``"unit"``. A signal of zero has the direction zero, whatever its magnitude: 0⁰ = 1.

    Args:
        kind: one of the above.
        dual_norm: one number a matrix, any shape; or the number.
        rows: m, the outputs of a linear layer.
        columns: n, its inputs.
        exponent: α, at least 0; of the dual norm alone.

    Raises:
        ValueError: for another kind, an exponent below 0, or one of a kind that has none.

    Example:
        >>> import torch
        >>> magnitude("original", torch.tensor(7.0), 8, 2)
        2.0
        >>> magnitude("dual_norm", torch.tensor([9.0, 0.0]), 8, 2, exponent=0.5)
        tensor([3., 0.])

    Source: arXiv 2505.21799 and 2605.18106 (α); the documentation of torch.optim.Muon; arXiv
    2502.16982 (Moonlight); arXiv 2310.17813 (spectral condition).
    """
    if kind not in MAGNITUDES:
        raise ValueError(f"magnitude must be one of {', '.join(MAGNITUDES)}, got {kind!r}")
    if not 0.0 <= exponent < math.inf:
        raise ValueError(f"exponent must be at least 0 and finite, got {exponent}")
    if kind == "dual_norm":
        return dual_norm if exponent == 1.0 else dual_norm**exponent
    if exponent != 1.0:
        raise ValueError(f"exponent is for magnitude 'dual_norm', got {exponent} for {kind!r}")
    return _of_shape(kind, rows, columns)


def _of_shape(kind: str, rows: int, columns: int) -> float:
    """The magnitudes that do not look at the signal."""
    match kind:
        case "unit":
            return 1.0
        case "original":
            return math.sqrt(max(1.0, rows / columns))
        case "match_rms_adamw":
            return 0.2 * math.sqrt(max(rows, columns))
        case "spectral_unclamped":
            return math.sqrt(rows / columns)
    return math.sqrt(max(rows, columns))
