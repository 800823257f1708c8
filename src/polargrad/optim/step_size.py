"""How long a step is, given or found by the run, and what decay leaves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from polargrad.geometry import magnitude
from polargrad.optim.hypergradient import COLUMNS, FALLS
from polargrad.optim.signal import is_averaged

__all__ = [
    *("EVIDENCE", "FOUND", "FOUND_KEYS", "GIVEN", "LAST", "LAST_DTYPE", "LOOK", "NORM"),
    *("PAIR", "REACH", "SIZE"),
    *("STEP_SIZES", "decay_factor", "evidence_columns", "is_found", "looks_at_directions"),
    *("start_step_size", "step_length", "step_size", "takes_dual_norm"),
]

GIVEN, FOUND = "given", "hypergradient"
STEP_SIZES = (GIVEN, FOUND)
# The state of a step size that the run finds: the last direction, of the parameter's shape, and for
# each of its matrices the size, the numbers of `hypergradient.COLUMNS`, and how far it may double.
LAST, SIZE, EVIDENCE = "last_direction", "step_size", "step_size_evidence"
REACH = "step_size_reach"
FOUND_KEYS = (LAST, SIZE, EVIDENCE, REACH)
# Where directions are looked at, what the last two said; infinite before the first.
LOOK = "step_size_look"
# There too the spectral norms of the last directions, and the vectors that find them.
NORM, PAIR = "last_direction_norm", "last_direction_vectors"
# Of the last direction only an angle is asked: rounding it turns that by less than noise does.
LAST_DTYPE = torch.bfloat16
# The first size, as a share of the root mean square of the singular values, and of a matrix that is
# zero, as a number. It is the reach at momentum 0.95: a network loses the steps in which a smaller
# one grows.
FIRST_SHARE = 0.05
FIRST_OF_ZERO = 0.01
# What a momentum remembers of steps of the size to which one may double goes this many times as far
# as the matrix is large. Steps after the first are no longer than that to begin with: a network
# does not win back what it loses there. At 2 one with tanh ends at four times the loss.
FARTHEST = 1.0


def step_size(group: Mapping[str, Any]) -> Tensor | float:
    """γ: the learning rate of a group, with the ratio that ``shared_lr`` keeps beside it.

    A tensor is taken in float64, in which 1 − γλ is not 1; it does not widen what it multiplies.
    """
    size: Tensor | float = _wide(group["lr"]) * group["lr_scale"]
    return size


def step_length(
    group: Mapping[str, Any], dual: Tensor | float, dtype: torch.dtype, rows: int, columns: int
) -> Tensor | float:
    """γ·a, of each matrix of a stack or of the one whose dual norm is a number.

    Of a step size that is found it is the multiplier alone.
    """
    # A dual norm that float32 cannot hold is not one to multiply zeros by.
    bounds = [torch.finfo(dtype).max]
    if group["max_dual_norm"] is not None:
        bounds.append(group["max_dual_norm"])
    dual = dual.clamp(max=min(bounds)) if isinstance(dual, Tensor) else min(dual, *bounds)
    kind, exponent = group["magnitude"], group["exponent"]
    if kind == "dual_norm" and not takes_dual_norm(group):
        kind = "unit"  # the size that is found takes its place
    size = magnitude(kind, dual, rows, columns, exponent=exponent)
    if isinstance(dual, Tensor) and not isinstance(size, Tensor):
        size = torch.full_like(dual, size)
    return size * step_size(group)


def takes_dual_norm(group: Mapping[str, Any]) -> bool:
    """Whether the dual norm is a part of the step."""
    return bool(group["magnitude"] == "dual_norm") and not is_found(group)


def decay_factor(group: dict[str, Any]) -> Tensor | float | None:
    """Return the factor (1 − γλ)(1 − λ'γ/γ₀) that decay leaves of a matrix, None for no decay.

    Raises:
        ValueError: if a schedule has raised lr so far that γλ or λ'γ/γ₀ is 1 or more, which would
            turn the sign of every entry. (A tensor is not looked at: that would wait for its
            device.)
    """
    lr, factor = _wide(group["lr"]), None
    for key, size in (("weight_decay", step_size(group)), ("decay_per_step", lr)):
        if key == "weight_decay" and is_found(group):
            continue  # a part of the step, as its size depends on the matrix
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


def is_found(group: Mapping[str, Any]) -> bool:
    """Whether the step size of a group is found by the run."""
    return bool(group.get("step_size", GIVEN) == FOUND)


def looks_at_directions(group: Mapping[str, Any]) -> bool:
    """Whether averages of polar factors say of themselves how long steps should be.

    Approximations repeat directions, which then say nothing of the next.
    """
    return (
        is_found(group)
        and group["order"] == "polar-first"
        and is_averaged(group)
        and group.get("approximation") is None
    )


def evidence_columns(group: Mapping[str, Any]) -> tuple[str, ...]:
    """What is kept of the looks of each matrix."""
    return (*COLUMNS, FALLS) if looks_at_directions(group) else COLUMNS


def start_step_size(group: Mapping[str, Any], lengths: Tensor, own: dict[str, Any]) -> None:
    """Give a parameter the state of a step size that is found, but for the last direction.

    Args:
        group: with its ``first_step`` and ``momentum``.
        lengths: the root mean square of the singular values of each matrix, float32, (N,).
        own: the state of the parameter.
    """
    reach = FARTHEST * (1.0 - group["momentum"]) * lengths
    reach = torch.where(lengths > 0, reach, math.inf)
    first = group["first_step"]
    if first is None:
        sizes = torch.where(lengths > 0, FIRST_SHARE * lengths, FIRST_OF_ZERO).minimum(reach)
    else:
        sizes = reach.clamp(max=first)
    own[SIZE], own[REACH] = sizes, reach
    columns = evidence_columns(group)
    own[EVIDENCE] = torch.zeros(len(lengths), len(columns), device=lengths.device)
    if looks_at_directions(group):
        own[LOOK] = torch.full_like(sizes, math.inf)
