"""How long a step is, and what decay leaves: the learning rate of a group, as it stands."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["decay_factor", "step_size"]


def step_size(group: dict[str, Any]) -> Tensor | float:
    """γ: the learning rate of a group, with the ratio that ``shared_lr`` keeps beside it.

    A tensor is taken in float64, in which 1 − γλ is not 1; it does not widen what it multiplies.
    """
    size: Tensor | float = _wide(group["lr"]) * group["lr_scale"]
    return size


def decay_factor(group: dict[str, Any]) -> Tensor | float | None:
    """Return the factor (1 − γλ)(1 − λ'γ/γ₀) that decay leaves of a matrix, None for no decay.

    Raises:
        ValueError: if a schedule has raised lr so far that γλ or λ'γ/γ₀ is 1 or more, which would
            turn the sign of every entry. (A tensor is not looked at: that would wait for its
            device.)
    """
    lr, factor = _wide(group["lr"]), None
    for key, size in (("weight_decay", step_size(group)), ("decay_per_step", lr)):
        decay = group[key]
        if not isinstance(decay, Tensor) and not decay:
            continue
        share = _wide(decay) * size
        if key == "decay_per_step":
            share = share / group["base_lr"]
        if not isinstance(share, Tensor) and share >= 1.0:
            raise ValueError(
                f"{key}={decay} with lr={group['lr']}, raised from {group['base_lr']}, would "
                f"shrink matrices by the factor 1 − {share:.3g}: give a smaller {key}, or the "
                "schedule's largest lr at construction"
            )
        factor = (1.0 - share) if factor is None else factor * (1.0 - share)
    return factor


def _wide(value: Tensor | float) -> Tensor | float:
    """A tensor of one number as such, in float64 where its device has that."""
    if not isinstance(value, Tensor):
        return value
    return value.reshape(()).to(torch.float32 if value.device.type == "mps" else torch.float64)
