"""Directions that are found in rounds: whose turn it is, and the last direction of the others."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polargrad.distributed.assignment import assign
from polargrad.geometry import Geometry
from polargrad.optim.buffers import signal_dtype
from polargrad.optim.elementwise import store
from polargrad.optim.entries import Entry, by_device
from polargrad.optim.inner_products import inner_product
from polargrad.optim.routing.views import logical_shapes
from polargrad.optim.shared_step import direction_cost
from polargrad.optim.shared_sums import sums

__all__ = ["COUNT", "KeptDirections", "turns"]

# How many steps a parameter has taken, on the host: whose turn it is must not wait for a device.
COUNT = "steps_in_rounds"


class KeptDirections:
    """The kept directions of a group in one step.

    Args:
        group: with ``approximation`` the data of :class:`polargrad.optim.approximations.Rounds`.
        number: the position of the group.
        form: what its geometry describes.
        params: the parameters that are stepped.
        entries: their logical matrices, with their kept directions.
        state: of the optimizer; what is missing in it is begun.
        gate: as for :func:`polargrad.optim.matrix.matrix_update`.

    Attributes:
        exact: the positions of the matrices whose direction is found in this step.
        others: those of the others.
    """

    def __init__(
        self,
        group: dict[str, Any],
        number: int,
        form: Geometry,
        params: Sequence[Tensor],
        entries: Sequence[Entry],
        state: Mapping[Tensor, dict[str, Any]],
        gate: Tensor | None,
    ) -> None:
        self.group, self.params, self.entries, self.gate = group, params, entries, gate
        self.signs: dict[int, Tensor] = {}
        # Read now, when nothing but the gradients has to be waited for.
        self.counted = gate is None or bool(gate)
        every = group["approximation"]["every"]
        of_group = dict(zip(map(id, group["params"]), turns(group, number, form), strict=True))
        counts = [state[p].setdefault(COUNT, torch.zeros((), device="cpu")) for p in params]
        exact: list[int] = []
        others: list[int] = []
        for position, e in enumerate(entries):
            count, turn = int(counts[e.parameter]), of_group[id(params[e.parameter])][e.number]
            due = count == 0 or (count - turn) % every == 0
            (exact if due else others).append(position)
        self.exact: Sequence[int] = exact
        self.others, self.counts = others, counts

    def find(self, signal: Callable[[Entry], Tensor]) -> dict[int, Tensor]:
        """Return ⟨S, D⟩ of each matrix whose direction is an old one, (1,) each, or 0 below 0.

        Args:
            signal: returns the signal of a matrix, or of a part of it.
        """
        dual: dict[int, Tensor] = {}
        for chosen in by_device([self.entries[i] for i in self.others]).values():
            positions = [self.others[i] for i in chosen]

            def term(entry: Entry) -> tuple[Tensor]:
                assert entry.kept is not None  # as entries have where directions are kept
                now = signal(entry)
                return (inner_product(now, entry.kept.matrix().to(now.dtype)),)

            some = [self.entries[i] for i in positions]
            found = sums(some, 1, term, "the inner products with kept directions")
            for position, value in zip(positions, found.unbind(0), strict=True):
                self.signs[position] = value > 0
                dtype = signal_dtype(self.group, self.params[self.entries[position].parameter])
                dual[position] = value.clamp(min=0.0).to(dtype)
        return dual

    def direction(self, position: int, part: Entry) -> Tensor:
        """The old direction of a matrix or a part of it, as new memory; zero where it ascends."""
        assert part.kept is not None  # as above
        return (part.kept.matrix() * self.signs[position]).unsqueeze(0)

    def taken(self, position: int, part: Entry) -> Tensor:
        """The direction that is kept of a matrix, in a part of it, (a, b)."""
        assert part.kept is not None  # as above
        return part.kept.matrix()

    def keep(self, positions: Sequence[int], entries: Sequence[Entry], directions: Tensor) -> None:
        """Keep the directions of a stack of matrices, or of parts of them, if they are new."""
        if positions[0] in self.signs:
            return
        kept = [e.kept.tensor for e in entries if e.kept is not None]
        shaped = [d.reshape(t.shape) for d, t in zip(directions.unbind(0), kept, strict=True)]
        store(kept, shaped, self.gate)

    def close(self) -> None:
        """Count the step, but for one that is skipped.

        Nor is one of lr 0, as torch.distributed.checkpoint takes it.
        """
        if self.counted and (isinstance(self.group["lr"], Tensor) or self.group["lr"]):
            for count in self.counts:
                count.add_(1)


def turns(group: dict[str, Any], number: int, form: Geometry) -> list[list[int]]:
    """Return for each parameter of a group the turn of each of its matrices, in 0, …, k − 1.

    By cost, the longest first, each to the turn with the least to do: the same on all processes,
    without a word exchanged and whatever the numbers in the matrices are. Groups begin at different
    turns.

    Args:
        group: with its ``approximation``.
        number: the position of the group.
        form: what its geometry describes.

    Example:
        >>> import polargrad as pg
        >>> weights = [torch.nn.Parameter(torch.ones(4, 4)) for _ in range(4)]
        >>> optimizer = pg.PolarGrad(weights, approximation={"name": "rounds", "every": 2})
        >>> from polargrad.geometry import Spectral
        >>> turns(optimizer.param_groups[0], 0, Spectral())
        [[0], [1], [0], [1]]
    """
    known: dict[Any, float] = {}
    costs: list[float] = []
    lengths = []
    for p, view in zip(group["params"], group["views"], strict=True):
        shapes = logical_shapes(view, tuple(p.shape)) if p.numel() else []
        lengths.append(len(shapes))
        dtype = signal_dtype(group, p)
        for shape in shapes:
            key = (shape, dtype, p.device)
            if key not in known:
                known[key] = direction_cost(group, form, shape, dtype, p.device)
            costs.append(known[key])
    every = group["approximation"]["every"]
    dealt = iter(_dealt(tuple(costs), every))
    return [[(next(dealt) + number) % every for _ in range(length)] for length in lengths]


@functools.lru_cache(maxsize=64)
def _dealt(costs: tuple[float, ...], every: int) -> list[int]:
    """The turn of each matrix."""
    return assign(costs, every)
