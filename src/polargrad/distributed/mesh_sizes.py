"""A mesh of processes that need not exist: its dimensions, and who is near whom."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["DIMENSIONS", "MeshSizes"]

# The outermost first: replicas, shards of fully_shard, shards of tensor parallelism.
DIMENSIONS = ("dp", "fsdp", "tp")


@dataclass(frozen=True)
class MeshSizes:
    """How many processes a mesh has in each dimension; neighbours in the last one come first.

    Args:
        dp: replicas.
        fsdp: shards that ``fully_shard`` makes of each replica.
        tp: shards that tensor parallelism makes of each of them.

    Raises:
        ValueError: for a size below 1.

    Example:
        >>> MeshSizes(dp=2, fsdp=4).ranks
        8
    """

    dp: int = 1
    fsdp: int = 1
    tp: int = 1

    def __post_init__(self) -> None:
        for name, size in zip(DIMENSIONS, self.sizes, strict=True):
            if size < 1:
                raise ValueError(f"mesh: {name} must be at least 1, got {size}")

    @classmethod
    def parse(cls, text: str) -> MeshSizes:
        """Return the mesh that a text such as ``"dp=8,fsdp=32"`` describes.

        Raises:
            ValueError: for another form, an unknown dimension or one that is there twice.

        Example:
            >>> MeshSizes.parse("dp=8,fsdp=32")
            MeshSizes(dp=8, fsdp=32, tp=1)
        """
        sizes: dict[str, int] = {}
        for part in text.split(","):
            name, equals, size = (piece.strip() for piece in part.partition("="))
            if not equals or name not in DIMENSIONS or not size.isdecimal():
                raise ValueError(
                    f"mesh must be sizes of {', '.join(DIMENSIONS)}, such as 'dp=8,fsdp=32', "
                    f"got {text!r}"
                )
            if name in sizes:
                raise ValueError(
                    f"mesh must have each dimension once, got {name} twice in {text!r}"
                )
            sizes[name] = int(size)
        return cls(**sizes)

    def __str__(self) -> str:
        """As it is parsed, without the dimensions of size 1.

        Example:
            >>> str(MeshSizes(dp=8, fsdp=32)), str(MeshSizes())
            ('dp=8,fsdp=32', 'dp=1')
        """
        sizes = zip(DIMENSIONS, self.sizes, strict=True)
        return ",".join(f"{name}={size}" for name, size in sizes if size > 1) or "dp=1"

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Of the dimensions, the outermost first."""
        return self.dp, self.fsdp, self.tp

    @property
    def ranks(self) -> int:
        """How many processes there are."""
        return math.prod(self.sizes)

    def links(self, rank: int) -> Tensor:
        """Return for each process over which link it and ``rank`` speak, as a place in the names.

        Those of one group of tensor parallelism over ``tp``, others of one replica over ``fsdp``,
        and those of different replicas over ``dp``: the outermost dimension in which they differ.

        Example:
            >>> [DIMENSIONS[k] for k in MeshSizes(dp=2, fsdp=2).links(0)[1:]]
            ['fsdp', 'dp', 'dp']
        """
        others = torch.arange(self.ranks)
        replica, group = self.fsdp * self.tp, self.tp
        near = torch.where(others // group == rank // group, 2, 1)
        return torch.where(others // replica == rank // replica, near, 0)
