"""The polar factor, then rows normalised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from polargrad.geometry.base import Ascent, State
from polargrad.geometry.spectral import PolarGeometry
from polargrad.linalg.precision import double_dtype, rank_cutoff

__all__ = ["PolarThenRow"]


@dataclass(frozen=True)
class PolarThenRow(PolarGeometry):
    r"""Take the polar factor, then normalise its rows: every token moves by the same length.

    .. math:: U = \operatorname{polar}(S), \qquad D_{i:} = U_{i:}/\|U_{i:}\|_2, \qquad
              \nu = \langle S, U\rangle = \|S\|_*

    A composition of two directions and the steepest one of no single norm, so it has no ``norm``.
    The rows of D have length 1, those that are zero in S length 0; so have rows of U of at most
    :math:`\sqrt{\min(m, n)}\,\mathrm{eps}` times the longest, which are rounding. The
    ``dual_norm`` that it states is the nuclear norm ν of S, which has the degree of S. In the
    published rule ν is inside of the normalisation and cancels; here it multiplies what comes out
    of it, so that a power of it has an effect.

    Args:
        method, compute_dtype, side, damping, correct: of the polar factor; see
            :class:`polargrad.geometry.Spectral`.

    Raises:
        ValueError, TypeError: as :class:`polargrad.geometry.Spectral`.

    Example:
        >>> PolarThenRow().ascent(torch.tensor([[3.0, 0.0], [4.0, 0.0]]))
        Ascent(direction=tensor([[1., 0.],
                [1., 0.]]), dual_norm=tensor(5.))

    Source: arXiv 2605.18106 (hybrid, polar then row), with the factor ν outside.
    """

    name: ClassVar[str] = "polar_then_row"

    def _ascent(self, signal: Tensor, state: State | None) -> Ascent:
        factor, value = self.factor(signal)
        lengths = torch.linalg.vector_norm(
            factor, dim=-1, keepdim=True, dtype=double_dtype(factor.dtype)
        )
        cutoff = rank_cutoff(min(factor.shape[-2:]), factor.dtype)
        dropped = lengths <= cutoff * lengths.amax(dim=-2, keepdim=True)
        # Rounding of a factor in a row where the signal has nothing is not to become a direction.
        dropped = dropped | (signal == 0).all(dim=-1, keepdim=True)
        unit = factor / torch.where(lengths == 0, 1.0, lengths).to(factor.real.dtype)
        return Ascent(torch.where(dropped, torch.zeros_like(unit), unit), value)
