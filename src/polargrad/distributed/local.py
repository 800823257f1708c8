"""Matrices that are whole on this device: stacks of equal ones, one batched call a stack."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["STACK_BYTES", "LocalExecutor", "Source", "StackFunction", "stacks"]

# A stack is a copy that a step makes; it is cut where it would pass this size.
STACK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Source:
    """One logical matrix: what it is read from, and which others may share a stack with it.

    Attributes:
        key: sources of equal keys share a stack; shape, dtype and device belong into it.
        size: the bytes of the matrix in a stack.
        read: returns the matrix, and others of its shape that the function needs beside it. It is
            called when the stack is made, so that no more than one stack is held at a time.
    """

    key: Hashable
    size: int
    read: Callable[[], tuple[Tensor, ...]]

    @classmethod
    def of(cls, *matrices: Tensor) -> Source:
        """The source of matrices that exist already, of one shape, dtype and device."""
        first = matrices[0]
        key = (tuple(first.shape), first.dtype, first.device)
        return cls(key, first.numel() * first.element_size(), lambda: matrices)


# Takes the positions of the matrices of a stack, and their stacks (B, m, n); returns tensors whose
# first dimension is B.
StackFunction = Callable[..., tuple[Tensor, ...]]
Deliver = Callable[[list[int], tuple[Tensor, ...]], None]


class LocalExecutor:
    """Maps functions of matrices over plain tensors on one device."""

    def map(self, function: StackFunction, sources: Sequence[Source], deliver: Deliver) -> None:
        """Apply ``function`` to stacks of equal matrices; hand each stack's results on.

        ``function(positions, *stacks)`` takes stacks (B, m, n) and returns tensors whose first
        dimension is B; ``deliver(positions, results)`` gets them before the next stack is made. A
        stack holds at most 64 MiB, or one matrix; one of a single matrix is not copied.

        Example:
            >>> halves = {}
            >>> LocalExecutor().map(
            ...     lambda positions, x: (x / 2,),
            ...     [Source.of(torch.eye(2)), Source.of(torch.ones(1, 3))],
            ...     lambda positions, results: halves.update(zip(positions, results[0])),
            ... )
            >>> halves[1]
            tensor([[0.5000, 0.5000, 0.5000]])
        """
        for positions in stacks(sources):
            read = [sources[i].read() for i in positions]
            if len(positions) == 1:
                stacked = [matrix.unsqueeze(0) for matrix in read[0]]
            else:
                stacked = [torch.stack(matrices) for matrices in zip(*read, strict=True)]
            deliver(positions, function(positions, *stacked))


class _Sized(Protocol):
    """What may share a stack."""

    @property
    def key(self) -> Hashable: ...
    @property
    def size(self) -> int: ...


def stacks(sources: Sequence[_Sized]) -> Iterator[list[int]]:
    """Yield the positions of the matrices of each stack."""
    buckets: dict[Hashable, list[int]] = {}
    for position, source in enumerate(sources):
        buckets.setdefault(source.key, []).append(position)
    for positions in buckets.values():
        most = max(1, STACK_BYTES // max(1, sources[positions[0]].size))
        for start in range(0, len(positions), most):
            yield positions[start : start + most]
