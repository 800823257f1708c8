"""The Frobenius norm: gradient descent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from polargrad.geometry.base import Ascent, Norm, State, divided, frobenius, on_scaled

__all__ = ["Frobenius"]


@dataclass(frozen=True)
class Frobenius(Norm):
    r"""The Frobenius norm, which is its own dual: the steepest direction is the signal itself.

    .. math:: \|X\| = \Bigl(\sum_{ij} X_{ij}^2\Bigr)^{1/2} = \|X\|_*, \qquad D = S/\|S\|

    Example:
        >>> import torch
        >>> Frobenius().ascent(torch.tensor([[3.0, 4.0]]))
        Ascent(direction=tensor([[0.6000, 0.8000]]), dual_norm=tensor(5.))

    Source: gradient descent; in this table of norms, arXiv 2505.21799, section 3.
    """

    name: ClassVar[str] = "frobenius"

    def _ascent(self, signal: Tensor, state: State | None) -> Ascent:
        return on_scaled(signal, _unit)

    def _norm(self, scaled: Tensor, state: State | None) -> Tensor:
        return frobenius(scaled)


def _unit(scaled: Tensor) -> tuple[Tensor, Tensor]:
    size = frobenius(scaled)
    return divided(scaled, size[..., None, None]), size
