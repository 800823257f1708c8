"""A step of matrices whose Gram matrices say enough: their strips stay where they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from polargrad.distributed import GramExecutor, GramSource, goes_by_gram
from polargrad.distributed.ranks import Ranks
from polargrad.distributed.shared_matrix import SharedMatrix
from polargrad.geometry import Geometry, Spectral
from polargrad.linalg.gram_side import gram_side, works_from_gram
from polargrad.linalg.precision import working_dtype
from polargrad.optim.entries import Entry
from polargrad.optim.resolve import resolve

__all__ = ["DeliverPatches", "by_gram", "is_by_gram", "step_by_gram"]

# The signal of a part of a matrix: the position of the matrix, and the part.
SignalOf = Callable[[int, Entry], Tensor]
# How far to go along the directions: positions, dual norms (B,), and the shape of the matrices.
ScaleOf = Callable[[list[int], Tensor, tuple[int, int]], Tensor]
DeliverPatches = Callable[[int, list[Tensor], list[Tensor | None]], None]


def is_by_gram(
    group: dict[str, Any],
    form: Geometry,
    matrix: SharedMatrix,
    ranks: int,
    dtype: torch.dtype,
    device: torch.device,
) -> bool:
    """Whether a matrix of a group is stepped by its Gram matrix.

    Where the layout allows it (:func:`polargrad.distributed.goes_by_gram`), the direction is the
    polar factor itself, by a method that needs no more, and double precision leaves room: signals
    in float64 are brought together, and so are those whose products were asked for in half
    precision or whose gradients are counted.

    Args:
        group, form: of the matrix, and what its geometry describes.
        matrix: who holds what.
        ranks: how many processes.
        dtype: of the signal.
        device: of it.
    """
    plain = type(form) is Spectral and form.uses_polar and not form.correct
    room = working_dtype(dtype) == torch.float32 and group["compute_dtype"] is None
    if not (plain and room and not group["bias_correction"] and goes_by_gram(matrix, ranks)):
        return False
    example = torch.empty((), dtype=torch.float32, device=device).expand(1, *matrix.shape)
    return works_from_gram(resolve(group, example))


def by_gram(group: dict[str, Any], form: Geometry, entries: Sequence[Entry], key: str) -> list[int]:
    """The positions of the matrices that are stepped by their Gram matrices.

    Args:
        group, form: as for :func:`is_by_gram`.
        entries: all matrices of a step.
        key: ``"buffer"`` or ``"gradient"``, what the signal is read from.
    """
    found = []
    for position, entry in enumerate(entries):
        shared = entry.shared
        if shared is None:
            continue
        dtype = shared.dtypes[2 if key == "buffer" else 1]
        if is_by_gram(group, form, shared.matrix, shared.ranks.size, dtype, shared.device):
            found.append(position)
    return found


def step_by_gram(
    group: dict[str, Any],
    entries: Sequence[Entry],
    positions: Sequence[int],
    names: Sequence[str],
    signal: SignalOf,
    scale: ScaleOf,
    deliver: DeliverPatches,
) -> None:
    """Step matrices by their Gram matrices.

    Args:
        group: of the matrices.
        entries: all matrices of the step.
        positions: of those that :func:`by_gram` has found.
        names: of the parameters of the step.
        signal, scale: what the direction is found from, and how far to go along it.
        deliver: takes the position of a matrix, the parts of its direction that are here, and its
            scale.
    """
    sharing: dict[Ranks, list[int]] = {}
    for position in positions:
        shared = entries[position].shared
        assert shared is not None  # as it was chosen for
        sharing.setdefault(shared.ranks, []).append(position)

    def weigh(found: list[int], grams: Tensor) -> tuple[Tensor, ...]:
        shape = entries[found[0]].target.shape
        example = torch.empty((), dtype=torch.float32, device=grams.device).expand(1, *shape)
        side = gram_side(resolve(group, example), grams)
        return side.weights, scale(found, side.inner.to(torch.float32), shape)

    def give(position: int, strips: list[Tensor], rest: list[Tensor]) -> None:
        tall = _is_tall(entries[position])
        deliver(position, [strip if tall else strip.mT for strip in strips], [*rest])

    for ranks, some in sharing.items():
        sources = [_source(entries[i], i, names[entries[i].parameter], signal) for i in some]
        GramExecutor(ranks).map(weigh, sources, give, some)


def _source(entry: Entry, position: int, name: str, signal: SignalOf) -> GramSource:
    """A matrix as its processes hold it, tall whatever it is."""
    shared, tall = entry.shared, _is_tall(entry)
    assert shared is not None  # as it was chosen for

    def read() -> list[Tensor]:
        strips = [signal(position, part) for part in shared.parts]
        return strips if tall else [strip.mT for strip in strips]

    return GramSource(shared.matrix, read, name, shared.device)


def _is_tall(entry: Entry) -> bool:
    rows, columns = entry.target.shape
    return rows >= columns
