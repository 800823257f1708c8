"""The optimizer of a training run, built from its recipe."""

from __future__ import annotations

from typing import Any

import torch

from polargrad.language.recipes import MOMENTUM, Recipe, check_recipe, recipe_of
from polargrad.language.settings import TrainSettings
from polargrad.optim import param_groups
from polargrad.optim.routing import assign
from polargrad.optim.routing.policies import has_own_unit

VECTOR_BETA1 = 0.9
VECTOR_EPS = 1e-8


def optimizer_for(
    model: torch.nn.Module,
    settings: TrainSettings,
    *,
    process_group: torch.distributed.ProcessGroup | None = None,
) -> torch.optim.Optimizer:
    """Return the optimizer of a run for its model, see :func:`build_optimizer`.

    Raises:
        ValueError: if an optimizer refuses its settings.
    """
    return build_optimizer(
        model,
        settings.optimizer,
        lr=settings.learning_rate,
        vector_lr=settings.vector_learning_rate,
        embedding_lr=settings.embedding_learning_rate,
        method=settings.polar_method,
        beta2=settings.beta2,
        weight_decay=settings.weight_decay,
        process_group=process_group,
    )


def build_optimizer(
    model: torch.nn.Module,
    name: str,
    *,
    lr: float | None,
    vector_lr: float | None,
    beta2: float,
    weight_decay: float,
    embedding_lr: float | None = None,
    method: str | None = None,
    process_group: torch.distributed.ProcessGroup | None = None,
) -> torch.optim.Optimizer:
    r"""Return the optimizer ``name`` for all parameters of ``model``, in one object.

    ==================  =====================  ======================================  =======
    name                hidden matrices        embedding, head                         vectors
    ==================  =====================  ======================================  =======
    ``adamw``           AdamW                  AdamW                                   AdamW
    ``muon``            Muon                   AdamW                                   AdamW
    ``polargrad``       PolarGrad              AdamW                                   AdamW
    ``polarmuon``       PolarMuon              AdamW                                   AdamW
    ``muon-polarsgdm``  Muon                   PolarSGDM with QDWH and momentum 0.5    AdamW
    ``symmetric``       Muon, head by head     rows normalised, of the head (and of    AdamW
                                               routers) about their mean
    ==================  =====================  ======================================  =======

    Hidden matrices have momentum 0.95 with Nesterov's correction and take ``lr``; where that is
    None, step sizes that the run finds. Embedding and head take ``embedding_lr`` where they have a
    rule of their own, and otherwise ``vector_lr`` with the vectors. A head that is the embedding is
    stepped once, as an embedding. Routers take AdamW but in ``symmetric``. ``adamw`` alone takes
    ``lr`` for everything, unless a ``vector_lr`` is given for all but the hidden matrices. Betas of
    AdamW are (0.9, ``beta2``), and the decoupled ``weight_decay`` applies to every parameter, but
    in ``symmetric`` to embedding, head and routers, which never decay there.

    ``adamw`` is ``torch.optim.AdamW`` itself: an optimizer of ours holds a matrix at least. All
    others are one optimizer of ours.

    Args:
        model: a language model, of any device.
        name: a key of :data:`polargrad.language.recipes.RECIPES`.
        lr: of the hidden matrices; None for step sizes that the run finds.
        vector_lr: of what takes AdamW; None for ``lr`` with ``adamw``.
        beta2: second beta of AdamW.
        weight_decay: of every parameter.
        embedding_lr: of embedding and head where they have a rule of their own.
        method: how the polar factor of the hidden matrices is computed, a name of
            :data:`polargrad.language.recipes.POLAR_METHODS`; None for the recipe's own.
        process_group: processes with copies of the model, which divide the matrices among them;
            AdamW has none to divide.

    Raises:
        ValueError: if the name is unknown, a learning rate is missing or would have no effect, or
            an optimizer refuses its settings.

    Example:
        >>> layers = torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)
        >>> model = torch.nn.Sequential(*layers)
        >>> options = {"lr": 0.01, "vector_lr": 0.03, "beta2": 0.95, "weight_decay": 0.0}
        >>> optimizer = build_optimizer(model, "polarmuon", method="qdwh", **options)
        >>> [(group["rule"], group["lr"]) for group in optimizer.param_groups]
        [('matrix', 0.01), ('adamw', 0.03)]

    Source: arXiv 2505.21799, section 6.4 (``adamw``, ``muon``, ``muon-polarsgdm``) and its GPT-2
    runs (``polarmuon``); arXiv 2605.18106, its published runs (``symmetric``).
    """
    check_recipe(name, lr=lr, embedding_lr=embedding_lr, method=method)
    recipe = recipe_of(name)
    if recipe.preset is None:
        return _adamw(model, lr, vector_lr, beta2=beta2, weight_decay=weight_decay)
    groups = param_groups(
        model,
        policy=recipe.policy,
        lrs=_own_rates(model, recipe, embedding_lr),
        vector_lr=vector_lr,
        vector_betas=(VECTOR_BETA1, beta2),
        vector_eps=VECTOR_EPS,
        vector_weight_decay=weight_decay,
    )
    return recipe.preset(
        groups,
        lr=lr,
        momentum=MOMENTUM,
        weight_decay=weight_decay,
        method=recipe.method if method is None else method,
        process_group=process_group,
        **(recipe.options or {}),
    )


def _adamw(
    model: torch.nn.Module,
    lr: float | None,
    vector_lr: float | None,
    *,
    beta2: float,
    weight_decay: float,
) -> torch.optim.AdamW:
    """AdamW for everything: at one rate, or at another for all but the hidden matrices."""
    params: Any = model.parameters()
    if vector_lr is not None:
        params = [
            {"params": g["params"], "lr": lr if g["rule"] == "matrix" else vector_lr}
            for g in param_groups(model)
        ]
    betas = (VECTOR_BETA1, beta2)
    rate = 0.0 if lr is None else lr  # checked before
    return torch.optim.AdamW(
        params, lr=rate, betas=betas, eps=VECTOR_EPS, weight_decay=weight_decay
    )


def _own_rates(
    model: torch.nn.Module, recipe: Recipe, embedding_lr: float | None
) -> dict[str, float | torch.Tensor]:
    """The learning rate of each role here that the policy steps in a unit of its own."""
    if embedding_lr is None:
        return {}
    found = assign(model, policy=recipe.policy)
    return {a.role: embedding_lr for a in found if has_own_unit(a.options)}


def rate_in_words(lr: float | None) -> str:
    """Return a learning rate as it is printed.

    Example:
        >>> rate_in_words(3e-3), rate_in_words(None)
        ('0.003', 'found')
    """
    return "found" if lr is None else f"{lr:g}"
