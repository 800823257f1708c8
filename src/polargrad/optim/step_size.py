"""How long a step is, given or found by the run, and what decay leaves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from polargrad.optim.routing.views import View, regions

__all__ = [
    *("FOUND", "FOUND_KEYS", "GIVEN", "LAST", "RATE", "SEARCH", "SIZE", "STEP_SIZES"),
    *("decay_factor", "followed", "is_found", "start_step_size", "step_size", "turn"),
]

GIVEN, FOUND = "given", "hypergradient"
STEP_SIZES = (GIVEN, FOUND)
# The state of a step size that the run finds: the last direction, of the parameter's shape, and
# for each of its matrices the size, and whether it is still being searched for: 0 before the first
# sign, the sign while it stays the same, then DONE.
LAST, SIZE, SEARCH = "last_direction", "step_size", "step_size_search"
FOUND_KEYS = (LAST, SIZE, SEARCH)
DONE = 2.0
# η: see docs/step_size.md for what 0.05 to 0.2 do.
RATE = 0.1
# While all signs agree the size is off by orders of magnitude: it doubles, or is halved.
SEARCH_RATE = math.log(2.0)
# How much faster a size falls than it grows. At 1 a step that overshoots by as much as the one
# before fell short stays as it is, and the iterates go back and forth: on f = |X|²/2 from a size of
# 100 for good. At 1.1 no problem of the tests stalls, and noise costs no more.
FALL = 1.1
# The first size, as a share of the root mean square of the singular values; of a matrix that is
# zero, as a number.
FIRST_SHARE = 0.01
FIRST_OF_ZERO = 0.01
# A size stays a number whatever the objective does: one without a minimum doubles it for ever.
LARGEST = 1e30


def step_size(group: Mapping[str, Any]) -> Tensor | float:
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


def start_step_size(
    group: Mapping[str, Any], p: Tensor, view: View, own: dict[str, Any], dtype: torch.dtype
) -> None:
    """Give a parameter the state of a step size that is found, where it has none yet."""
    if all(key in own for key in FOUND_KEYS):
        return
    matrices = [region.matrix() for region in regions(view, p)] if p.numel() else []
    first = [_first(group["first_step"], matrix) for matrix in matrices]
    sizes = torch.stack(first) if first else torch.zeros(0, device=p.device)
    own[LAST] = torch.zeros_like(p, dtype=dtype, memory_format=torch.preserve_format)
    own[SIZE] = sizes
    own[SEARCH] = torch.zeros_like(sizes)


def _first(given: float | None, matrix: Tensor) -> Tensor:
    """The size that a matrix begins with, as float32 on its device."""
    if given is not None:
        return torch.full((), given, dtype=torch.float32, device=matrix.device)
    typical = torch.linalg.vector_norm(matrix.float()) / math.sqrt(min(matrix.shape))
    return torch.where(typical > 0, FIRST_SHARE * typical, FIRST_OF_ZERO)


def turn(slope: Tensor, dual_norm: Tensor) -> Tensor:
    r"""Return how far the gradient agrees with the last step, one number a matrix.

    .. math:: h_k = \frac{\langle G_k, D_{k-1}\rangle}{\|G_k\|_*} \in [-1, 1]

    :math:`-\langle G_k, D_{k-1}\rangle` is the derivative of the objective with respect to the size
    of the last step, and :math:`\|D_{k-1}\| \le 1` bounds it by the dual norm. 0/0 is 0.

    Args:
        slope: ⟨G, D⟩, (B,).
        dual_norm: ‖G‖_* or an estimate, (B,).

    Returns:
        h, clipped to [-1, 1], float32, (B,).

    Example:
        >>> turn(torch.tensor([-2.0, 3.0, 0.0]), torch.tensor([2.0, 6.0, 0.0]))
        tensor([-1.0000,  0.5000,  0.0000])
    """
    return (slope / dual_norm).nan_to_num(nan=0.0).clamp(-1.0, 1.0).float()


def followed(
    size: Tensor, search: Tensor, h: Tensor, rate: float, *, whole: Tensor | bool = True
) -> tuple[Tensor, Tensor]:
    r"""Return the step sizes and the state of their search after a look at h.

    .. math:: s_k = s_{k-1}\, e^{\eta_k h_k}, \qquad
              \eta_k = \begin{cases}
                \log 2 & \text{as long as all } h \text{ had one sign} \\
                \eta & h_k > 0 \\ 1.1\,\eta & h_k < 0
              \end{cases}

    The hypergradient of the step size in the geometry of the norm: one number a matrix, without a
    constant of the problem.

    Args:
        size: s, (B,).
        search: its state, 0 to begin with, (B,).
        h: of :func:`turn`, (B,).
        rate: η.
        whole: whether the step is taken at its full size. Held back by a schedule, a step says
            little of how far one could go, and there is no doubling.

    Example:
        >>> size, search = torch.ones(1), torch.zeros(1)
        >>> for h in (1.0, 1.0, -1.0):
        ...     size, search = followed(size, search, torch.tensor([h]), rate=0.1)
        >>> size  # 2 · 2 · exp(-0.11)
        tensor([3.5833])

    Source: A. G. Baydin et al., *Online learning rate adaptation with hypergradient descent*
    (2018), for the derivative; the norm, the search and the asymmetry are of this package.
    """
    sign = h.sign()
    searching = (search != DONE) & ((search == 0) | (sign == 0) | (sign == search))
    following_rate = torch.where(h > 0, rate, FALL * rate)
    slope = torch.where(searching & whole, SEARCH_RATE, following_rate)
    following = torch.where(searching, torch.where(sign != 0, sign, search), DONE)
    return (size * torch.exp(slope * h)).clamp(max=LARGEST), following
