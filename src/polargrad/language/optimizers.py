"""The optimizers of a training run by name, their learning rates, and the schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

# The schedule of every run: linear warmup, constant, linear to zero over the last part of the run.
WARMUP_STEPS = 20
DECAY_SHARE = 0.4

MOMENTUM = 0.95
VECTOR_BETA1 = 0.9
VECTOR_EPS = 1e-8


@dataclass(frozen=True)
class Defaults:
    """Learning rates that a run takes unless it is given others.

    Args:
        lr: the learning rate; of the matrices, where they have a rule of their own. None for step
            sizes that the run finds.
        vector_lr: the learning rate of AdamW for embeddings, head and vectors; None for ``lr``.
    """

    lr: float | None
    vector_lr: float | None


# Preset tiny on the standard library, 400 steps, seed 0: the best of benchmarks/tiny_sweep.py over
# both learning rates; of adamw the best with one for everything, as people use it. (It too is
# better with a vector_lr of 3e-2.) The matrices of polargrad need none (docs/step_size.md); at a
# given one 6e-2 is their best.
DEFAULTS = {
    "polargrad": Defaults(lr=None, vector_lr=3e-2),
    "muon": Defaults(lr=1e-2, vector_lr=3e-2),
    "adamw": Defaults(lr=1e-3, vector_lr=None),
}


def build_optimizer(
    model: torch.nn.Module,
    name: str,
    *,
    lr: float | None,
    vector_lr: float | None,
    beta2: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """Return the optimizer ``name`` for all parameters of ``model``.

    ``adamw`` updates everything with ``torch.optim.AdamW``: at ``lr``, or, given a ``vector_lr``,
    hidden matrices at ``lr`` and the rest at ``vector_lr``. ``muon`` and ``polargrad`` update the
    hidden matrices with momentum 0.95 and Nesterov's correction, at ``lr`` or, where that is None,
    with step sizes that the run finds, and embeddings, head and vectors
    with AdamW at ``vector_lr``. Betas of AdamW are (0.9, ``beta2``) everywhere, and the decoupled
    ``weight_decay`` applies to every parameter.

    Raises:
        ValueError: if the name is unknown or an optimizer refuses its settings.
    """
    if name not in DEFAULTS:
        raise ValueError(f"unknown optimizer {name!r}: choose from {', '.join(DEFAULTS)}")
    from polargrad.optim import Muon, PolarGrad, param_groups

    if name == "adamw":
        if lr is None:
            raise ValueError("lr of adamw must be a number, got None")
        params: Any = model.parameters()
        if vector_lr is not None:
            params = [
                {"params": g["params"], "lr": lr if g["rule"] == "matrix" else vector_lr}
                for g in param_groups(model)
            ]
        betas = (VECTOR_BETA1, beta2)
        return torch.optim.AdamW(
            params, lr=lr, betas=betas, eps=VECTOR_EPS, weight_decay=weight_decay
        )
    groups = param_groups(
        model,
        vector_lr=vector_lr,
        vector_betas=(VECTOR_BETA1, beta2),
        vector_eps=VECTOR_EPS,
        vector_weight_decay=weight_decay,
    )
    rule = Muon if name == "muon" else PolarGrad
    return rule(groups, lr=lr, momentum=MOMENTUM, nesterov=True, weight_decay=weight_decay)


def rate_in_words(lr: float | None) -> str:
    """Return a learning rate as it is printed.

    Example:
        >>> rate_in_words(3e-3), rate_in_words(None)
        ('0.003', 'found')
    """
    return "found" if lr is None else f"{lr:g}"


def schedule_factor(step: int, steps: int) -> float:
    r"""Return the factor of all learning rates for the update after ``step`` others.

    .. math:: \min\{1,\; (k + 1)/w,\; (n - k)/(d\,n)\}

    at step k of n, with w = 20 steps of warmup and the share d = 0.4 of the decay.

    Example:
        >>> [round(schedule_factor(step, 100), 3) for step in (0, 19, 60, 61, 99)]
        [0.05, 1.0, 1.0, 0.975, 0.025]
    """
    return min(1.0, (step + 1) / WARMUP_STEPS, max(0, steps - step) / (DECAY_SHARE * steps))


def build_schedule(
    optimizer: torch.optim.Optimizer, steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Return the scheduler that applies :func:`schedule_factor` to all groups alike."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule_factor(step, steps))
