"""The logical matrices of a step: where each lies in its parameter, its gradient, its momentum."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from polargrad.optim.routing.views import WHOLE, Region, View, logical_shapes, regions

__all__ = ["Entry", "count_of", "entries_of", "gradient_of", "numbers_of", "pieces"]


class Entry(NamedTuple):
    """One logical matrix of a step.

    Attributes:
        parameter: the position of its parameter.
        number: its position among the logical matrices of the parameter.
        block: which of the shapes among those it has.
        place: its position among those of that shape.
        target: the matrix in the parameter.
        gradient: the matrix in the gradient.
        buffer: the matrix in the momentum, None without one.
    """

    parameter: int
    number: int
    block: int
    place: int
    target: Region
    gradient: Region
    buffer: Region | None


def entries_of(
    params: Sequence[Tensor], views: Sequence[View], buffers: Sequence[Tensor] | None
) -> list[Entry]:
    """The logical matrices of all parameters, in order; what is empty has none."""
    entries = []
    for index, (p, view) in enumerate(zip(params, views, strict=True)):
        if not p.numel():
            continue
        if view == WHOLE and p.ndim == 2:  # what most are, in no time
            average = Region(buffers[index], 1) if buffers is not None else None
            entries.append(Entry(index, 0, 0, 0, Region(p, 1), Region(gradient_of(p), 1), average))
            continue
        targets, gradients = regions(view, p), regions(view, gradient_of(p))
        averages: Sequence[Region | None] = (
            regions(view, buffers[index]) if buffers is not None else [None] * len(targets)
        )
        blocks: dict[tuple[int, int], int] = {}
        places: Counter[int] = Counter()
        parts = zip(targets, gradients, averages, strict=True)
        for number, (target, gradient, buffer) in enumerate(parts):
            block = blocks.setdefault(target.shape, len(blocks))
            entries.append(Entry(index, number, block, places[block], target, gradient, buffer))
            places[block] += 1
    return entries


def count_of(p: Tensor, view: View) -> int:
    """How many logical matrices a parameter has; none where it is empty."""
    return len(logical_shapes(view, tuple(p.shape))) if p.numel() else 0


def gradient_of(p: Tensor) -> Tensor:
    """The gradient of a parameter that has one."""
    assert p.grad is not None
    return p.grad


def numbers_of(
    key: str, entries: Sequence[Entry], owners: Sequence[Mapping[str, Tensor]]
) -> list[Tensor]:
    """What matrices keep as one number each, under a key of the states of their parameters."""
    return [own[key][entry.number] for entry, own in zip(entries, owners, strict=True)]


def pieces(stack: Tensor, targets: Sequence[Tensor]) -> list[Tensor]:
    """The matrices of a stack, each in the shape of the place it goes to."""
    return [
        m if m.shape == target.shape else m.reshape(target.shape)
        for m, target in zip(stack.unbind(0), targets, strict=True)
    ]
