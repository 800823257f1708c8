"""A logical matrix whose entries several processes hold: who has which, who gives and counts."""

from __future__ import annotations

from collections.abc import Sequence

from polargrad.distributed.patches import Patch, Strided, patches
from polargrad.distributed.placement import Box

__all__ = ["SharedMatrix"]


class SharedMatrix:
    """One logical matrix of a parameter that processes share. Made once, compared by identity.

    Args:
        matrix: the matrix in its whole parameter.
        shape: of the parameter.
        held: the box of the parameter that each process holds, in the order of the group.

    Attributes:
        shape: (m, n).
        sizes: of its own dimensions, those of the rows first.
        patches: what each process holds of it.
        holders: the processes that hold all of it.
        in_strips: whether processes hold whole rows of a tall matrix or whole columns of a wide
            one, and no entry twice.
    """

    def __init__(self, matrix: Strided, shape: Sequence[int], held: Sequence[Box]) -> None:
        self.shape, self.sizes, self.rows = matrix.shape, matrix.sizes, matrix.rows
        different = {box: patches(matrix, shape, box) for box in dict.fromkeys(held)}
        self.patches: tuple[tuple[Patch, ...], ...] = tuple(different[box] for box in held)
        places: dict[Box, list[int]] = {}
        self._copy = []  # which of those with an equal box each process is
        for rank, box in enumerate(held):
            same = places.setdefault(box, [])
            self._copy.append(len(same))
            same.append(rank)
        self._copies = {rank: len(same) for same in places.values() for rank in same}
        self._groups = [same for box, same in places.items() if different[box]]
        self.holders = tuple(
            rank
            for rank, mine in enumerate(self.patches)
            if [p.sizes for p in mine] == [self.sizes]
        )

        across = slice(self.rows, None) if self.shape[0] >= self.shape[1] else slice(self.rows)
        self.in_strips = all(len(same) == 1 for same in self._groups) and all(
            patch.sizes[across] == self.sizes[across] for mine in self.patches for patch in mine
        )

    def position(self, patch: Patch) -> int:
        """Where the first entry of a patch stands among all entries of the matrix."""
        position = 0
        for start, size in zip(patch.start, self.sizes, strict=True):
            position = position * size + start
        return position

    def givers(self, owner: int) -> tuple[int, ...]:
        """The processes that together give an owner the whole: those of its own replica, itself."""
        copy = self._copy[owner]
        return tuple(owner if owner in same else same[copy % len(same)] for same in self._groups)

    def counted_by(self, rank: int, turn: int) -> bool:
        """Whether what a process holds counts in a sum over all of them: each entry does once.

        ``turn`` is a number, the same on all of them, by which those with equal copies take turns.
        """
        return self._copy[rank] == turn % self._copies[rank]
