"""State of the shape of a parameter: its momentum, and its last direction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from polargrad.linalg.precision import COMPUTE_DTYPES, working_dtype
from polargrad.optim.step_size import LAST, LAST_DTYPE

__all__ = ["BUFFER", "buffer_dtype", "buffer_of", "last_of"]

BUFFER = "momentum_buffer"


def buffer_dtype(group: Mapping[str, Any], p: Tensor) -> torch.dtype:
    """The dtype of a momentum: as asked for, else at least float32."""
    return COMPUTE_DTYPES.get(group["state_dtype"], working_dtype(p.dtype))


def buffer_of(group: Mapping[str, Any], p: Tensor, own: dict[str, Any]) -> Tensor:
    """The momentum in the state of a parameter, zero before the first step; sharded as it is."""
    return _kept(BUFFER, buffer_dtype(group, p), p, own)


def last_of(p: Tensor, own: dict[str, Any]) -> Tensor:
    """The last direction in the state of a parameter, zero before the first step."""
    return _kept(LAST, LAST_DTYPE, p, own)


def _kept(key: str, dtype: torch.dtype, p: Tensor, own: dict[str, Any]) -> Tensor:
    if key not in own:
        own[key] = torch.zeros_like(p, dtype=dtype, memory_format=torch.preserve_format)
    kept: Tensor = own[key]
    return kept
