"""What people use for low-rank completion: alternating and scaled methods, soft-impute."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polargrad.experiments.experiment import Run
from polargrad.experiments.solvers.base import GradientSolver, Solver
from polargrad.experiments.task import Task
from polargrad.problems import FactoredProblem, LowRankCompletion


def _completion(task: Task, run: Run, *, weighted: bool = False) -> LowRankCompletion:
    """The problem of the task, if it is one that the solver knows; ``weighted`` if weights are."""
    problem = task.problem
    if not isinstance(problem, LowRankCompletion):
        raise ValueError(
            f"solver {run.solver!r} needs low-rank completion, got {type(problem).__name__}"
        )
    if problem.weights is not None and not weighted:
        raise ValueError(f"weights must be None for solver {run.solver!r}, got weights")
    return problem


def _learning_rate(run: Run) -> float:
    if run.lr is None:
        raise ValueError(f"lr must be given for solver {run.solver!r}, got None")
    return run.lr


class AlternatingGradient(Solver):
    r"""A gradient step in X, then one in Y with the new gradient: AltGD of the paper's 6.3.

    .. math:: X \leftarrow X - \gamma \nabla_X f(X, Y), \qquad
              Y \leftarrow Y - \gamma \nabla_Y f(X, Y)
    """

    def __init__(self, task: Task, run: Run) -> None:
        super().__init__(task, run)
        if not isinstance(task.problem, FactoredProblem):
            raise ValueError(
                f"solver {run.solver!r} needs a problem in two factors, "
                f"got {type(task.problem).__name__}"
            )
        self.problem = task.problem
        self.lr = _learning_rate(run)

    def update(self) -> None:
        """One step in each unknown, each from where the one before has led."""
        X, Y = self.unknowns
        for index, factor in enumerate((X, Y)):
            factor.sub_(self.problem.partial_gradient(index, X, Y), alpha=self.lr)


class ScaledGradient(GradientSolver):
    r"""ScaledGD: each factor's gradient times the inverse Gram matrix of the other factor.

    .. math:: X \leftarrow X - \eta s \nabla_X f\, (Y^T Y)^{-1}, \qquad
              Y \leftarrow Y - \eta s \nabla_Y f\, (X^T X)^{-1}, \qquad
              s = \tfrac{mn}{2} \frac{|\Omega|}{|\Phi|}

    where Φ are the entries that f reads: Ω, the observed ones, or in the paper's time all. s turns
    f, a sum over Φ divided by |Ω|, into ½‖·‖² over Φ divided by the share of Φ among all entries,
    for which the source gives η up to 2/3. The source begins at a spectral estimate; here all
    algorithms begin at the paper's random start.

    Source: T. Tong, C. Ma, Y. Chi, JMLR 22 (2021), algorithm 1.
    """

    def __init__(self, task: Task, run: Run) -> None:
        super().__init__(task, run)
        problem = _completion(task, run)
        share = float(problem.fitted.double().mean())
        self.step = _learning_rate(run) * problem.count / (2.0 * share)

    def update(self) -> None:
        """Both factors at once, from the same point."""
        X, Y = self.unknowns
        moves = [
            torch.linalg.solve(other.mT @ other, G, left=False)
            for G, other in zip(self.gradients, (Y, X), strict=True)
        ]
        for factor, move in zip((X, Y), moves, strict=True):
            factor.sub_(move, alpha=self.step)


class AlternatingLeastSquares(Solver):
    r"""Alternating least squares: each row of a factor is the solution of its own small problem.

    .. math:: x_i = \Big(\sum_j W_{ij} y_j y_j^T\Big)^{-1} \sum_j W_{ij} M_{ij} y_j

    where W is 0 where M is not observed, and 1 where it is unless the problem has weights. Rows
    with fewer observations than the rank take the solution of least norm.
    """

    def __init__(self, task: Task, run: Run) -> None:
        super().__init__(task, run)
        problem = _completion(task, run, weighted=True)
        self.weights = problem.entry_weights
        self.data = self.weights * problem.filled

    def update(self) -> None:
        """All rows of X, then all rows of Y."""
        X, Y = self.unknowns
        X.copy_(_rows(self.data, self.weights, Y))
        Y.copy_(_rows(self.data.mT, self.weights.mT, X))


def _rows(data: Tensor, weights: Tensor, other: Tensor) -> Tensor:
    """The least-squares rows of one factor, given the other one and W ∘ M."""
    rank = other.shape[1]
    products = (other[:, :, None] * other[:, None, :]).flatten(1)
    grams = (weights @ products).reshape(-1, rank, rank)
    rows: Tensor = torch.linalg.lstsq(grams, (data @ other)[:, :, None], driver="gelsd").solution
    return rows[:, :, 0]


class SoftImpute(Solver):
    r"""Soft-impute along a falling path of λ, cut to the rank of the unknowns.

    .. math:: Z \leftarrow S_{\lambda}\big(P_\Omega(M) + P_{\Omega}^{\perp}(Z)\big)

    where :math:`S_\lambda` subtracts λ from the singular values and keeps the positive ones, at
    most as many as the unknowns have columns. λ begins at σ₁ of the data and is multiplied by
    ``factor`` in each step. It takes nothing from the start; Z is kept as X Yᵀ.

    Source: R. Mazumder, T. Hastie, R. Tibshirani, JMLR 11 (2010), algorithm 1.
    """

    def __init__(self, task: Task, run: Run) -> None:
        super().__init__(task, run)
        problem = _completion(task, run)
        self.mask = problem.fitted
        self.data = problem.filled
        self.factor = float(run.options["factor"])
        self.threshold = float(torch.linalg.matrix_norm(self.data, 2))

    def update(self) -> None:
        """One thresholded singular value decomposition."""
        X, Y = self.unknowns
        self.threshold *= self.factor
        Z = torch.where(self.mask, self.data, X @ Y.mT)
        U, values, Vh = torch.linalg.svd(Z, full_matrices=False)
        rank = X.shape[1]
        roots = (values[:rank] - self.threshold).clamp_min(0).sqrt()
        X.copy_(U[:, :rank] * roots)
        Y.copy_(Vh[:rank].mT * roots)

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Solver.state_dict`."""
        return {**super().state_dict(), "threshold": self.threshold}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :meth:`Solver.load_state_dict`."""
        super().load_state_dict(state)
        self.threshold = state["threshold"]
