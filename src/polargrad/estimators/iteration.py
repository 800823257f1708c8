"""What the iterative solvers share: when to stop, what they return, what they tell."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

from sklearn.exceptions import ConvergenceWarning

from polargrad.estimators.validation import Array

__all__ = ["HeldOut", "Solution", "Stopping"]


@dataclass(frozen=True)
class Stopping:
    """When an iteration ends, and how often it prints a line.

    Args:
        owner: the name of the estimator, for its lines and warnings.
        max_iter: the most iterations.
        tol: what the measure of the solver must not exceed.
        verbose: print a line every so many iterations; 0 for none.
    """

    owner: str
    max_iter: int
    tol: float
    verbose: int

    def tell(self, iteration: int, text: str) -> None:
        """Print ``text`` if this iteration is one to be told of."""
        if self.verbose and iteration % self.verbose == 0:
            print(f"{self.owner}: iteration {iteration}: {text}", flush=True)

    def warn(self, measure: str, reached: float) -> None:
        """Warn that ``measure`` stands at ``reached`` after ``max_iter`` iterations."""
        warnings.warn(
            f"{self.owner} has not converged in max_iter={self.max_iter} iterations: {measure} is "
            f"{reached:.2g}, tol is {self.tol:g}. Allow more iterations or a larger tol, scale the "
            "columns of X, or raise alpha",
            ConvergenceWarning,
            stacklevel=5,  # the line that called fit
        )


@dataclass
class HeldOut:
    """Early stopping: the iterate with the smallest error on rows that were held out.

    Args:
        error: the error of an unknown (its arrays) on those rows.
        patience: iterations without a smaller error after which to stop.
    """

    error: Callable[..., float]
    patience: int
    errors: list[float] = field(default_factory=list)
    best: tuple[Array, ...] = ()
    best_at: int = 0

    def add(self, *unknown: Array) -> bool:
        """Note an iterate, the start being the first; return whether it is time to stop."""
        value = self.error(*unknown)
        self.errors.append(value)
        if value < min(self.errors[:-1], default=math.inf):
            self.best_at = len(self.errors) - 1
            self.best = tuple(array.copy() for array in unknown)
        return len(self.errors) - 1 - self.best_at >= self.patience


@dataclass(frozen=True)
class Solution:
    """What a solver returns.

    Attributes:
        unknown: the matrix W, and where the solver carries it the intercept.
        iterations: how many it took, 1 for a direct solve.
        dual_gap: the duality gap, where the solver has one.
    """

    unknown: tuple[Array, ...]
    iterations: int = 1
    dual_gap: float | None = None
