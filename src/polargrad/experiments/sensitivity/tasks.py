"""The tasks of the paper's problems for sweeps: nothing but the metric is measured."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from torch import Tensor

from polargrad.experiments.completion import CompletionTask
from polargrad.experiments.logistic import LogisticTask
from polargrad.experiments.quadratic import QuadraticTask
from polargrad.experiments.task import Task
from polargrad.problems import (
    LowRankCompletion,
    MatrixLogisticRegression,
    MatrixQuadraticRegression,
)

# Thousands of runs begin from the same data, whose float64 optimum takes longer than some of them.
_quadratic = functools.lru_cache(maxsize=1)(MatrixQuadraticRegression.published)
_logistic = functools.lru_cache(maxsize=1)(MatrixLogisticRegression.published)
_completion = functools.lru_cache(maxsize=1)(LowRankCompletion.published)


class QuadraticGap(QuadraticTask):
    """6.1, with the gap in float64."""

    def measure(self, unknowns: Sequence[Tensor]) -> dict[str, float]:
        """Return f - f*."""
        return {"gap": self.problem.gap(*unknowns)}


class LogisticGap(LogisticTask):
    """6.2, with the gap on all data, per entry: the loss itself cannot fall below 0.68 there."""

    def measure(self, unknowns: Sequence[Tensor]) -> dict[str, float]:
        """Return (f - f*) / (N q), the entries of f in float32."""
        optimum = self.problem.optimum / self.problem.C.numel()
        return {"gap_per_entry": self.problem.loss_per_entry(*unknowns) - optimum}


class CompletionError(CompletionTask):
    """6.3, with the error on the observed entries."""

    def measure(self, unknowns: Sequence[Tensor]) -> dict[str, float]:
        """Return the mean square error on the observed entries, in float64."""
        return {"observed_error": self.problem.observed_error(*unknowns)}


def quadratic_task(seed: int, era: str) -> Task:
    """Return the task of 6.1; it is the same in both eras."""
    problem, start = _quadratic(seed)
    return QuadraticGap(problem, (start,))


def logistic_task(seed: int, era: str) -> Task:
    """Return the task of 6.2, with the batches of a run from the beginning."""
    problem, start = _logistic(seed, labels="signs" if era == "reference" else "zero-one")
    return LogisticGap(problem, (start,), MatrixLogisticRegression.published_batches(seed))


def completion_task(seed: int, era: str) -> Task:
    """Return the task of 6.3."""
    problem, start = _completion(seed, era=era)
    return CompletionError(problem, start)
