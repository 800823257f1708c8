"""Where the entries of a parameter are: which box of it each process of its mesh holds."""

from __future__ import annotations

import functools
import itertools
from typing import Any, NamedTuple

from torch import Tensor, nn

__all__ = ["Box", "boxes", "check_layout", "is_distributed", "local_part"]

PLAIN = (Tensor, nn.Parameter)


class Box(NamedTuple):
    """The part of a tensor between two corners.

    Attributes:
        start: the first index in each dimension.
        shape: how many there are; the box is empty where one of them is 0.
    """

    start: tuple[int, ...]
    shape: tuple[int, ...]


def is_distributed(x: Tensor) -> bool:
    """Whether a tensor is a DTensor, without an import of what makes them."""
    return type(x) not in PLAIN and hasattr(x, "device_mesh")


def local_part(x: Tensor) -> Tensor:
    """This process's part of a DTensor, which shares its memory; any other tensor itself.

    To be called without gradients.

    Example:
        >>> import torch
        >>> x = torch.ones(2)
        >>> local_part(x) is x
        True
    """
    if not is_distributed(x):
        return x
    part: Tensor = x.to_local()  # type: ignore[attr-defined]
    return part


def check_layout(parameter: Tensor, name: str) -> None:
    """Raise TypeError for a parameter whose matrix no exchange between processes can restore."""
    if getattr(parameter, "_is_flat_param", False) or getattr(parameter, "_fsdp_flattened", False):
        raise TypeError(
            f"parameter {name} of shape {tuple(parameter.shape)} was flattened by "
            "FullyShardedDataParallel, and its matrix is gone: use fully_shard (FSDP2)"
        )
    if not is_distributed(parameter):
        return
    mesh: Any = parameter.device_mesh  # type: ignore[attr-defined]
    placements: Any = parameter.placements  # type: ignore[attr-defined]
    try:
        boxes(tuple(parameter.shape), tuple(mesh.shape), tuple(placements))
    except ValueError as error:
        raise TypeError(f"parameter {name} with placements {placements}: {error}") from None


@functools.lru_cache(maxsize=4096)
def boxes(
    shape: tuple[int, ...], mesh_shape: tuple[int, ...], placements: tuple[Any, ...]
) -> tuple[Box, ...]:
    """Return the box that each process of a mesh holds, in the order of the mesh.

    Args:
        shape: of the whole tensor.
        mesh_shape: of the mesh.
        placements: ``Replicate`` or ``Shard`` for each dimension of the mesh, as a DTensor has
            them; also the strided ones of tensor parallelism inside ``fully_shard``.

    Raises:
        ValueError: for ``Partial``, or for shards that are no boxes.

    Example:
        >>> from torch.distributed.tensor import Shard
        >>> boxes((5, 3), (2,), (Shard(0),))
        (Box(start=(0, 0), shape=(3, 3)), Box(start=(3, 0), shape=(2, 3)))
    """
    found = []
    for coordinate in itertools.product(*map(range, mesh_shape)):
        runs = [[(0, size)] for size in shape]
        for placement, count, place in zip(placements, mesh_shape, coordinate, strict=True):
            if placement.is_replicate():
                continue
            if not hasattr(placement, "dim"):
                raise ValueError(
                    "its entries are sums that have not been added up; redistribute it to Shard "
                    "or Replicate"
                )
            # Tensor parallelism cut the tensor into so many pieces before fully_shard cut each.
            pieces = getattr(placement, "split_factor", 1)
            runs[placement.dim] = _shard(runs[placement.dim], count, place, pieces)
        if any(len(held) > 1 for held in runs):
            raise ValueError(
                "its shards are no boxes of the tensor: apply parallelize_module before "
                "fully_shard, on dimensions that divide evenly, or shard another dimension"
            )
        ends = [held[0] if held else (size, size) for held, size in zip(runs, shape, strict=True)]
        found.append(Box(tuple(a for a, _ in ends), tuple(b - a for a, b in ends)))
    return tuple(found)


Run = tuple[int, int]  # the first index and the one after the last


def _shard(runs: list[Run], count: int, place: int, pieces: int) -> list[Run]:
    """Of each of some equal pieces of indices the shard at a place among a count."""
    result: list[Run] = []
    for piece in range(pieces):
        for start, stop in _chunk(_chunk(runs, pieces, piece), count, place):
            if result and result[-1][1] == start:
                start = result.pop()[0]
            result.append((start, stop))
    return result


def _chunk(runs: list[Run], count: int, place: int) -> list[Run]:
    """The chunk at a place, as ``torch.chunk`` cuts what the runs hold; none where it is empty."""
    size = -(-sum(stop - start for start, stop in runs) // count)
    low, high, before = place * size, (place + 1) * size, 0
    result = []
    for start, stop in runs:
        first, last = max(low - before, 0), min(high - before, stop - start)
        if first < last:
            result.append((start + first, start + last))
        before += stop - start
    return result
