"""State of the shape of a parameter: its momentum, its last direction, one that is used again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from polargrad.linalg.precision import COMPUTE_DTYPES, working_dtype
from polargrad.optim.signal import is_averaged
from polargrad.optim.step_size import LAST, LAST_DTYPE

__all__ = ["BUFFER", "KEPT", "buffer_dtype", "buffer_of", "kept_of", "last_of", "signal_dtype"]

BUFFER, KEPT = "momentum_buffer", "kept_direction"


def buffer_dtype(group: Mapping[str, Any], p: Tensor) -> torch.dtype:
    """The dtype of a momentum: as asked for, else at least float32."""
    return COMPUTE_DTYPES.get(group["state_dtype"], working_dtype(p.dtype))


def buffer_of(group: Mapping[str, Any], p: Tensor, own: dict[str, Any]) -> Tensor:
    """The momentum in the state of a parameter, zero before the first step; sharded as it is."""
    return _kept(BUFFER, buffer_dtype(group, p), p, own)


def last_of(p: Tensor, own: dict[str, Any]) -> Tensor:
    """The last direction in the state of a parameter, zero before the first step."""
    return _kept(LAST, LAST_DTYPE, p, own)


def kept_of(group: Mapping[str, Any], p: Tensor, own: dict[str, Any]) -> Tensor:
    """The direction in the state of a parameter that is used again, zero before the first step."""
    return _kept(KEPT, signal_dtype(group, p), p, own)


def signal_dtype(group: Mapping[str, Any], p: Tensor) -> torch.dtype:
    """The dtype in which the signal of a parameter is worked on."""
    averaged = is_averaged(group) and group["order"] == "momentum-first"
    return working_dtype(buffer_dtype(group, p) if averaged else p.dtype)


def _kept(key: str, dtype: torch.dtype, p: Tensor, own: dict[str, Any]) -> Tensor:
    if key not in own:
        own[key] = torch.zeros_like(p, dtype=dtype, memory_format=torch.preserve_format)
    kept: Tensor = own[key]
    return kept
