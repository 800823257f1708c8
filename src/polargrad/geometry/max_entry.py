"""The largest entry as a norm: sign descent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from polargrad.geometry.base import Ascent, Norm, State, on_scaled

__all__ = ["MaxEntry"]


@dataclass(frozen=True)
class MaxEntry(Norm):
    r"""The largest entry in size: its dual is the sum of all, its unit direction their signs.

    .. math:: \|X\| = \max_{ij}|X_{ij}|, \qquad \|S\|_* = \sum_{ij}|S_{ij}|, \qquad
              D = \operatorname{sgn}(S)

    Example:
        >>> MaxEntry().ascent(torch.tensor([[3.0, -4.0, 0.0]]))
        Ascent(direction=tensor([[ 1., -1.,  0.]]), dual_norm=tensor(7.))

    Source: J. Bernstein et al., *signSGD* (2018); with the dual norm, arXiv 2505.21799, section 3.
    """

    name: ClassVar[str] = "max_entry"

    def _ascent(self, signal: Tensor, state: State | None) -> Ascent:
        # The signs of the signal itself: an entry that vanishes beside the largest has one too.
        return on_scaled(signal, lambda scaled: (torch.sgn(signal), _sum(scaled)))

    def _norm(self, scaled: Tensor, state: State | None) -> Tensor:
        return scaled.abs().amax(dim=(-2, -1))


def _sum(x: Tensor) -> Tensor:
    total: Tensor = x.abs().sum(dim=(-2, -1), dtype=torch.float64)
    return total
