"""A group's approximation in one step, if it has one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from polargrad.geometry import Ascent, Geometry, State
from polargrad.optim.approximations import Sketch, approximation
from polargrad.optim.buffers import kept_of, signal_dtype
from polargrad.optim.entries import Entry, parts_of
from polargrad.optim.rounds import KeptDirections
from polargrad.optim.routing.views import View
from polargrad.optim.shared_step import reads_of
from polargrad.optim.signal import signal_from
from polargrad.optim.sketches import Sketches, start_sketch
from polargrad.optim.stages import stage

__all__ = ["Approximate", "Step", "approximated", "kept_directions", "step_approximately"]


class Approximate(Protocol):
    """What a step does instead of finding exact directions.

    Attributes:
        exact: the positions of the matrices whose direction is found exactly all the same.
    """

    exact: Sequence[int]

    def find(self, signal: Callable[[Entry], Tensor]) -> dict[int, Tensor]:
        """Find the directions of the other matrices; return ⟨S, D⟩ of each, (1,).

        Args:
            signal: returns the signal of a matrix, or of a part of it.
        """

    def direction(self, position: int, part: Entry) -> Tensor:
        """What was found of a matrix in a part of it, (1, a, b), as new memory."""

    def taken(self, position: int, part: Entry) -> Tensor:
        """The direction that the last step took of a matrix, in a part of it, (a, b)."""

    def keep(self, positions: Sequence[int], entries: Sequence[Entry], directions: Tensor) -> None:
        """Keep the exact directions of a stack of matrices, or of parts of them."""

    def close(self) -> None:
        """End the step."""


class Step(Protocol):
    """What :class:`polargrad.optim.matrix.Update` has for an approximation."""

    group: dict[str, Any]
    geometry: Geometry
    entries: list[Entry]

    def ascent_of(self, signal: Tensor, state: State | None) -> Ascent:
        """Unit directions and dual norms of a stack of signals."""

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
    step: Step,
    number: int,
    params: Sequence[Tensor],
    views: Sequence[View],
    state: Mapping[Tensor, dict[str, Any]],
    gate: Tensor | None,
) -> Approximate | None:
    """Return what approximates the directions of a step, None where nothing does.

    Args:
        step: with its group and its matrices.
        number: the position of the group.
        params, views: the parameters that are stepped, and what is a matrix in each.
        state: of the optimizer; what is missing in it is begun.
        gate: as for :func:`polargrad.optim.matrix.matrix_update`.
    """
    group, entries = step.group, step.entries
    if _in_rounds(group):
        return KeptDirections(group, number, step.geometry, params, entries, state, gate)
    found = approximation(group["approximation"])
    if not isinstance(found, Sketch):
        return None
    for p, view in zip(params, views, strict=True):
        start_sketch(found, signal_dtype(group, p), p, view, state[p])
    return Sketches(found, entries, [state[p] for p in params], step.ascent_of, gate)


def step_approximately(step: Step, approximate: Approximate) -> None:
    """Step the matrices whose directions are approximated."""
    reads = reads_of(step.group, step.geometry)

    def signal(entry: Entry) -> Tensor:
        return signal_from(step.group, [getattr(entry, key).matrix() for key in reads])

    with stage("direction"):
        duals = approximate.find(signal)
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
