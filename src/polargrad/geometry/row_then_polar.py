"""Rows normalised, then the polar factor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from polargrad.geometry.base import Ascent, State
from polargrad.geometry.rows import normalised_rows
from polargrad.geometry.spectral import PolarGeometry

__all__ = ["RowThenPolar"]


@dataclass(frozen=True)
class RowThenPolar(PolarGeometry):
    r"""Normalise the rows, then take the polar factor: every token counts alike in the factor.

    .. math:: W_{i:} = S_{i:}/\|S_{i:}\|_2, \qquad D = \operatorname{polar}(W), \qquad
              \nu = \langle W, D\rangle = \|W\|_*

    A composition of two directions and the steepest one of no single norm, so it has no ``norm``.
    D has spectral norm 1. The ``dual_norm`` that it states is the nuclear norm ν of W, not
    ⟨S, D⟩: it is the same for c·S, c > 0, between :math:`\sqrt m` and :math:`\sqrt{m\,\min(m, n)}`
    for m rows that are not zero. So a step with the magnitude ν does not shrink with the gradient.

    Args:
        method, compute_dtype, side, damping, correct: of the polar factor; see
            :class:`polargrad.geometry.Spectral`.

    Raises:
        ValueError, TypeError: as :class:`polargrad.geometry.Spectral`.

    Example:
        >>> import torch
        >>> RowThenPolar().ascent(torch.diag(torch.tensor([3.0, -0.1]))).dual_norm
        tensor(2.)

    Source: arXiv 2605.18106 (hybrid, row then polar).
    """

    name: ClassVar[str] = "row_then_polar"

    def _ascent(self, signal: Tensor, state: State | None) -> Ascent:
        normalised, _ = normalised_rows(signal)
        return self.factor(normalised)
