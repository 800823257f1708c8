"""A step of matrices whose Gram matrices say enough: their strips stay where they are."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from polargrad.distributed import GramExecutor, GramSource, goes_by_gram
from polargrad.distributed.ranks import Ranks
from polargrad.distributed.shared_matrix import SharedMatrix
from polargrad.geometry import Geometry, Spectral
from polargrad.linalg.gram_side import gram_side, works_from_gram
from polargrad.linalg.precision import working_dtype
from polargrad.optim.approximate import Step
from polargrad.optim.entries import Entry
from polargrad.optim.resolve import resolve
from polargrad.optim.shared_step import reads_of
from polargrad.optim.signal import signal_from
from polargrad.optim.stages import stage

__all__ = ["GramStep", "by_gram", "is_by_gram", "step_by_gram"]


class GramStep(Step, Protocol):
    """What :class:`polargrad.optim.matrix.Update` has for it.

    Attributes:
        names: of the parameters of the step.
    """

    @property
    def names(self) -> list[str]: ...


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


def by_gram(
    group: dict[str, Any],
    form: Geometry,
    entries: Sequence[Entry],
    positions: Iterable[int],
    key: str,
) -> dict[Ranks, list[int]]:
    """The positions of the matrices that are stepped by their Gram matrices, by who shares them.

    Args:
        group, form: as for :func:`is_by_gram`.
        entries: all matrices of a step.
        positions: of those that are asked about.
        key: ``"buffer"`` or ``"gradient"``, what the signal is read from.
    """
    found: dict[Ranks, list[int]] = {}
    for position in positions:
        shared = entries[position].shared
        if shared is None:
            continue
        dtype = shared.dtypes[2 if key == "buffer" else 1]
        if is_by_gram(group, form, shared.matrix, shared.ranks.size, dtype, shared.device):
            found.setdefault(shared.ranks, []).append(position)
    return found


def step_by_gram(step: GramStep, positions: Iterable[int]) -> list[int]:
    """Step those of some matrices whose Gram matrices say enough; return which are left.

    Args:
        step: with its group and its matrices.
        positions: of the matrices.
    """
    reads, positions = reads_of(step.group, step.geometry), list(positions)
    far = by_gram(step.group, step.geometry, step.entries, positions, reads[0])
    if not far:
        return positions

    def weigh(found: list[int], grams: Tensor) -> tuple[Tensor, ...]:
        shape = step.entries[found[0]].target.shape
        example = torch.empty((), dtype=torch.float32, device=grams.device).expand(1, *shape)
        # Where the verdict on the gradients stays on a device, what is not finite gets this far; it
        # is not taken, but an eigendecomposition may not meet it.
        finite = grams.diagonal(dim1=-2, dim2=-1).sum(dim=-1).isfinite()
        with stage("direction"):
            grams = torch.where(finite[:, None, None], grams, 0.0)
            side = gram_side(resolve(step.group, example), grams)
        return side.weights, step.lengths(found, side.inner.to(torch.float32), shape)

    def take(position: int, strips: list[Tensor], rest: list[Tensor]) -> None:
        entry = step.entries[position]
        assert entry.shared is not None  # or there would be no strips
        with stage("update"):
            for part, strip in zip(entry.shared.parts, strips, strict=True):
                direction = strip if _is_tall(entry) else strip.mT
                step.take([position], [part], direction.unsqueeze(0), rest[0], None)

    for ranks, some in far.items():
        entries = [step.entries[i] for i in some]
        sources = [_source(step.group, e, step.names[e.parameter], reads) for e in entries]
        GramExecutor(ranks).map(weigh, sources, take, some)
    stepped = set(itertools.chain.from_iterable(far.values()))
    return [position for position in positions if position not in stepped]


def _source(group: dict[str, Any], entry: Entry, name: str, reads: tuple[str, ...]) -> GramSource:
    """A matrix as its processes hold it, tall whatever it is."""
    shared, tall = entry.shared, _is_tall(entry)
    assert shared is not None  # as it was chosen for

    def read() -> list[Tensor]:
        strips = [
            signal_from(group, [getattr(part, key).matrix() for key in reads])
            for part in shared.parts
        ]
        return strips if tall else [strip.mT for strip in strips]

    return GramSource(shared.matrix, read, name, shared.device)


def _is_tall(entry: Entry) -> bool:
    rows, columns = entry.target.shape
    return rows >= columns
