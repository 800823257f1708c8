"""A geometry in which adding one vector to all rows counts as nothing."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
from torch import Tensor

from polargrad.geometry.base import Ascent, Geometry, State, frobenius, over_power_of_two
from polargrad.geometry.spectral import Spectral
from polargrad.linalg import Method
from polargrad.linalg.precision import double_dtype
from polargrad.linalg.scaling import times_power_of_two

__all__ = ["Centred"]


@dataclass(frozen=True)
class Centred(Geometry):
    r"""Another geometry on matrices whose columns have mean zero.

    .. math:: D = \Pi\,D_{\text{inner}}(\Pi S), \qquad \|S\|_* = \|\Pi S\|_{*,\text{inner}}, \qquad
              \Pi = I - \tfrac1m \mathbf 1\mathbf 1^{\mathsf T}

    Adding one vector to all rows of an output layer leaves its softmax as it was, and so do equal
    shifts of all experts of a router: such a part of a signal is noise, of which Π takes off the
    mean over the rows. D is the steepest direction in the quotient norm
    :math:`\min_v \|X - \mathbf 1 v^{\mathsf T}\|_{\text{inner}}`, which has no formula for every
    inner norm, so there is no ``norm``.

    A signal that is constant down its columns, to rounding (:math:`\|\Pi S\|_F \le
    \mathrm{eps}\,\|S\|_F`), has the direction zero.

    Args:
        inner: a geometry without a state.

    Raises:
        TypeError: if ``inner`` is not a geometry.
        ValueError: if ``inner`` keeps a state.

    Example:
        >>> from polargrad.geometry import MaxEntry
        >>> Centred(MaxEntry()).ascent(torch.tensor([[5.0], [6.0], [7.0], [8.0]]))
        Ascent(direction=tensor([[-1.],
                [-1.],
                [ 1.],
                [ 1.]]), dual_norm=tensor(4.))

    Source: arXiv 2605.18106 (centred rows).
    """

    inner: Geometry = field(default_factory=Spectral)

    name: ClassVar[str] = "centred"

    def __post_init__(self) -> None:
        if not isinstance(self.inner, Geometry):
            raise TypeError(f"inner must be a geometry, got {type(self.inner).__name__}")
        if self.inner.accumulates:
            raise ValueError(f"inner must keep no state, got {self.inner.name!r}")

    @property
    def uses_polar(self) -> bool:
        """Whether the inner geometry uses a method of the polar factor."""
        return self.inner.uses_polar

    def with_polar(self, method: Method, compute_dtype: torch.dtype | None) -> Self:
        """Return this geometry with that method in the inner one."""
        return dataclasses.replace(self, inner=self.inner.with_polar(method, compute_dtype))

    def workspace(self, rows: int, columns: int) -> int:
        """That of the inner geometry."""
        return self.inner.workspace(rows, columns)

    def _ascent(self, signal: Tensor, state: State | None) -> Ascent:
        direction, dual_norm = self.inner.ascent(_centred(signal))
        return Ascent(_without_mean(direction), dual_norm)


def _centred(signal: Tensor) -> Tensor:
    """ΠS in the unit of S, zero where that is rounding, NaN where S is not finite."""
    scaled, exponent, finite = over_power_of_two(signal)
    # Twice: the first time the mean itself was rounded to the dtype of the entries.
    x = _without_mean(_without_mean(scaled))
    rounding = frobenius(x) <= torch.finfo(x.dtype).eps * frobenius(scaled)
    x = torch.where(rounding[..., None, None], torch.zeros_like(x), x)
    return torch.where(finite, times_power_of_two(x, exponent), torch.nan)


def _without_mean(x: Tensor) -> Tensor:
    """x less the mean over its rows, which is summed in double precision."""
    return x - x.mean(dim=-2, keepdim=True, dtype=double_dtype(x.dtype)).to(x.dtype)
