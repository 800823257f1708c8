"""The options that every preset hands on to the engine unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict, get_type_hints

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

__all__ = ["EngineOptions", "PolarOptions", "point"]


class EngineOptions(TypedDict, total=False):
    """Options of :class:`polargrad.optim.MatrixOptimizer` that mean the same in every preset."""

    decay_per_step: float
    first_step: float | None
    step_rate: float | None
    approximation: Any
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
    process_group: ProcessGroup | None


class PolarOptions(EngineOptions, total=False):
    """The same, and how a polar factor is computed (:func:`polargrad.polar`)."""

    method: Any
    tol: float | None
    compute_dtype: torch.dtype | str | None


def point(preset: object, allowed: type, options: Mapping[str, Any], **own: Any) -> dict[str, Any]:
    """The point of the engine's space that a preset is: its own options, and those handed on.

    Args:
        preset: whose name a message bears.
        allowed: ``EngineOptions`` or ``PolarOptions``.
        options: what the user gave beside the preset's own arguments.
        **own: what the preset decides.

    Raises:
        TypeError: for an option that the preset decides itself, or that it has not.

    Example:
        >>> point("SignSGD", EngineOptions, {"foreach": False}, magnitude="unit")
        {'magnitude': 'unit', 'foreach': False}
    """
    name = preset if isinstance(preset, str) else type(preset).__name__
    known = get_type_hints(allowed)
    for key, value in options.items():
        if key in own:
            raise TypeError(f"{name} decides {key} itself ({own[key]!r}), got {key}={value!r}")
        if key not in known:
            raise TypeError(
                f"{name} has no option {key!r}; beside its own there are {', '.join(known)}"
            )
    return {**own, **options}
