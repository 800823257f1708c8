"""The optimizers of a training run by name, and their learning rates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

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
