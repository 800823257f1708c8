"""The longest row, or column, as a norm: rows normalised one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from polargrad.geometry.base import Ascent, Norm, State, divided, frobenius, over_power_of_two
from polargrad.linalg.precision import double_dtype
from polargrad.linalg.scaling import times_power_of_two

__all__ = ["LargestColumn", "LargestRow", "normalised_rows"]


@dataclass(frozen=True)
class LargestRow(Norm):
    r"""The length of the longest row: its unit direction has every row normalised.

    .. math:: \|X\| = \max_i \|X_{i:}\|_2, \qquad \|S\|_* = \sum_i \|S_{i:}\|_2, \qquad
              D_{i:} = S_{i:}/\|S_{i:}\|_2

    A row that is zero stays zero. Every other row gets length 1, however small it is: each is
    scaled by its own exact power of two first. For embeddings and output layers, whose rows are
    tokens: equivariant under permutations of the rows and rotations of the columns. No products of
    matrices at all.

    Example:
        >>> LargestRow().ascent(torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, -2.0]]))
        Ascent(direction=tensor([[ 0.6000,  0.8000],
                [ 0.0000,  0.0000],
                [ 0.0000, -1.0000]]), dual_norm=tensor(7.))

    Source: arXiv 2605.18106 (row norm), without its eps.
    """

    name: ClassVar[str] = "largest_row"

    def _ascent(self, signal: Tensor, state: State | None) -> Ascent:
        direction, lengths = normalised_rows(signal)
        return Ascent(direction, lengths.sum(dim=-1).to(signal.real.dtype))

    def _norm(self, scaled: Tensor, state: State | None) -> Tensor:
        return _longest(scaled, dim=-1)


@dataclass(frozen=True)
class LargestColumn(Norm):
    r"""The length of the longest column: its unit direction has every column normalised.

    .. math:: \|X\| = \max_j \|X_{:j}\|_2, \qquad \|S\|_* = \sum_j \|S_{:j}\|_2, \qquad
              D_{:j} = S_{:j}/\|S_{:j}\|_2

    :class:`LargestRow` of the transpose.

    Example:
        >>> LargestColumn().ascent(torch.tensor([[3.0, 0.0], [4.0, -2.0]]))
        Ascent(direction=tensor([[ 0.6000,  0.0000],
                [ 0.8000, -1.0000]]), dual_norm=tensor(7.))

    Source: arXiv 2605.18106 (row norm in the column orientation), without its eps.
    """

    name: ClassVar[str] = "largest_column"

    def _ascent(self, signal: Tensor, state: State | None) -> Ascent:
        direction, lengths = normalised_rows(signal.mT)
        return Ascent(direction.mT, lengths.sum(dim=-1).to(signal.real.dtype))

    def _norm(self, scaled: Tensor, state: State | None) -> Tensor:
        return _longest(scaled, dim=-2)


def normalised_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return x with each row divided by its length, and the lengths in float64, (..., m).

    A matrix that is not finite becomes NaN, its lengths too; zero rows stay zero.
    """
    rows, exponent, finite = over_power_of_two(x.unsqueeze(-2))  # each row a matrix: (..., m, 1, n)
    length = frobenius(rows)[..., None, None]
    known = finite.all(dim=-3, keepdim=True)
    unit = torch.where(known, divided(rows, length), torch.nan)
    length = torch.where(known, times_power_of_two(length, exponent), torch.nan)
    return unit.squeeze(-2), length[..., 0, 0]


def _longest(x: Tensor, dim: int) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(x, dim=dim, dtype=double_dtype(x.dtype))
    return lengths.amax(dim=-1)
