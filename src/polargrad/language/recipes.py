"""The optimizers of a training run by name: which rule steps which role, and at which rates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from polargrad.linalg import METHODS
from polargrad.optim import MatrixOptimizer, Muon, PolarGrad, PolarMuon
from polargrad.optim.routing import POLICIES, Policy

__all__ = [
    *("DEFAULTS", "MOMENTUM", "POLAR_METHODS", "RECIPES", "Defaults", "Recipe"),
    *("check_recipe", "recipe_of"),
]

MOMENTUM = 0.95
# The ways to the polar factor that a name alone describes: a randomized SVD needs its rank.
POLAR_METHODS = ("auto", *(name for name in METHODS if name != "randomized_svd"))

# As the follow-up's runs have it, but for routers: there it has two, and this is the one in whose
# unit embedding and head are stepped too.
SYMMETRIC = Policy(
    "symmetric",
    {**POLICIES["symmetry-runs"].entries, "router": POLICIES["symmetry-runs"].entries["head"]},
    per_head=True,
)


@dataclass(frozen=True)
class Defaults:
    """Learning rates that a run takes unless it is given others.

    Args:
        lr: the learning rate; of the matrices, where they have a rule of their own. None for step
            sizes that the run finds.
        vector_lr: the learning rate of AdamW for vectors, and for embedding and head where these
            have no rule of their own; None for ``lr``.
        embedding_lr: the learning rate of embedding and head where they have a rule of their own;
            None where they have none.
    """

    lr: float | None
    vector_lr: float | None
    embedding_lr: float | None = None


@dataclass(frozen=True)
class Recipe:
    """An optimizer for all parameters of a language model.

    Args:
        title: how a figure calls it.
        defaults: its learning rates.
        preset: the rule of the hidden matrices; None for AdamW everywhere.
        options: of the preset, beside momentum 0.95 and decay.
        policy: which other role takes a rule of its own.
        method: of the polar factor of the hidden matrices; None where there is none.
        vector_lr_centre: where a search of the second rate begins if a run has none by default.
    """

    title: str
    defaults: Defaults
    preset: type[MatrixOptimizer] | None = None
    options: Mapping[str, Any] | None = None
    policy: str | Policy = "muon"
    method: str | None = None
    vector_lr_centre: float | None = None

    @property
    def second_rate(self) -> str:
        """The name of the learning rate of embedding and head."""
        return "vector_lr" if self.defaults.embedding_lr is None else "embedding_lr"


# The learning rates: preset tiny on the standard library, seed 0. Of polargrad, muon and adamw the
# best of benchmarks/tiny_sweep.py over both rates in 400 steps; of adamw with one for everything,
# as people use it. (It too is better with a vector_lr of 3e-2.) The matrices of polargrad need none
# (docs/step_size.md); at a given one 6e-2 is their best, which polarmuon takes over. Of
# muon-polarsgdm and symmetric the best of a sweep of 120 steps (docs/pretraining.md).
RECIPES: dict[str, Recipe] = {
    "polargrad": Recipe(
        "PolarGrad",
        Defaults(lr=None, vector_lr=3e-2),
        PolarGrad,
        {"nesterov": True},
        method="auto",
    ),
    "muon": Recipe(
        "Muon",
        Defaults(lr=1e-2, vector_lr=3e-2),
        Muon,
        {"nesterov": True, "tol": 0.11},
        method="newton_schulz",
    ),
    "adamw": Recipe("AdamW", Defaults(lr=1e-3, vector_lr=None), vector_lr_centre=3e-2),
    "polarmuon": Recipe(
        "PolarMuon",
        Defaults(lr=6e-2, vector_lr=3e-2),
        PolarMuon,
        {"nesterov": True},
        method="newton_schulz",
    ),
    "muon-polarsgdm": Recipe(
        "Muon + PolarSGDM",
        Defaults(lr=2e-2, vector_lr=3e-2, embedding_lr=5e-2),
        Muon,
        {"nesterov": True, "tol": 0.11},
        policy="paper-embedding",
        method="newton_schulz",
    ),
    "symmetric": Recipe(
        "symmetric map",
        Defaults(lr=2e-2, vector_lr=3e-2, embedding_lr=1e-2),
        Muon,
        {"nesterov": True, "tol": 0.11},
        policy=SYMMETRIC,
        method="polar_express",
    ),
}
DEFAULTS: dict[str, Defaults] = {name: recipe.defaults for name, recipe in RECIPES.items()}


def recipe_of(name: str) -> Recipe:
    """Return the recipe of this name.

    Raises:
        ValueError: if there is none.

    Example:
        >>> recipe_of("muon-polarsgdm").second_rate
        'embedding_lr'
    """
    if name not in RECIPES:
        raise ValueError(f"unknown optimizer {name!r}: choose from {', '.join(RECIPES)}")
    return RECIPES[name]


def check_recipe(
    name: str, *, lr: float | None, embedding_lr: float | None, method: str | None
) -> None:
    """Check the settings of an optimizer that not every optimizer has, given or by default.

    Raises:
        ValueError: if the optimizer is unknown, or lacks one of them, or has no use for it.

    Example:
        >>> check_recipe("muon-polarsgdm", lr=0.01, embedding_lr=0.3, method="qdwh")
    """
    recipe = recipe_of(name)
    if recipe.preset is None and lr is None:
        raise ValueError(f"lr of {name} must be a number, got None")
    if method is not None and method not in POLAR_METHODS:
        raise ValueError(f"method must be one of {', '.join(POLAR_METHODS)}, got {method!r}")
    if method is not None and recipe.method is None:
        raise ValueError(f"method={method!r} has no effect: {name} takes no polar factor")
    own = recipe.second_rate == "embedding_lr"
    if embedding_lr is not None and not own:
        raise ValueError(
            f"embedding_lr={embedding_lr:g} has no effect: {name} steps embedding and head with "
            "AdamW, at vector_lr"
        )
    if embedding_lr is None and own:
        raise ValueError(f"embedding_lr of {name} must be a number, got None")
