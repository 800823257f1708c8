r"""Explicit preconditioners as norms.

A symmetric positive P, kept in a state or given, is the norm :math:`\|X\|_P = \langle X,
PX\rangle^{1/2}`. Its unit direction and dual norm are

.. math:: D = P^{-1}S/\|S\|_{P^{-1}}, \qquad \|S\|_{P^{-1}} = \langle S, P^{-1}S\rangle^{1/2},

so that the dual norm times the direction is the preconditioned signal P⁻¹S. Where P is singular,
P⁻¹ is its pseudo-inverse: a direction of which P knows nothing is not stepped along.

A state is accumulated and solved with in double precision, whatever the dtype of the gradients. The
squares of all float32 numbers, 2e-90 to 1e77, are in its range. So with gradients and S c times as
large, and no absolute ε, D is :math:`c^{-1/2}` times as large, the dual norm :math:`c^{1/2}` times,
and P⁻¹S the same; only these have to fit the dtype of the signal. Gradients of float64 may be
between about 1e-150 and 1e150.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from polargrad.geometry.base import Ascent, Norm, State, divided, inner, on_scaled

__all__ = ["Preconditioner", "square_stack"]


class Preconditioner(Norm):
    """A norm ⟨X, PX⟩^½: a subclass says what P and its inverse do to a stack."""

    @abstractmethod
    def _solve(self, S: Tensor, state: State) -> Tensor:
        """P⁻¹S of a stack whose largest entries are near 1, in double precision."""

    @abstractmethod
    def _apply(self, X: Tensor, state: State) -> Tensor:
        """PX of a stack whose largest entries are near 1, in double precision."""

    def _ascent(self, signal: Tensor, state: State | None) -> Ascent:
        known = self._known(signal, state)

        def unit(scaled: Tensor) -> tuple[Tensor, Tensor]:
            preconditioned = self._solve(scaled, known)
            dual_norm = inner(scaled, preconditioned).clamp(min=0.0).sqrt()
            direction = divided(preconditioned, dual_norm[..., None, None])
            return direction.to(scaled.dtype), dual_norm

        return on_scaled(signal, unit)

    def _norm(self, scaled: Tensor, state: State | None) -> Tensor:
        known = self._known(scaled, state)
        return inner(scaled, self._apply(scaled, known)).clamp(min=0.0).sqrt()

    def _known(self, x: Tensor, state: State | None) -> State:
        """The state, after checks that it is one for x."""
        if not self.accumulates:
            return {}
        if x.ndim != 3:
            raise ValueError(
                f"{self.name} takes a stack (B, m, n) beside its state, got shape {tuple(x.shape)}"
            )
        if state is None:
            raise ValueError(
                f"{self.name} keeps a state: pass what start() and accumulate() return, got None"
            )
        example = torch.empty_like(x, device="meta")  # no memory: shapes alone
        expected = {key: tuple(value.shape) for key, value in self.start(example).items()}
        found = {key: tuple(value.shape) for key, value in state.items()}
        if found != expected:
            raise ValueError(
                f"state of {self.name} for a stack {tuple(x.shape)} must hold {expected}, "
                f"got {found}"
            )
        return state


def square_stack(example: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """Zero matrices (B, size, size) for a stack like ``example``."""
    return torch.zeros(example.shape[0], size, size, dtype=dtype, device=example.device)
