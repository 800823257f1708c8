"""Signals: a momentum of gradients, or of directions, as it is looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polargrad.linalg.precision import HALF

__all__ = [
    *("FORMS", "as_read", "as_used", "beta_of", "first_weight", "is_averaged", "mixed"),
    *("newest_share", "signal_from", "weight"),
]

# How a momentum is formed: (1 − β) x is added to β M, or x itself.
FORMS = ("ema", "heavy-ball")


def mixed(
    momentum: Tensor,
    new: Tensor | None,
    beta: float | Tensor,
    *,
    form: str,
    counts: Tensor | None,
    share: float | None = None,
) -> Tensor:
    r"""A stack of momenta as it is used: with a look ahead, and corrected for its bias.

    .. math::
       \begin{aligned}
         &\text{plain} & &M & &M/(1-\beta^t) \\
         &\text{Nesterov} & &\beta M + (1-\beta)\,x &
           &\beta M/(1-\beta^{t+1}) + (1-\beta)\,x/(1-\beta^t) \\
         &\text{a share } a & &(1-a) M + a\,x & &(1-a) M/(1-\beta^t) + a\,x \\
         &\text{heavy ball, Nesterov} & &\beta M + x
       \end{aligned}

    on the right with bias correction, whose weights of the gradients so far add up to 1.

    Args:
        momentum: M after the last x, (B, m, n).
        new: x, for Nesterov; None without.
        beta: β.
        form: ``"ema"`` or ``"heavy-ball"``.
        counts: t of each matrix, (B,), for a correction; None without.
        share: a, of the newest; None for Nesterov's.

    Returns:
        The stack, which may be ``momentum`` itself.

    Source: Y. Nesterov (1983); T. Dozat, *Incorporating Nesterov momentum into Adam* (2016);
    J. Ma and D. Yarats, *Quasi-hyperbolic momentum and Adam for deep learning* (2019), for a.
    """
    if new is not None and share is not None:
        past = mixed(momentum, None, beta, form=form, counts=counts)
        return torch.lerp(past, new, share)
    if counts is None:
        if new is None:
            return momentum
        if form == "heavy-ball":
            return new + beta * momentum
        return torch.lerp(new, momentum, weight(beta, momentum))
    # A matrix that has not begun is zero, whatever it is divided by.
    t = counts.to(torch.float64).clamp(min=1.0)[:, None, None]
    now = (1.0 - beta**t).to(momentum.dtype)
    if new is None:
        return momentum / now
    ahead = (1.0 - beta ** (t + 1)).to(momentum.dtype)
    return beta * momentum / ahead + (1.0 - beta) * new / now


def as_used(
    group: Mapping[str, Any], momentum: Tensor, new: Tensor, counts: Tensor | None = None
) -> Tensor:
    """A stack of momenta as the options of a group use it: :func:`mixed` with the newest or not."""
    given = group["nesterov"]
    return mixed(
        momentum,
        new if given else None,
        beta_of(group),
        form=group["momentum_form"],
        counts=counts,
        share=None if isinstance(given, bool) else given,
    )


def beta_of(group: Mapping[str, Any]) -> float | Tensor:
    """β, a number or a tensor of no dimension."""
    beta: float | Tensor = group["momentum"]
    return beta.reshape(()) if isinstance(beta, Tensor) else beta


def newest_share(group: Mapping[str, Any]) -> float | Tensor:
    """The share a of the newest in (1 − a)M + a·x; 1 − β for Nesterov's."""
    given = group["nesterov"]
    return 1.0 - beta_of(group) if given is True else float(given)


def first_weight(group: Mapping[str, Any], like: Tensor) -> Tensor:
    """How much of its first term an average of directions is when it is used, as one number."""
    new = like.new_ones(1, 1, 1)
    momentum = new * (1.0 - beta_of(group)) if group["momentum_form"] == "ema" else new
    counts = like.new_ones(1) if group["bias_correction"] else None
    return as_used(group, momentum, new, counts).reshape(())


def weight(beta: float | Tensor, like: Tensor) -> float | Tensor:
    """A weight for ``torch.lerp``, which wants a tensor of the dtype of its operands."""
    if isinstance(beta, Tensor):
        return beta.reshape(()).to(like.device, like.dtype)
    return beta


def is_averaged(group: Mapping[str, Any]) -> bool:
    """Whether there is a momentum."""
    beta = group["momentum"]
    return isinstance(beta, Tensor) or beta > 0


def as_read(stacks: Sequence[Tensor], *, averaged: bool, maximize: bool) -> tuple[Tensor, Tensor]:
    """The momentum and the gradient of a stack in at least float32, with the sign of the ascent.

    Args:
        stacks: what is read of it: the momentum, if there is one, and the gradient where needed.
        averaged: whether the first of them is a momentum, which has the sign in it.
        maximize: whether gradients are negated.

    Returns:
        Both; each is the other where only that was read.
    """
    momentum = _working(stacks[0])
    if averaged and len(stacks) == 1:
        return momentum, momentum
    gradient = _working(stacks[-1]) if len(stacks) > 1 else momentum
    gradient = gradient if gradient.dtype == momentum.dtype else gradient.to(momentum.dtype)
    gradient = -gradient if maximize else gradient
    return (momentum if averaged else gradient), gradient


def signal_from(group: Mapping[str, Any], stacks: Sequence[Tensor]) -> Tensor:
    """The signal of a stack, or of parts of matrices, in at least float32; without correction.

    Args:
        group: of the matrices.
        stacks: what is read of them, as for :func:`as_read`.
    """
    averaged = is_averaged(group) and group["order"] == "momentum-first"
    momentum, gradient = as_read(stacks, averaged=averaged, maximize=group["maximize"])
    if not averaged:
        return momentum
    return as_used(group, momentum, gradient)


def _working(x: Tensor) -> Tensor:
    """A tensor in at least float32."""
    return x.to(torch.float32) if x.dtype in HALF else x
