"""Spectral norms of directions that change little from step to step, by products with vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polargrad.geometry.base import divided
from polargrad.optim.elementwise import store
from polargrad.optim.entries import Entry, Side, numbers_of, sides_of
from polargrad.optim.shared_sums import totals
from polargrad.optim.step_size import NORM, PAIR

__all__ = ["DirectionNorms", "followed_pairs", "images_of", "start_norms"]

# How much of a fixed vector is mixed into each that is kept, lest one that has come to lie across
# all that a direction does would lie so for good. It takes a 20,000th from the norm that is found.
FRESH = 0.01
# Squares of 1, 2, 3, … modulo a prime look like chance and are the same everywhere.
PRIME = 10_007


class DirectionNorms:
    """The spectral norms of the directions of a group, in one step of it.

    Args:
        params: the parameters that are stepped.
        entries: their logical matrices.
        state: of the optimizer; what is missing in it is begun.
        gate: as for :func:`polargrad.optim.matrix.matrix_update`.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        entries: Sequence[Entry],
        state: Mapping[Tensor, dict[str, Any]],
        gate: Tensor | None,
    ) -> None:
        self.entries, self.gate = entries, gate
        shapes: list[list[tuple[int, int]]] = [[] for _ in params]
        for entry in entries:
            shapes[entry.parameter].append(entry.target.shape)
        pairs: list[Tensor] = []
        for p, own in zip(params, shapes, strict=True):
            if PAIR not in state[p]:
                state[p] |= start_norms(own, p.device)
            pairs += torch.split(state[p][PAIR], [m + n for m, n in own])
        self.pairs = pairs
        self.owners = [state[params[e.parameter]] for e in entries]
        # By matrix: what this process has found of its images.
        self.images: dict[int, Tensor] = {}

    def of(self, positions: Sequence[int]) -> Tensor:
        """The norms of the last directions of some matrices, (B,)."""
        owners = [self.owners[i] for i in positions]
        return torch.stack(numbers_of(NORM, [self.entries[i] for i in positions], owners))

    def look(self, positions: Sequence[int], entries: Sequence[Entry], directions: Tensor) -> None:
        """Look at the directions of a stack of matrices, or at a part of that of one."""
        some = [self.entries[i] for i in positions]
        if all(entry.shared is None for entry in some):
            found = images_of(directions, torch.stack([self.pairs[i] for i in positions]))
            self.images |= dict(zip(positions, found.unbind(0), strict=True))
            return
        for position, entry, part, direction in zip(
            positions, some, entries, directions, strict=True
        ):
            assert entry.shared is not None  # as matrices that are shared come alone
            if entry.shared.matrix.counted_by(entry.shared.ranks.index, position):
                self._add(position, sides_of(entry.shared, part), direction)

    def _add(self, position: int, sides: tuple[Side, Side], direction: Tensor) -> None:
        """Add the images of a part of a direction to those of the others."""
        rows = self.entries[position].target.shape[0]
        pair = self.pairs[position]
        held = [x[side] for x, side in zip((pair[:rows], pair[rows:]), sides, strict=True)]
        found = images_of(direction[None], torch.cat(held)[None])[0]
        total = self.images.setdefault(position, torch.zeros_like(pair))
        total[:rows][sides[0]] += found[: direction.shape[0]]
        total[rows:][sides[1]] += found[direction.shape[0] :]

    def keep(self) -> None:
        """Keep the norms and the vectors, once all directions have been looked at."""
        nothing = [i for i in range(len(self.entries)) if i not in self.images]
        self.images |= {i: torch.zeros_like(self.pairs[i]) for i in nothing}
        mine = [self.images[i] for i in range(len(self.entries))]
        images = totals(self.entries, mine, "what directions do to vectors")
        alike: dict[tuple[tuple[int, int], torch.device], list[int]] = {}
        for position, entry in enumerate(self.entries):
            alike.setdefault((entry.target.shape, mine[position].device), []).append(position)
        for ((rows, _), _), positions in alike.items():
            some, pairs = [self.entries[i] for i in positions], [self.pairs[i] for i in positions]
            found, norms = followed_pairs(
                torch.stack([images[i] for i in positions]), torch.stack(pairs), rows
            )
            kept = numbers_of(NORM, some, [self.owners[i] for i in positions])
            store(kept, list(norms.unbind(0)), self.gate)
            store(pairs, list(found.unbind(0)), self.gate)


def start_norms(shapes: Sequence[tuple[int, int]], device: torch.device) -> dict[str, Tensor]:
    """The state of a parameter with matrices of these shapes, before its first direction."""
    like = torch.zeros(len(shapes), device=device)
    fixed = [_fixed(size, like) for shape in shapes for size in shape]
    return {PAIR: torch.cat([like[:0], *fixed]), NORM: like}


def images_of(matrices: Tensor, pairs: Tensor) -> Tensor:
    r"""Return :math:`Dv` and :math:`D^\top u` of each matrix, one behind the other.

    Args:
        matrices: D, (B, m, n).
        pairs: u and v, (B, m + n), float32.

    Returns:
        (B, m + n), float32.
    """
    rows, columns = matrices.shape[-2:]
    u, v = torch.split(pairs.to(matrices.dtype), [rows, columns], dim=1)
    found = torch.bmm(matrices, v[:, :, None]), torch.bmm(matrices.mT, u[:, :, None])
    return torch.cat(found, dim=1)[:, :, 0].to(pairs.dtype)


def followed_pairs(images: Tensor, pairs: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    r"""Return the next pairs of unit vectors, and what is known of the norms of the matrices.

    .. math:: \max(\|Dv\|, \|D^\top u\|) \le \|D\|_2, \qquad
       u \leftarrow \frac{Dv}{\|Dv\|}, \quad v \leftarrow \frac{D^\top u}{\|D^\top u\|}

    but for a hundredth of a fixed vector. These are two power iterations, one step of each taking
    half of one; they find the norm of a matrix that stays, and follow one that turns slowly.

    Args:
        images: of :func:`images_of`, (B, m + n).
        pairs: u and v, (B, m + n); of a zero image it stays.
        rows: m.

    Returns:
        The pairs, and lower bounds of the norms, (B,).

    Example:
        >>> matrix, pair = torch.diag(torch.tensor([0.5, 0.25]))[None], torch.full((1, 4), 0.5**0.5)
        >>> for _ in range(10):
        ...     pair, norm = followed_pairs(images_of(matrix, pair), pair, 2)
        >>> norm
        tensor([0.5000])

    Source: G. H. Golub and C. F. Van Loan, *Matrix Computations*, section 8.2 (power iteration).
    """
    found, lengths = [], []
    sizes = [rows, images.shape[1] - rows]
    for image, old in zip(torch.split(images, sizes, 1), torch.split(pairs, sizes, 1), strict=True):
        length = torch.linalg.vector_norm(image, dim=1, keepdim=True)
        turned = divided(image, length) + FRESH * _fixed(image.shape[1], image)
        turned = turned / torch.linalg.vector_norm(turned, dim=1, keepdim=True)
        found.append(torch.where(length > 0, turned, old))
        lengths.append(length[:, 0])
    return torch.cat(found, dim=1), torch.maximum(*lengths)


def _fixed(size: int, like: Tensor) -> Tensor:
    """A unit vector of this size, in no particular direction."""
    numbers = torch.arange(1, size + 1, device=like.device)
    vector = numbers.square().remainder(PRIME).to(like.dtype) / PRIME - 0.5
    fixed: Tensor = vector / torch.linalg.vector_norm(vector)
    return fixed
