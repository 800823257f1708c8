"""Directions of sketches: the two thin factors of each, found without the matrix being gathered."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from polargrad.distributed.local import Source, stacks
from polargrad.geometry import Ascent, State
from polargrad.geometry.base import divided
from polargrad.optim.approximations import Sketch
from polargrad.optim.elementwise import store
from polargrad.optim.entries import Entry, Side, sides_of
from polargrad.optim.geometry_state import key_of
from polargrad.optim.routing.views import View, logical_shapes
from polargrad.optim.shared_sums import totals

__all__ = ["LEFT", "RIGHT", "Sketches", "sketch_shapes", "start_sketch"]

# P of the smaller side and V of the larger one, the matrices of one shape in one tensor.
LEFT, RIGHT = "sketch_left", "sketch_right"
WHOLE = slice(None)


class Sketches:
    """The sketches of a group in one step, with the names of the formulas of :class:`Sketch`.

    Args:
        sketch: its rank and seed.
        entries: the matrices.
        owners: the states of their parameters, with what :func:`start_sketch` gives.
        ascent_of: returns polar factors and nuclear norms of a stack.
        gate: as for :func:`polargrad.optim.matrix.matrix_update`.
    """

    exact: Sequence[int] = ()

    def __init__(
        self,
        sketch: Sketch,
        entries: Sequence[Entry],
        owners: Sequence[dict[str, Any]],
        ascent_of: Callable[[Tensor, State | None], Ascent],
        gate: Tensor | None,
    ) -> None:
        self.entries, self.ascent_of, self.gate = entries, ascent_of, gate
        states = [owners[e.parameter] for e in entries]
        places = list(zip(entries, states, strict=True))
        self.kept_left = [own[key_of(LEFT, e.block)][e.place] for e, own in places]
        self.kept_right = [own[key_of(RIGHT, e.block)][e.place] for e, own in places]
        self.left = list(self.kept_left)
        self.right = [_begun(v, sketch.seed) for v in self.kept_right]

    def find(self, signal: Callable[[Entry], Tensor]) -> dict[int, Tensor]:
        """Find P and V of each matrix, keep them, and return ⟨S, P Vᵀ⟩, (1,)."""
        images = [torch.zeros_like(p) for p in self.left]
        for position, part, small, large in self._counted():
            held = _wide(self.entries[position], signal(part))
            images[position][small] += held @ self.right[position][large]
        images = totals(self.entries, images, "the images of sketches")
        for positions in stacks([Source.of(x) for x in images]):
            bases = _orthonormal(torch.stack([images[i] for i in positions]))
            self._set(self.left, positions, bases)
        del images
        sketches = [torch.zeros_like(v) for v in self.right]
        for position, part, small, large in self._counted():
            held = _wide(self.entries[position], signal(part))
            sketches[position][large] += held.mT @ self.left[position][small]
        sketches = totals(self.entries, sketches, "the sketches of signals")
        dual: dict[int, Tensor] = {}
        for positions in stacks([Source.of(x) for x in sketches]):
            stack = torch.stack([sketches[i] for i in positions])
            factors, norms = self.ascent_of(stack, None)
            self._set(self.right, positions, factors)
            dual |= dict(zip(positions, norms.view(-1, 1).unbind(0), strict=True))
            self._keep(positions, (stack != 0).flatten(1).any(1))
        return dual

    def _set(self, targets: list[Tensor], positions: Sequence[int], stack: Tensor) -> None:
        for position, value in zip(positions, stack.unbind(0), strict=True):
            targets[position] = value

    def _keep(self, positions: Sequence[int], begun: Tensor) -> None:
        """Keep the factors of some matrices; of a zero signal those before, if there are any."""
        pairs = ((self.kept_left, self.left), (self.kept_right, self.right))
        for kept, new in pairs:
            values = [torch.where(begun[k], new[i], kept[i]) for k, i in enumerate(positions)]
            store([kept[i] for i in positions], values, self.gate)

    def _counted(self) -> Iterator[tuple[int, Entry, Side, Side]]:
        """All that this process adds to the sums: the matrix, what it holds, and where it lies."""
        for position, entry in enumerate(self.entries):
            shared = entry.shared
            if shared is None:
                yield position, entry, WHOLE, WHOLE
            elif shared.matrix.counted_by(shared.ranks.index, position):
                for part in shared.parts:
                    yield position, part, *_sides(entry, part)

    def direction(self, position: int, part: Entry) -> Tensor:
        """The direction of a matrix in a part of it, (1, a, b)."""
        return self._product(position, part, self.left, self.right).unsqueeze(0)

    def taken(self, position: int, part: Entry) -> Tensor:
        """The direction that the last step took of a matrix, in a part of it, (a, b)."""
        return self._product(position, part, self.kept_left, self.kept_right)

    def _product(
        self, position: int, part: Entry, left: Sequence[Tensor], right: Sequence[Tensor]
    ) -> Tensor:
        """P Vᵀ, in the orientation of the matrix."""
        entry = self.entries[position]
        small, large = _sides(entry, part)
        p, v = left[position][small], right[position][large]
        product: Tensor = v @ p.mT if _is_tall(entry) else p @ v.mT
        return product

    def keep(self, positions: Sequence[int], entries: Sequence[Entry], directions: Tensor) -> None:
        """The factors are kept as they are found."""

    def close(self) -> None:
        """Nothing is counted."""


def start_sketch(
    sketch: Sketch, dtype: torch.dtype, p: Tensor, view: View, own: dict[str, Any]
) -> None:
    """Give a parameter the sketches of its matrices, zero, where it has none yet."""
    for key, shape in sketch_shapes(sketch, p, view).items():
        if key not in own:
            own[key] = torch.zeros(shape, dtype=dtype, device=p.device)


def sketch_shapes(sketch: Sketch, p: Tensor, view: View) -> dict[str, tuple[int, int, int]]:
    """What is kept of a parameter: how many matrices of each shape, and the sizes of P and V.

    Example:
        >>> sketch_shapes(Sketch(rank=3), torch.empty(4, 6), {"kind": "whole"})
        {'sketch_left': (1, 4, 3), 'sketch_right': (1, 6, 3)}
    """
    counts: dict[tuple[int, int], int] = {}
    for shape in logical_shapes(view, tuple(p.shape)) if p.numel() else []:
        counts[shape] = counts.get(shape, 0) + 1
    shapes = {}
    for block, (shape, count) in enumerate(counts.items()):
        small, large = sorted(shape)
        rank = min(sketch.rank, small)
        shapes[key_of(LEFT, block)] = (count, small, rank)
        shapes[key_of(RIGHT, block)] = (count, large, rank)
    return shapes


def _begun(v: Tensor, seed: int) -> Tensor:
    """V, a Gaussian matrix where there is none yet."""
    random = _gaussian(*v.shape, seed, v.dtype, v.device)
    return torch.where((v != 0).any(), v, random)


def _is_tall(entry: Entry) -> bool:
    rows, columns = entry.target.shape
    return rows > columns


def _wide(entry: Entry, part: Tensor) -> Tensor:
    """A part of a matrix, transposed where the matrix is tall."""
    return part.mT if _is_tall(entry) else part


def _sides(entry: Entry, part: Entry) -> tuple[Side, Side]:
    """Where a part of a matrix lies along its smaller side and along its larger one."""
    if entry.shared is None:
        return WHOLE, WHOLE
    rows, columns = sides_of(entry.shared, part)
    return (columns, rows) if _is_tall(entry) else (rows, columns)


def _orthonormal(images: Tensor) -> Tensor:
    """Orthonormal bases (B, s, r) of the ranges of a stack.

    Columns that are dependent to rounding are replaced by random ones: what the signal has in no
    direction of the basis would else never be found.
    """
    size = images.abs().amax(dim=(-2, -1), keepdim=True)
    eps = torch.finfo(images.dtype).eps
    random = _gaussian(*images.shape[-2:], 0, images.dtype, images.device)
    filled = divided(images, size) + torch.where(size > 0, eps, 1.0).to(images.dtype) * random
    basis: Tensor = torch.linalg.qr(filled).Q
    return basis


@functools.lru_cache(maxsize=64)
def _gaussian(
    rows: int, columns: int, seed: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """The same random matrix on all processes and devices; not to be written to."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return drawn.to(device, dtype)
