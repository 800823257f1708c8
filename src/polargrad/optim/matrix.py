r"""The matrix rule: signal → direction → magnitude → step, for every matrix of a group at once.

.. math:: s = \text{signal}(g), \quad d = \text{direction}(s),\; \|d\| \le 1, \quad
          a = \text{magnitude}(s, d), \quad X \leftarrow \delta X - \gamma\,a\,u

u is d itself (momentum-first) or a momentum of directions (polar-first).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polargrad.distributed import LocalExecutor
from polargrad.geometry import Spectral, magnitude
from polargrad.linalg.precision import COMPUTE_DTYPES, working_dtype
from polargrad.optim.resolve import resolve
from polargrad.optim.routing.views import View, join, logical_matrices

BUFFER = "momentum_buffer"


def matrix_update(
    group: dict[str, Any],
    params: list[Tensor],
    views: list[View],
    state: Any,
    gate: Tensor | None,
    decay: Tensor | float | None,
) -> None:
    """Step the parameters in ``params``, which all have gradients, with the options of ``group``.

    ``decay`` is the factor that decay leaves of a parameter (:func:`decay_factor`).
    ``gate`` is None, or a tensor that is true where the step counts; otherwise parameters and state
    keep every bit, and nothing waits for the device to tell.
    """
    gradients = [_gradient(p) for p in params]
    for p in params:
        state.setdefault(p, {})  # without momentum too: torch.distributed.checkpoint asks for it
    beta = group["momentum"]
    first = group["order"] == "momentum-first"
    signals = _average(params, gradients, state, group, gate) if beta and first else gradients

    def ascent(stack: Tensor) -> tuple[Tensor, Tensor]:
        spectral = Spectral(resolve(group, stack), COMPUTE_DTYPES.get(group["compute_dtype"]))
        direction, dual = spectral.ascent(stack)
        size = magnitude(group["magnitude"], dual, *stack.shape[-2:])
        size = size if isinstance(size, Tensor) else torch.full_like(dual, size)
        scale = size * group["lr"]
        return (direction * scale[:, None, None], scale) if first else (direction, scale)

    pieces = [logical_matrices(v, s) for v, s in zip(views, signals, strict=True)]
    results = iter(LocalExecutor().map(ascent, [m for piece in pieces for m in piece]))
    own = [[next(results) for _ in piece] for piece in pieces]
    joined = [
        join(v, [d for d, _ in mine], p.shape) if mine else torch.zeros_like(p)
        for v, mine, p in zip(views, own, params, strict=True)
    ]
    if not first:
        smooth = _average(params, joined, state, group, gate) if beta else joined
        joined = [
            _times(v, u, [scale for _, scale in mine])
            for v, u, mine in zip(views, smooth, own, strict=True)
        ]
    for p, delta in zip(params, joined, strict=True):
        if gate is None:
            if decay is not None:
                p.mul_(decay)
            p.sub_(delta)
        else:
            kept = p if decay is None else p * decay
            _store(p, kept - delta, gate)


def _gradient(p: Tensor) -> Tensor:
    """The gradient in at least float32; p.grad stays."""
    assert p.grad is not None
    return p.grad.to(working_dtype(p.grad.dtype))


def _average(
    params: list[Tensor],
    inputs: list[Tensor],
    state: Any,
    group: dict[str, Any],
    gate: Tensor | None,
) -> list[Tensor]:
    """M ← βM + (1−β)·input in the state; return M, or with Nesterov βM + (1−β)·input, as new."""
    beta = group["momentum"]
    result = []
    for p, x in zip(params, inputs, strict=True):
        if BUFFER not in state[p]:
            state[p][BUFFER] = torch.zeros_like(
                p, dtype=working_dtype(p.dtype), memory_format=torch.preserve_format
            )
        buffer = state[p][BUFFER]
        x = x.to(buffer.dtype)
        if gate is None:
            buffer.lerp_(x, 1.0 - beta)
        else:
            _store(buffer, torch.lerp(buffer, x, 1.0 - beta), gate)
        result.append(torch.lerp(x, buffer, beta) if group["nesterov"] else buffer)
    return result


def _store(target: Tensor, value: Tensor, gate: Tensor) -> None:
    """target ← value where the step counts; where it does not, every bit stays."""
    target.copy_(torch.where(gate.to(target.device), value, target))


def _times(view: View, u: Tensor, scales: list[Tensor]) -> Tensor:
    """u with each of its logical matrices multiplied by its own scale."""
    if not scales:
        return u
    parts = logical_matrices(view, u)
    return join(view, [part * s for part, s in zip(parts, scales, strict=True)], u.shape)


def decay_factor(group: dict[str, Any]) -> Tensor | float | None:
    """Return the factor (1 − γλ)(1 − λ'γ/γ₀) that decay leaves of a matrix, None for no decay.

    Raises:
        ValueError: if a schedule has raised lr so far that λ'γ/γ₀ is 1 or more, which would turn
            the sign of every entry. (A tensor lr is not looked at: that would wait for its device.)
    """
    if not group["weight_decay"] and not group["decay_per_step"]:
        return None
    lr = group["lr"]
    factor: Tensor | float = 1.0 - lr * group["weight_decay"]
    if group["decay_per_step"]:
        shrink = group["decay_per_step"] * lr / group["base_lr"]
        if not isinstance(shrink, Tensor) and shrink >= 1.0:
            raise ValueError(
                f"decay_per_step={group['decay_per_step']} with lr={lr}, raised from "
                f"{group['base_lr']}, would shrink matrices by the factor 1 − {shrink:.3g}: give a "
                "smaller decay_per_step, or the schedule's largest lr at construction"
            )
        factor = factor * (1.0 - shrink)
    return factor
