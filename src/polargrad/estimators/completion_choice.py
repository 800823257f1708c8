"""Choose rank, regularisation and the number of sweeps by the error on held-out entries."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from polargrad.estimators.completion_fit import (
    Fit,
    Sweeps,
    fit_model,
    largest_singular_value,
    offset_model,
)
from polargrad.estimators.factor_model import FactorModel
from polargrad.estimators.observations import Observations
from polargrad.estimators.shrinkage import Shrinkage

__all__ = ["Choice", "Request", "complete"]

LARGEST_RANK = 100  # the most components that rank="auto" tries: normal equations of 100 × 100
STEP = math.sqrt(0.5)  # from one λ of the path to the next; the error is flat to 1 % within it
PATH_LENGTH = 24  # to λ_max / 4096
PATH_PATIENCE = 2  # candidates without a smaller error after which the path ends
# The fits of a path are compared, not kept: on the sample photograph china.jpg three and ten times
# the default tolerance chose the same λ, with fewer sweeps.
PATH_TOLERANCE = 5.0
# A fit of a path is given up where its held-out error is above the best so far and has risen in so
# many sweeps one after the other. Beyond the right λ a fit follows the noise for many sweeps: of
# 10^6 ratings-like triples at twice their rank, 77 of 108 sweeps were of a candidate that lost.
RISES = 3
# The fits of a path are computed in float32, whose rounding is far below the differences between
# candidates, if the squares of all entries and of λ lie well within its range.
SINGLE_RANGE = (1e-12, 1e12)
SWEEP_PATIENCE = 5  # the same for the sweeps of one fit


@dataclass(frozen=True)
class Request:
    """What a user asks of a fit.

    Args:
        rank: the most components, None to choose.
        strength: λ, None to choose.
        concavity: c of :class:`Shrinkage`.
        offsets: whether rows and columns have offsets.
        early_stopping: whether held-out entries end the path, or the sweeps of a single fit.
        validation_fraction: which part of the observed entries is held out.
        tell: called with a line of text for each candidate.
    """

    rank: int | None
    strength: float | None
    concavity: float
    offsets: bool
    early_stopping: bool
    validation_fraction: float
    tell: Callable[[str], None]

    def shrinkage(self, strength: float) -> Shrinkage:
        """Return Φ for a λ."""
        return Shrinkage(strength, self.concavity)

    def start(self, observations: Observations, strength: float = 1.0) -> FactorModel:
        """Return the model that a fit starts from: offsets alone."""
        return offset_model(observations, offsets=self.offsets, shrinkage=self.shrinkage(strength))


@dataclass
class Choice:
    """A finished fit on all entries, and how it was chosen.

    Attributes:
        rank: the most components it could have.
        strength: λ.
        fit: the fit on all observed entries.
        path: the candidates (rank, λ) in the order of their fits; empty without a choice.
        errors: their root mean square errors on the held-out entries; for a single fit with early
            stopping, one a sweep.
        stopped_early: whether a single fit was ended by its held-out error.
    """

    rank: int
    strength: float
    fit: Fit
    path: list[tuple[int, float]] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    stopped_early: bool = False


def complete(observations: Observations, request: Request, sweeps: Sweeps) -> Choice:
    """Choose what is left open on held-out entries, then fit all of the entries.

    Where the rank or λ is open, candidates are fitted one after the other, each from the one
    before: λ falls from the largest useful one, or the rank rises. The best is then fitted again,
    on all entries, from its own factors. Where both are given and ``early_stopping`` is True, the
    held-out error after each sweep gives the number of sweeps for a fit on all entries. Else
    nothing is held out.

    Raises:
        ValueError: if entries are to be held out and there are fewer than two.
    """
    if request.rank is None or request.strength is None:
        return _along_a_path(observations, request, sweeps)
    rank, shrinkage = request.rank, request.shrinkage(request.strength)
    choice: Choice | None = None
    if request.early_stopping:
        choice = _counted_sweeps(observations, request, sweeps)
        sweeps = replace(sweeps, max_iter=choice.fit.sweeps)
    start = request.start(observations, request.strength)
    fit = fit_model(observations, start, rank, shrinkage, sweeps)
    if choice is None:
        return Choice(rank, request.strength, fit)
    return replace(choice, fit=fit)


def _counted_sweeps(observations: Observations, request: Request, sweeps: Sweeps) -> Choice:
    assert request.rank is not None
    assert request.strength is not None
    training, held_out = observations.split(request.validation_fraction, sweeps.random)
    errors: list[float] = []

    def watch(model: FactorModel) -> bool:
        errors.append(model.error(held_out))
        request.tell(f"sweep {len(errors)}: held-out error {errors[-1]:.6g}, rank {model.rank}")
        return len(errors) - 1 - errors.index(min(errors)) >= SWEEP_PATIENCE

    start = request.start(training, request.strength)
    shrinkage = request.shrinkage(request.strength)
    fit = fit_model(training, start, request.rank, shrinkage, sweeps, watch)
    best = errors.index(min(errors))
    stopped = len(errors) - 1 - best >= SWEEP_PATIENCE
    counted = replace(fit, sweeps=best + 1) if stopped else replace(fit, sweeps=sweeps.max_iter)
    return Choice(request.rank, request.strength, counted, [], errors, stopped)


def _along_a_path(observations: Observations, request: Request, sweeps: Sweeps) -> Choice:
    single = _for_comparison(observations)
    training, held_out = single.split(request.validation_fraction, sweeps.random)
    del single
    model = request.start(training)
    path: list[tuple[int, float]] = []
    errors: list[float] = []
    best = model
    loose = replace(sweeps, tol=PATH_TOLERANCE * sweeps.tol)
    for rank, strength in _candidates(training, request, model, sweeps):
        watch = _losing(held_out, min(errors)) if request.early_stopping and errors else None
        fit = fit_model(training, model, rank, request.shrinkage(strength), loose, watch)
        model = fit.model
        path.append((rank, strength))
        errors.append(model.error(held_out))
        request.tell(
            f"regularization {strength:.4g}, rank {model.rank} of {rank}, {fit.sweeps} sweeps: "
            f"held-out error {errors[-1]:.6g}"
        )
        best_at = errors.index(min(errors))
        if best_at == len(errors) - 1:
            best = model
        if request.early_stopping and len(errors) - 1 - best_at >= PATH_PATIENCE:
            break
        if request.strength is not None and model.rank < rank:
            break  # λ leaves no room for a larger rank
    rank, strength = path[errors.index(min(errors))]
    best = best.astype(observations.dtype)
    final = fit_model(observations, best, rank, request.shrinkage(strength), sweeps)
    return Choice(rank, strength, final, path, errors)


def _for_comparison(observations: Observations) -> Observations:
    """The entries in float32 where that range holds what is computed from them."""
    largest = float(np.abs(observations.values).max())
    if SINGLE_RANGE[0] <= largest <= SINGLE_RANGE[1]:
        return observations.astype(np.float32)
    return observations


def _losing(held_out: Observations, best: float) -> Callable[[FactorModel], bool]:
    """Watch a fit; it ends when its error is above the best and rose ``RISES`` times in a row."""
    errors: list[float] = []

    def watch(model: FactorModel) -> bool:
        errors.append(model.error(held_out))
        recent = errors[-RISES - 1 :]
        rising = all(after > before for before, after in pairwise(recent))
        return len(recent) > RISES and rising and errors[-1] > best

    return watch


def _candidates(
    training: Observations, request: Request, model: FactorModel, sweeps: Sweeps
) -> Iterator[tuple[int, float]]:
    """Yield (rank, λ): λ falls at one rank, or the rank rises at one λ."""
    most = min(*training.shape, LARGEST_RANK)
    if request.strength is None:
        largest = largest_singular_value(training, model, sweeps.random)
        for k in range(1, PATH_LENGTH + 1):
            # A table that its offsets explain has nothing to shrink: any λ will do.
            yield request.rank or most, largest * STEP**k if largest > 0 else 1.0
            if largest == 0:
                return
        return
    rank, following = 1, 2
    while rank < most:
        yield rank, request.strength
        rank, following = following, rank + following
    yield most, request.strength
