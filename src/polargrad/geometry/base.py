r"""What a geometry is: for a signal, a unit direction and the dual norm.

For a norm with dual norm :math:`\|\cdot\|_*` the *unit direction* of a signal S is

.. math:: D = \arg\max_{\|D\| \le 1} \langle S, D\rangle, \qquad \langle S, D\rangle = \|S\|_*,

and :math:`\|S\|_* D` is the gradient that the norm sees. Whether a matrix is finite is not looked
at on the host: one that is not gives NaN and leaves its neighbours alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from polargrad.linalg import Method
from polargrad.linalg.precision import double_dtype, working_dtype
from polargrad.linalg.preparation import check_matrix, prepare
from polargrad.linalg.scaling import times_power_of_two

__all__ = [
    "Ascent",
    "Geometry",
    "Norm",
    "State",
    "divided",
    "frobenius",
    "inner",
    "on_scaled",
    "over_power_of_two",
]

# Every tensor of a state has one entry a matrix: its first dimension is that of the stack. Sums of
# squares and products are float64, in which those of float32 gradients neither overflow nor vanish.
State = dict[str, Tensor]


class Ascent(NamedTuple):
    """A unit direction and the dual norm of the signal, for each matrix of a stack.

    Attributes:
        direction: (B, m, n), in at least float32.
        dual_norm: (B,), real, in at least float32.
    """

    direction: Tensor
    dual_norm: Tensor


class Geometry(ABC):
    """A description of how a signal becomes a unit direction, with functions that change nothing.

    A subclass is a frozen dataclass. Stacks are (B, m, n); where there is no state, (..., m, n) of
    any batch shape. Half precision is worked on in float32.
    """

    name: ClassVar[str]
    accumulates: ClassVar[bool] = False
    # Whether the first gradient only begins the state, and no signal should be taken from it.
    begins_with_first: ClassVar[bool] = False

    @property
    def uses_polar(self) -> bool:
        """Whether a polar factor is computed by a method that can be chosen."""
        return False

    def with_polar(self, method: Method, compute_dtype: torch.dtype | None) -> Self:
        """Return this geometry with that method of the polar factor, itself where it has none."""
        return self

    def workspace(self, rows: int, columns: int) -> int:
        """Bytes that the direction of a matrix needs for square matrices of its longer side."""
        return 0

    def start(self, example: Tensor) -> State:
        """Return the state before the first gradient, for a stack like ``example`` (B, m, n)."""
        return {}

    def accumulate(self, state: State, gradient: Tensor) -> State:
        """Return the state after a stack of gradients, as new tensors."""
        return {}

    def ascent(self, signal: Tensor, state: State | None = None) -> Ascent:
        """Return unit direction and dual norm of a stack of signals.

        Zero for a zero signal; NaN for a matrix that is not finite, and for no other.

        Raises:
            TypeError: if the signal is no floating-point tensor.
            ValueError: if it has fewer than two dimensions, or a state is missing or of another
                shape.
        """
        check_matrix(signal, "signal")
        working = signal.to(working_dtype(signal.dtype))
        if working.numel() == 0:
            return Ascent(torch.zeros_like(working), working.real.new_zeros(working.shape[:-2]))
        return self._ascent(working, state)

    @abstractmethod
    def _ascent(self, signal: Tensor, state: State | None) -> Ascent:
        """The same for a stack that is not empty, in at least float32."""

    def dual_norm(self, S: Tensor, state: State | None = None) -> Tensor:
        """Return the dual norm of each matrix, (B,)."""
        return self.ascent(S, state).dual_norm

    def unit_direction(self, S: Tensor, state: State | None = None) -> Tensor:
        """Return the unit direction of each matrix, (B, m, n)."""
        return self.ascent(S, state).direction

    def sharp(self, S: Tensor, state: State | None = None) -> Tensor:
        """Return the dual norm times the unit direction, (B, m, n): the gradient the norm sees."""
        direction, dual_norm = self.ascent(S, state)
        return direction * dual_norm[..., None, None]


class Norm(Geometry):
    """A geometry whose unit direction is that of one norm, which can be evaluated."""

    def norm(self, X: Tensor, state: State | None = None) -> Tensor:
        """Return the norm of each matrix, (B,), in at least float32; NaN where X is not finite.

        Raises:
            TypeError, ValueError: as :meth:`ascent`.
        """
        check_matrix(X, "X")
        working = X.to(working_dtype(X.dtype))
        if working.numel() == 0:
            return working.real.new_zeros(working.shape[:-2])
        scaled, exponent, finite = over_power_of_two(working)
        value = self._norm(scaled, state)[..., None, None].to(torch.float64)
        value = times_power_of_two(value, exponent).to(working.real.dtype)
        return torch.where(finite, value, torch.nan)[..., 0, 0]

    @abstractmethod
    def _norm(self, scaled: Tensor, state: State | None) -> Tensor:
        """The norms of finite matrices whose largest entry is in [1/2, 1) or zero."""


def inner(x: Tensor, y: Tensor) -> Tensor:
    """Return Re⟨x, y⟩ of each matrix, (...): rows in their own dtype, their sum in float64."""
    rows = (x.conj() * y).real.sum(dim=-1)
    total: Tensor = rows.sum(dim=-1, dtype=torch.float64)
    return total


def on_scaled(signal: Tensor, unit: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Ascent:
    """Call ``unit`` on the signal divided by exact powers of two; return what it is of the signal.

    ``unit`` takes finite matrices whose largest entry is in [1/2, 1), or zero, and returns unit
    directions and dual norms: so neither 1e-30 nor 1e30 is lost on the way. A dual norm is
    multiplied by its power in float64, and overflows only where its value does.
    """
    scaled, exponent, finite = over_power_of_two(signal)
    direction, dual_norm = unit(scaled)
    dual_norm = times_power_of_two(dual_norm[..., None, None].to(torch.float64), exponent)
    return Ascent(
        torch.where(finite, direction, torch.nan),
        torch.where(finite, dual_norm.to(signal.real.dtype), torch.nan)[..., 0, 0],
    )


def over_power_of_two(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return x over exact powers of two, their exponents, and which matrices are finite.

    x is not empty, the exponents and the verdicts have the shape (..., 1, 1). The largest entry of
    a matrix is then in [1/2, 1), or zero; a matrix that is not finite is zero.
    """
    scaled, exponent, finite = prepare(x, "propagate")
    # As prepare promises of what is not empty, where it does not raise.
    assert isinstance(exponent, Tensor)
    assert finite is not None
    return scaled, exponent, finite


def frobenius(x: Tensor) -> Tensor:
    """Return the Frobenius norm of each matrix, summed in double precision, (...)."""
    size: Tensor = torch.linalg.vector_norm(x, dim=(-2, -1), dtype=double_dtype(x.dtype))
    return size


def divided(x: Tensor, by: Tensor) -> Tensor:
    """Return x divided by real numbers that broadcast; zero where they are zero."""
    zero = by == 0
    quotient = x / torch.where(zero, torch.ones_like(by), by).to(x.real.dtype)
    return torch.where(zero, torch.zeros_like(quotient), quotient)
