"""Which entries of a logical matrix lie in a box of its parameter, as views of the box's memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from polargrad.distributed.placement import Box

__all__ = ["Patch", "Strided", "patches"]


class Strided(NamedTuple):
    """A logical matrix as a strided view of its whole, contiguous parameter.

    Attributes:
        sizes: of its dimensions, those of the rows first.
        strides: of each.
        offset: of its first entry.
        rows: how many of the dimensions form the rows.
    """

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    rows: int

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n) of the matrix."""
        return math.prod(self.sizes[: self.rows]), math.prod(self.sizes[self.rows :])


class Patch(NamedTuple):
    """Some entries of a matrix that lie in a box, equally spaced in each dimension.

    Attributes:
        start: where they begin in the dimensions of the matrix.
        sizes: how many there are in each.
        dims: the dimension of the parameter along which each runs.
        steps: by how many indices.
        first: where they begin in the dimensions of the box.
    """

    start: tuple[int, ...]
    sizes: tuple[int, ...]
    dims: tuple[int, ...]
    steps: tuple[int, ...]
    first: tuple[int, ...]

    @property
    def entries(self) -> int:
        """How many there are."""
        return math.prod(self.sizes)

    def of(self, local: Tensor) -> Tensor:
        """The entries in the memory of a tensor that holds the box: a view, whatever its strides.

        Example:
            >>> import torch
            >>> x = torch.arange(6).view(3, 2)
            >>> Patch((0,), (3,), (0,), (1,), (0, 1)).of(x)
            tensor([1, 3, 5])
        """
        strides = [local.stride(d) * step for d, step in zip(self.dims, self.steps, strict=True)]
        offset = sum(k * local.stride(d) for d, k in enumerate(self.first))
        return local.as_strided(self.sizes, strides, local.storage_offset() + offset)

    def within(self, matrix: Tensor) -> Tensor:
        """The same entries of the matrix in its own dimensions, a view."""
        for d, (start, size) in enumerate(zip(self.start, self.sizes, strict=True)):
            if size != matrix.shape[d]:
                matrix = matrix.narrow(d, start, size)
        return matrix


def patches(matrix: Strided, shape: Sequence[int], box: Box) -> tuple[Patch, ...]:
    """Return the patches of a matrix in a box of its parameter; together they are all of it there.

    One, or none, but where a dimension of the parameter is taken apart into groups and the box ends
    inside one of them.

    Args:
        matrix: a view of the whole parameter.
        shape: of the parameter.
        box: of the parameter.

    Example:
        >>> rows = Strided((4, 3), (3, 1), 0, 1)
        >>> patches(rows, (4, 3), Box((2, 0), (2, 3)))[0].start
        (2, 0)
    """
    strides = [math.prod(shape[d + 1 :]) for d in range(len(shape))]
    begins = [matrix.offset // stride % size for stride, size in zip(strides, shape, strict=True)]
    along = [
        _dimension(step, size, strides, shape)
        for size, step in zip(matrix.sizes, matrix.strides, strict=True)
    ]
    steps = [
        0 if d is None else step // strides[d]
        for d, step in zip(along, matrix.strides, strict=True)
    ]
    choices = []
    for d, begin in enumerate(begins):
        # The outermost of the matrix's dimensions that run along this one first.
        mine = sorted((k for k, a in enumerate(along) if a == d), key=lambda k: -steps[k])
        low = box.start[d] - begin
        pairs = [(steps[k], matrix.sizes[k]) for k in mine]
        ranges = _inside(pairs, low, low + box.shape[d])
        choices.append([dict(zip(mine, chosen, strict=True)) for chosen in ranges])
    found = []
    for parts in itertools.product(*choices):
        place = {k: pair for part in parts for k, pair in part.items()}
        chosen = [place.get(k, (0, 1)) for k in range(len(along))]
        first = [begin - start for begin, start in zip(begins, box.start, strict=True)]
        for k, part in place.items():
            first[along[k] or 0] += part[0] * steps[k]  # none that is placed runs along None
        found.append(
            Patch(
                tuple(start for start, _ in chosen),
                tuple(size for _, size in chosen),
                tuple(d or 0 for d in along),
                tuple(steps),
                tuple(first),
            )
        )
    return tuple(found)


def _dimension(stride: int, size: int, strides: Sequence[int], shape: Sequence[int]) -> int | None:
    """The dimension of the parameter along which a step of this stride goes; None for no step."""
    if size == 1:
        return None
    return next(
        d
        for d, (own, length) in enumerate(zip(strides, shape, strict=True))
        if length > 1 and own <= stride < own * length
    )


Range = tuple[int, int]  # the first and how many


def _inside(pairs: Sequence[tuple[int, int]], low: int, high: int) -> list[list[Range]]:
    """Blocks of indices k for which low ≤ Σ kᵢ·stepᵢ < high, for (step, size), outermost first.

    The inner steps together are shorter than an outer one.
    """
    if not pairs:
        return [[]] if low <= 0 < high else []
    (step, size), *inner = pairs
    reach = sum((count - 1) * width for width, count in inner)
    # From the first index whose block begins inside, to the last whose block ends inside.
    begin = min(max(-(-low // step), 0), size)
    end = min(max(-(-(high - reach) // step), begin), size)
    blocks = []
    if begin < end:
        blocks.append([(begin, end - begin), *((0, count) for _, count in inner)])
    if not inner:
        return blocks
    for k in range(size):
        if not begin <= k < end:
            rest = _inside(inner, low - k * step, high - k * step)
            blocks += [[(k, 1), *ranges] for ranges in rest]
    return blocks
