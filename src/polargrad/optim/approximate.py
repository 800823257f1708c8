"""A group's approximation in one step, if it has one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from polargrad.geometry import Geometry
from polargrad.optim.buffers import kept_of
from polargrad.optim.entries import Entry, parts_of
from polargrad.optim.rounds import KeptDirections
from polargrad.optim.stages import stage

__all__ = ["Approximate", "Step", "approximated", "kept_directions", "step_approximately"]

Approximate = KeptDirections


class Step(Protocol):
    """What :class:`polargrad.optim.matrix.Update` has for an approximation."""

    entries: list[Entry]

    def signal_of(self, entry: Entry) -> Tensor:
        """The signal of a matrix, or of a part of one."""

    def lengths(self, positions: list[int], dual: Tensor, shape: Sequence[int]) -> Tensor:
        """How far to go along each direction of a stack of matrices of this shape, (B,)."""

    def take(
        self,
        positions: list[int],
        entries: list[Entry],
        direction: Tensor,
        scale: Tensor,
        counts: Tensor | None,
    ) -> None:
        """Take the steps of a stack of matrices, or of parts of equal shape."""


def kept_directions(
    group: Mapping[str, Any], params: Sequence[Tensor], state: Mapping[Tensor, dict[str, Any]]
) -> list[Tensor] | None:
    """The directions of parameters that are used again, None where none are."""
    return [kept_of(group, p, state[p]) for p in params] if _in_rounds(group) else None


def approximated(
    group: dict[str, Any],
    number: int,
    form: Geometry,
    params: Sequence[Tensor],
    entries: Sequence[Entry],
    state: Mapping[Tensor, dict[str, Any]],
    gate: Tensor | None,
) -> Approximate | None:
    """Return what approximates the directions of a step, None where nothing does.

    Args: as :class:`polargrad.optim.rounds.KeptDirections`.
    """
    if _in_rounds(group):
        return KeptDirections(group, number, form, params, entries, state, gate)
    return None


def step_approximately(step: Step, approximate: Approximate) -> None:
    """Step the matrices whose directions are approximated."""
    with stage("direction"):
        duals = approximate.find(step.signal_of)
    with stage("update"):
        for position, dual in duals.items():
            entry = step.entries[position]
            scale = step.lengths([position], dual, entry.target.shape)
            for part in parts_of([entry]):
                direction = approximate.direction(position, part)
                step.take([position], [part], direction, scale, None)


def _in_rounds(group: Mapping[str, Any]) -> bool:
    """Whether directions are kept: with every = 1 all are found in every step."""
    data = group["approximation"]
    return data is not None and data["name"] == "rounds" and data["every"] > 1
