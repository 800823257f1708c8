"""Tensors of any shape and dtype, one after the other in a buffer of bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Reader", "Writer", "padded"]

# A tensor begins where any dtype may.
ALIGNMENT = 16


def padded(shape: Sequence[int], dtype: torch.dtype) -> int:
    """The bytes that a tensor takes in a buffer.

    Example:
        >>> padded((3,), torch.float32)
        16
    """
    size = math.prod(shape) * dtype.itemsize
    return -(-size // ALIGNMENT) * ALIGNMENT


class Writer:
    """Fills a buffer from its beginning.

    Args:
        size: in bytes.
        device: where the buffer is made.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.buffer = torch.empty(size, dtype=torch.uint8, device=device)
        self._place = 0

    def add(self, x: Tensor) -> None:
        """Copy a tensor into the buffer, behind what is there."""
        _at(self.buffer, self._place, x.shape, x.dtype).copy_(x)
        self._place += padded(x.shape, x.dtype)


class Reader:
    """Reads the tensors of a buffer in the order in which they were written."""

    def __init__(self, buffer: Tensor) -> None:
        self._buffer, self._place = buffer, 0

    def next(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """The next tensor: a view of the buffer."""
        place = self._place
        self._place += padded(shape, dtype)
        return _at(self._buffer, place, shape, dtype)


def _at(buffer: Tensor, place: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    size = math.prod(shape) * dtype.itemsize
    return buffer[place : place + size].view(dtype).view(tuple(shape))
