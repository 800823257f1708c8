"""Fit a factor model: grow it from the residual, then sweep over its two factors until it rests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.utils.extmath import randomized_svd

from polargrad.estimators.factor_model import FactorModel
from polargrad.estimators.factor_steps import Step, exact_step
from polargrad.estimators.observations import Observations, Values
from polargrad.estimators.shrinkage import Shrinkage

__all__ = ["Fit", "Sweeps", "fit_model", "largest_singular_value", "offset_model"]

SMALLEST = 1e-3  # of λ: a component this small is shrunk away, as its gain is below λ² / 1000
POWER_ITERATIONS = 3  # of the randomised SVD that proposes components; the sweeps correct them
OFFSET_ROUNDS = 5  # row and column means in turn, before the first components


@dataclass(frozen=True)
class Sweeps:
    """How the factors are updated, and for how long.

    Args:
        step: what is done to one factor while the other stays.
        max_iter: the most sweeps, each a step in both factors.
        tol: a fit ends where a sweep changes the table by less than this, relative to its norm.
        random: where the randomised SVD draws from.
    """

    step: Step
    max_iter: int
    tol: float
    random: np.random.RandomState


@dataclass(frozen=True)
class Fit:
    """A fitted model.

    Attributes:
        model: the model, balanced.
        sweeps: how many sweeps it took.
        change: by how much, relative to its norm, the last of them changed the table.
    """

    model: FactorModel
    sweeps: int
    change: float


def offset_model(observations: Observations, *, offsets: bool, shrinkage: Shrinkage) -> FactorModel:
    """Return the model of rank 0: row and column offsets alone, or zero."""
    model = FactorModel.empty(observations, offsets=offsets)
    if offsets:
        for _ in range(OFFSET_ROUNDS):
            model, _ = _half_sweep(observations, model, shrinkage, exact_step)
            flipped = Observations(observations.by_columns, observations.by_rows)
            model = _half_sweep(flipped, model.transposed, shrinkage, exact_step)[0].transposed
    return model


def largest_singular_value(
    observations: Observations, model: FactorModel, random: np.random.RandomState
) -> float:
    """Return ‖P_Ω(M - Z)‖₂: from this λ on no component is worth its price."""
    _, sizes, _ = _residual_svd(observations, model, 1, random, iterations=10)
    return float(sizes[0])


def fit_model(
    observations: Observations,
    model: FactorModel,
    rank: int,
    shrinkage: Shrinkage,
    sweeps: Sweeps,
    watch: Callable[[FactorModel], bool] | None = None,
) -> Fit:
    r"""Minimise :func:`objective` from ``model`` on, over models of at most ``rank`` components.

    Before sweeps 1, 2, 3, 5, 9, 17, … components are added: the leading singular triplets of the
    residual P_Ω(M - Z) above λ, shrunk, which is the proximal gradient step in the directions that
    the model does not have. Alternation alone finds them too, but only at the slow rate at which a
    small component grows under its ridge. Then the rows and the columns take a step each, and the
    factors are balanced, which by the inequality in :class:`Shrinkage` does not raise the penalty.

    Args:
        observations: M on Ω.
        model: where to start.
        rank: the most components.
        shrinkage: Φ.
        sweeps: the step and when to stop.
        watch: called with the model after each sweep; True ends the fit.

    Returns:
        The fit.

    Source: Hastie, Mazumder, Lee and Zadeh, JMLR 16 (2015) 3367, for alternation with balancing.
    """
    flipped = Observations(observations.by_columns, observations.by_rows)
    change, done = float("inf"), 0
    while done < sweeps.max_iter:
        if done & (done - 1) == 0 and model.rank < rank:  # 0, 1, 2, 4, 8, …
            model = _grown(observations, model, rank, shrinkage, sweeps.random)
        model, rows_changed = _half_sweep(observations, model, shrinkage, sweeps.step)
        model, columns_changed = _half_sweep(flipped, model.transposed, shrinkage, sweeps.step)
        model = model.transposed
        change, done = rows_changed + columns_changed, done + 1
        if (watch is not None and watch(model)) or change <= sweeps.tol:
            break
    return Fit(model, done, change)


def _half_sweep(
    observations: Observations, model: FactorModel, shrinkage: Shrinkage, step: Step
) -> tuple[FactorModel, float]:
    """Step in the rows; return the balanced model and the relative change of the table."""
    design, before = model.row_design, model.row_unknowns
    after = step(observations.by_rows, model, shrinkage)
    gram = (design.T @ design).astype(np.float64)
    changed, size = (_norm_of_product(rows, gram) for rows in (after - before, after))
    balanced = model.with_row_unknowns(after).balanced(SMALLEST * shrinkage.strength)
    return balanced, changed / size if size > 0 else 0.0


def _norm_of_product(left: Values, gram: Values) -> float:
    """‖L Dᵀ‖_F, given DᵀD."""
    square = float(np.sum((left.T @ left) * gram))
    return float(np.sqrt(max(square, 0.0)))


def _grown(
    observations: Observations,
    model: FactorModel,
    rank: int,
    shrinkage: Shrinkage,
    random: np.random.RandomState,
) -> FactorModel:
    U, sizes, Vt = _residual_svd(
        observations, model, rank - model.rank, random, iterations=POWER_ITERATIONS
    )
    added = shrinkage.shrunk(sizes)
    worth = added > 0
    if not worth.any():
        return model
    roots = np.sqrt(added[worth])
    return model.joined(U[:, worth] * roots, Vt[worth].T * roots)


def _residual_svd(
    observations: Observations,
    model: FactorModel,
    count: int,
    random: np.random.RandomState,
    *,
    iterations: int,
) -> tuple[Values, Values, Values]:
    """The leading singular triplets of P_Ω(M - Z), which is as sparse as what was observed."""
    residual = observations.values - model.at(observations)
    matrix = observations.by_rows.rows(0, observations.shape[0], residual)
    U, sizes, Vt = randomized_svd(matrix, count, n_iter=iterations, random_state=random)
    dtype = observations.dtype
    return U.astype(dtype), sizes.astype(dtype), Vt.astype(dtype)
