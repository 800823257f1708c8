"""The algorithms of the experiments by name: optimizers, and what a user would pick instead."""

from __future__ import annotations

from polargrad.experiments.experiment import Run
from polargrad.experiments.solvers.base import Solver
from polargrad.experiments.solvers.convex import (
    ConjugateGradients,
    DirectSolve,
    GradientDescent,
    Nesterov,
)
from polargrad.experiments.solvers.factored import (
    AlternatingGradient,
    AlternatingLeastSquares,
    ScaledGradient,
    SoftImpute,
)
from polargrad.experiments.solvers.optimizers import LBFGSSolver, NewtonSolver, OptimizerSolver
from polargrad.experiments.task import Task

__all__ = ["SOLVERS", "Solver", "make_solver"]

SOLVERS: dict[str, type[Solver]] = {
    "polargrad": OptimizerSolver,
    "muon": OptimizerSolver,
    "adam": OptimizerSolver,
    "newton": NewtonSolver,
    "gradient-descent": GradientDescent,
    "nesterov": Nesterov,
    "conjugate-gradients": ConjugateGradients,
    "l-bfgs": LBFGSSolver,
    "direct": DirectSolve,
    "alternating-gradient": AlternatingGradient,
    "scaled-gradient": ScaledGradient,
    "alternating-least-squares": AlternatingLeastSquares,
    "soft-impute": SoftImpute,
}


def make_solver(task: Task, run: Run) -> Solver:
    """Return the solver of ``run`` at the start of ``task``.

    Raises:
        ValueError: if the run names none, or the task is not of its kind.
    """
    if run.solver not in SOLVERS:
        raise ValueError(f"solver must be one of {', '.join(SOLVERS)}, got {run.solver!r}")
    return SOLVERS[run.solver](task, run)
