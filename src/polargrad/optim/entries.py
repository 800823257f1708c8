"""The logical matrices of a step: where each lies in its parameter, its gradient, its momentum."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from polargrad.distributed import Sharing, local_part
from polargrad.distributed.patches import Patch, Strided
from polargrad.distributed.ranks import Ranks
from polargrad.distributed.shared_matrix import SharedMatrix
from polargrad.optim.routing.views import WHOLE, Region, View, logical_shapes, regions

__all__ = [
    *("Entry", "Shared", "by_device", "count_of", "entries_of", "gradient_of", "numbers_of"),
    *("Side", "parts_of", "pieces", "sides_of", "whole_matrices"),
]

# Where a part of a matrix lies along one of its sides.
Side = slice | Tensor


class Entry(NamedTuple):
    """One logical matrix of a step, or a part of one that processes share.

    Attributes:
        parameter: the position of its parameter.
        number: its position among the logical matrices of the parameter.
        block: which of the shapes among those it has.
        place: its position among those of that shape.
        target: the matrix in the parameter; of a shared one its shape alone.
        gradient: the matrix in the gradient, and so on.
        buffer: the matrix in the momentum, None without one.
        last: the matrix in the last direction, None where it is not kept.
        kept: the matrix in the direction that is used again, None where none is.
        shared: who shares the matrix, and which parts of it are here; None where it is whole.
        start: of a part, the position of its first entry in the matrix.
    """

    parameter: int
    number: int
    block: int
    place: int
    target: Region
    gradient: Region
    buffer: Region | None
    last: Region | None = None
    kept: Region | None = None
    shared: Shared | None = None
    start: int = 0


class Shared(NamedTuple):
    """A logical matrix that processes share.

    Attributes:
        ranks: the processes.
        matrix: what each of them holds.
        parts: what is here.
        device: where it is.
        dtypes: of the parameter, its gradient and its momentum, if it has one.
    """

    ranks: Ranks
    matrix: SharedMatrix
    parts: tuple[Entry, ...]
    device: torch.device
    dtypes: tuple[torch.dtype, ...]


def entries_of(
    params: Sequence[Tensor],
    views: Sequence[View],
    buffers: Sequence[Tensor] | None = None,
    lasts: Sequence[Tensor] | None = None,
    sharing: Sharing | None = None,
    directions: Sequence[Tensor] | None = None,
) -> list[Entry]:
    """The logical matrices of all parameters, in order; what is empty has none."""
    entries = []
    for index, (parameter, view) in enumerate(zip(params, views, strict=True)):
        if not parameter.numel():
            continue
        p, gradient = local_part(parameter), local_part(gradient_of(parameter))
        buffer, last, kept = (
            local_part(x[index]) if x else None for x in (buffers, lasts, directions)
        )
        ranks = sharing.ranks_of(parameter) if sharing is not None else None
        if ranks is not None:
            assert sharing is not None  # or it would share nothing
            matrices = sharing.matrices(parameter, repr(view), whole_matrices(view, parameter))
            tensors = (p, gradient, buffer, last, kept)
            entries += _shared_entries(index, matrices, ranks, tensors)
            continue
        if view == WHOLE and p.ndim == 2:  # what most are, in no time
            whole = Region(p, 1), Region(gradient, 1)
            average, before, again = (
                None if x is None else Region(x, 1) for x in (buffer, last, kept)
            )
            entries.append(Entry(index, 0, 0, 0, *whole, average, before, again))
            continue
        targets = regions(view, p)
        nothing: Sequence[Region | None] = [None] * len(targets)
        parts = zip(
            targets,
            regions(view, gradient),
            *(nothing if x is None else regions(view, x) for x in (buffer, last, kept)),
            strict=True,
        )
        blocks: dict[tuple[int, int], int] = {}
        places: Counter[int] = Counter()
        for number, regions_of_one in enumerate(parts):
            block = blocks.setdefault(regions_of_one[0].shape, len(blocks))
            entries.append(Entry(index, number, block, places[block], *regions_of_one))
            places[block] += 1
    return entries


def whole_matrices(view: View, parameter: Tensor) -> Callable[[], list[Strided]]:
    """What returns the matrices in a whole parameter, of which a process may hold a part."""

    def matrices() -> list[Strided]:
        example = torch.empty(parameter.shape, device="meta")
        return [
            Strided(
                tuple(region.tensor.shape),
                region.tensor.stride(),
                int(region.tensor.storage_offset()),
                region.rows,
            )
            for region in regions(view, example)
        ]

    return matrices


def _shared_entries(
    index: int,
    matrices: Sequence[SharedMatrix],
    ranks: Ranks,
    tensors: tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None],
) -> list[Entry]:
    """The logical matrices of a parameter that processes share."""
    blocks: dict[tuple[int, int], int] = {}
    places: Counter[int] = Counter()
    entries = []
    for number, matrix in enumerate(matrices):
        block = blocks.setdefault(matrix.shape, len(blocks))
        place = places[block]
        places[block] += 1
        shape = Region(torch.empty(matrix.sizes, device="meta"), matrix.rows)

        def region(x: Tensor | None, patch: Patch, rows: int = matrix.rows) -> Region | None:
            return None if x is None else Region(patch.of(x), rows)

        parts = []
        for patch in matrix.patches[ranks.index]:
            target, gradient, buffer, last, kept = (region(x, patch) for x in tensors)
            assert target is not None
            assert gradient is not None
            mine = target, gradient, buffer, last, kept
            start = matrix.position(patch)
            parts.append(Entry(index, number, block, place, *mine, start=start))
        dtypes = tuple(x.dtype for x in tensors[:3] if x is not None)
        shared = Shared(ranks, matrix, tuple(parts), tensors[0].device, dtypes)
        entries.append(Entry(index, number, block, place, shape, shape, None, shared=shared))
    return entries


def parts_of(entries: Iterable[Entry]) -> Iterator[Entry]:
    """What is here of each: a matrix itself, or its parts."""
    for entry in entries:
        if entry.shared is None:
            yield entry
        else:
            yield from entry.shared.parts


def by_device(entries: Sequence[Entry]) -> dict[torch.device, list[int]]:
    """The positions of the matrices on each device."""
    places: dict[torch.device, list[int]] = {}
    for position, entry in enumerate(entries):
        device = entry.target.tensor.device if entry.shared is None else entry.shared.device
        places.setdefault(device, []).append(position)
    return places


def sides_of(shared: Shared, part: Entry) -> tuple[Side, Side]:
    """The rows and the columns of a part of a matrix, of which it is the product."""
    patches = shared.matrix.patches[shared.ranks.index]
    patch = next(q for own, q in zip(shared.parts, patches, strict=True) if own is part)
    matrix = shared.matrix
    found: list[Side] = []
    for side in (slice(0, matrix.rows), slice(matrix.rows, None)):
        sizes, starts, counts = matrix.sizes[side], patch.start[side], patch.sizes[side]
        if len(sizes) == 1:
            found.append(slice(starts[0], starts[0] + counts[0]))
            continue
        numbers = torch.arange(math.prod(sizes), device=shared.device).view(sizes)
        for d, (start, count) in enumerate(zip(starts, counts, strict=True)):
            numbers = numbers.narrow(d, start, count)
        found.append(numbers.flatten())
    return found[0], found[1]


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
    """What each matrix keeps, a number or a row, under a key of the state of its parameter."""
    return [own[key][entry.number] for entry, own in zip(entries, owners, strict=True)]


def pieces(stack: Tensor, targets: Sequence[Tensor]) -> list[Tensor]:
    """The matrices of a stack, each in the shape of the place it goes to."""
    return [
        m if m.shape == target.shape else m.reshape(target.shape)
        for m, target in zip(stack.unbind(0), targets, strict=True)
    ]
