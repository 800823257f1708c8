"""Tall matrices of which each process holds some rows: only their Gram matrices are exchanged."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from polargrad.distributed import local
from polargrad.distributed.ranks import Pending, Ranks, listed
from polargrad.distributed.shared_matrix import SharedMatrix
from polargrad.linalg.products import gram

__all__ = [
    *("GramExecutor", "GramSource", "goes_by_gram", "packed", "packed_bytes", "ring_bytes"),
    "unpacked",
]

# Of fewer entries the exchange is all latency, and they travel beside others as they are.
LEAST_ENTRIES = 4096
DOUBLE = torch.float64


def goes_by_gram(matrix: SharedMatrix, ranks: int) -> bool:
    """Whether a matrix need not be brought together: its Gram matrix is no larger than a strip.

    Each process holds whole rows of a tall matrix, or whole columns of a wide one, no entry is held
    twice, and all processes together do no more on the Gram side than one would on the whole.

    Example:
        >>> from polargrad.distributed.patches import Strided
        >>> from polargrad.distributed.placement import Box
        >>> halves = [Box((0, 0), (64, 32)), Box((64, 0), (64, 32))]
        >>> goes_by_gram(SharedMatrix(Strided((128, 32), (32, 1), 0, 1), (128, 32), halves), 2)
        True
    """
    small, large = sorted(matrix.shape)
    divided = matrix.in_strips and not matrix.holders
    return divided and small * ranks <= large and small * large >= LEAST_ENTRIES


@dataclass(frozen=True)
class GramSource:
    """One matrix that goes by its Gram matrix.

    Attributes:
        matrix: who holds which strip.
        read: returns the strips that are here, rows of the tall matrix: (mᵢ, n) each.
        name: for an error.
        device: of all of it.
    """

    matrix: SharedMatrix
    read: Callable[[], list[Tensor]]
    name: str
    device: torch.device

    @property
    def key(self) -> Hashable:
        """What those of a stack have in common."""
        return self.matrix.shape, self.device

    @property
    def columns(self) -> int:
        """n, the smaller side."""
        return min(self.matrix.shape)

    @property
    def size(self) -> int:
        """Bytes by which a stack is cut: of a Gram matrix, or of the largest strip."""
        return max(self.columns**2 * DOUBLE.itemsize, self.strip_bytes)

    @property
    def strip_bytes(self) -> int:
        """Bytes of the largest strip in double precision."""
        held = self.matrix.patches
        return max(sum(patch.entries for patch in mine) for mine in held) * DOUBLE.itemsize


# Takes the positions of the matrices of a stack and their Gram matrices, (B, n, n); returns W with
# U = A W, (B, n, n), and what else is found for each, (B, ...).
Weigh = Callable[[list[int], Tensor], tuple[Tensor, ...]]
# Takes the position of a matrix, the strips of its U that belong here, and what else was found.
DeliverStrips = Callable[[int, list[Tensor], list[Tensor]], None]


class _Coming(NamedTuple):
    """Gram matrices on their way: the positions, the strips that are here, and the exchange."""

    positions: list[int]
    strips: list[list[Tensor]]
    pending: Pending


class GramExecutor:
    r"""Maps a function of Gram matrices over tall matrices A that are held in strips of rows.

    .. math:: C = \sum_i A_i^{\mathsf H}A_i, \qquad U_i = A_i\,W(C)

    Each process adds the Gram matrix of its strip to those of the others, in double precision, and
    finds W for itself: the matrices are never together anywhere. While one stack of Gram matrices
    is on its way, the next is formed.

    Args:
        ranks: the processes.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks

    def map(
        self,
        weigh: Weigh,
        sources: Sequence[GramSource],
        deliver: DeliverStrips,
        numbers: Sequence[int] | None = None,
    ) -> None:
        """Apply ``weigh`` to stacks of Gram matrices; hand on the strips of U that belong here.

        Args:
            weigh: returns W of each Gram matrix of a stack, the same on all processes.
            sources: the matrices, in the same order on all processes.
            deliver: is called for each matrix.
            numbers: by which positions the matrices are called; None for those in ``sources``.

        Raises:
            CollectiveError: if an exchange failed; the message names it and its matrices.
        """
        numbers = range(len(sources)) if numbers is None else numbers
        coming: _Coming | None = None
        for stack in (*local.stacks(sources), None):
            begun = None if stack is None else self._begin(sources, stack)
            if coming is not None:
                self._finish(coming, weigh, sources, deliver, numbers)
            coming = begun

    def _begin(self, sources: Sequence[GramSource], positions: list[int]) -> _Coming:
        """Send what the strips of this process add to the Gram matrices of a stack."""
        first = sources[positions[0]]
        size = len(positions), first.columns, first.columns
        grams = torch.zeros(size, dtype=DOUBLE, device=first.device)
        strips = [sources[i].read() for i in positions]
        for total, mine in zip(grams, strips, strict=True):
            for strip in mine:
                total += gram(strip.to(DOUBLE))
        about = f"the Gram matrices of {listed(sources[i].name for i in positions)}"
        return _Coming(positions, strips, self.ranks.add(packed(grams), about))

    def _finish(
        self,
        coming: _Coming,
        weigh: Weigh,
        sources: Sequence[GramSource],
        deliver: DeliverStrips,
        numbers: Sequence[int],
    ) -> None:
        """Find the weights of a stack, and apply them to the strips."""
        coming.pending.wait()
        columns = sources[coming.positions[0]].columns
        grams = unpacked(coming.pending.buffers[0], columns)
        called = [numbers[i] for i in coming.positions]
        weights, *rest = weigh(called, grams)
        for place, (number, strips) in enumerate(zip(called, coming.strips, strict=True)):
            found = [(strip.to(DOUBLE) @ weights[place]).to(strip.dtype) for strip in strips]
            deliver(number, found, [value[place : place + 1] for value in rest])


def packed(symmetric: Tensor) -> Tensor:
    r"""Return the lower triangles of symmetric matrices (B, n, n) as rectangles (B, 2k + 1, k).

    k is n/2, rounded up: the triangle of the second half of the rows lies transposed above that of
    the first, and what is left of it, a square, below.

    Example:
        >>> packed(torch.tensor([[[1.0, 2.0], [2.0, 3.0]]])).tolist()
        [[[3.0], [1.0], [2.0]]]

    Source: the rectangular full packed format, F. G. Gustavson et al., ACM Trans. Math. Softw. 37
    (2010).
    """
    n = symmetric.shape[-1]
    if n % 2:
        symmetric = torch.nn.functional.pad(symmetric, (0, 1, 0, 1))
    k = symmetric.shape[-1] // 2
    rectangle = symmetric.new_zeros(len(symmetric), 2 * k + 1, k)
    rectangle[:, :k] = symmetric[:, k:, k:].triu()
    rectangle[:, 1 : k + 1] += symmetric[:, :k, :k].tril()
    rectangle[:, k + 1 :] = symmetric[:, k:, :k]
    return rectangle


def unpacked(rectangle: Tensor, n: int) -> Tensor:
    """Return the symmetric matrices (B, n, n) of :func:`packed`.

    Example:
        >>> unpacked(torch.tensor([[[3.0], [1.0], [2.0]]]), 2).tolist()
        [[[1.0, 2.0], [2.0, 3.0]]]
    """
    k = rectangle.shape[-1]
    whole = rectangle.new_empty(len(rectangle), 2 * k, 2 * k)
    upper, lower = rectangle[:, :k].triu(), rectangle[:, 1 : k + 1].tril()
    whole[:, :k, :k] = lower + lower.tril(-1).mT
    whole[:, k:, k:] = upper + upper.triu(1).mT
    whole[:, k:, :k] = rectangle[:, k + 1 :]
    whole[:, :k, k:] = rectangle[:, k + 1 :].mT
    return whole[:, :n, :n]


def packed_bytes(columns: int) -> int:
    """The bytes of a Gram matrix on its way.

    Example:
        >>> packed_bytes(2), packed_bytes(3), packed_bytes(4)
        (24, 80, 80)
    """
    k = -(-columns // 2)
    return (2 * k + 1) * k * DOUBLE.itemsize


def ring_bytes(total: int, ranks: int) -> int:
    """What each process sends of a sum over a ring: to its neighbour, twice but for its own part.

    Example:
        >>> ring_bytes(80, 4)
        120
    """
    return 2 * total * (ranks - 1) // ranks
