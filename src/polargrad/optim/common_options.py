"""The options that every preset hands on to the engine unchanged."""

from __future__ import annotations

from typing import Any, TypedDict

import torch
from torch import Tensor

__all__ = ["EngineOptions", "PolarOptions"]


class EngineOptions(TypedDict, total=False):
    """Options of :class:`polargrad.optim.MatrixOptimizer` that mean the same in every preset."""

    decay_per_step: float
    state_dtype: torch.dtype | str | None
    rounding: str
    rounding_seed: int
    maximize: bool
    foreach: bool | None
    capturable: bool
    differentiable: bool
    nonfinite: str
    shared_lr: bool
    vector_lr: float | Tensor | None
    vector_betas: tuple[float, float]
    vector_eps: float
    vector_weight_decay: float


class PolarOptions(EngineOptions, total=False):
    """The same, and how a polar factor is computed (:func:`polargrad.polar`)."""

    method: Any
    tol: float | None
    compute_dtype: torch.dtype | str | None
