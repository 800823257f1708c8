"""Matrices that are whole on this device: stacks of equal ones, one batched call a stack."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# A stack is the one copy that a step makes; it is cut where it would pass this size.
STACK_BYTES = 64 * 2**20

StackFunction = Callable[[Tensor], tuple[Tensor, ...]]


class LocalExecutor:
    """Maps functions of matrices over plain tensors on one device."""

    def map(self, function: StackFunction, matrices: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        """Apply ``function`` to stacks of equal matrices; return each matrix its own results.

        ``function`` takes a stack (B, m, n) and returns tensors whose first dimension is B.
        Matrices of one shape, dtype and device share a call; a stack holds at most 64 MiB, or
        one matrix.

        Example:
            >>> halves = LocalExecutor().map(lambda x: (x / 2,), [torch.eye(2), torch.ones(1, 3)])
            >>> halves[1]
            (tensor([[0.5000, 0.5000, 0.5000]]),)
        """
        buckets: dict[tuple[object, ...], list[int]] = {}
        for index, matrix in enumerate(matrices):
            key = (matrix.shape, matrix.dtype, matrix.device)
            buckets.setdefault(key, []).append(index)
        results: list[tuple[Tensor, ...]] = [()] * len(matrices)
        for indices in buckets.values():
            first = matrices[indices[0]]
            most = max(1, STACK_BYTES // max(1, first.numel() * first.element_size()))
            for start in range(0, len(indices), most):
                chosen = indices[start : start + most]
                if len(chosen) == 1:  # no copy
                    outputs = function(matrices[chosen[0]].unsqueeze(0))
                else:
                    outputs = function(torch.stack([matrices[i] for i in chosen]))
                for position, i in enumerate(chosen):
                    results[i] = tuple(output[position] for output in outputs)
        return results


def executor_for(parameter: Tensor, name: str) -> LocalExecutor:
    """Return the executor for a parameter.

    Raises:
        TypeError: for a sharded parameter (DTensor), which would be stepped by its shards.
    """
    if hasattr(parameter, "device_mesh"):
        raise TypeError(
            f"parameter {name} is a DTensor, and a shard is not the matrix: this version steps "
            "whole parameters only. Use DistributedDataParallel, or leave it out of fully_shard"
        )
    return LocalExecutor()
