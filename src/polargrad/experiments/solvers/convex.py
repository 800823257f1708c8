"""What theory offers for a smooth convex problem of one matrix: no learning rate to choose."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from polargrad.experiments.experiment import Run
from polargrad.experiments.solvers.base import GradientSolver, Solver
from polargrad.experiments.task import Task
from polargrad.problems import ConvexProblem, MatrixQuadraticRegression


def _convex(task: Task, run: Run) -> ConvexProblem:
    if not isinstance(task.problem, ConvexProblem):
        raise ValueError(
            f"solver {run.solver!r} needs a convex problem, got {type(task.problem).__name__}"
        )
    return task.problem


def quadratic(task: Task, run: Run) -> MatrixQuadraticRegression:
    """Return the problem of the task.

    Raises:
        ValueError: if it is not a quadratic.
    """
    if not isinstance(task.problem, MatrixQuadraticRegression):
        raise ValueError(
            f"solver {run.solver!r} needs a quadratic, got {type(task.problem).__name__}"
        )
    return task.problem


class GradientDescent(GradientSolver):
    r"""Gradient descent: at :math:`2/(L+\mu)`, the best constant step for an unknown quadratic.

    A run that gives a learning rate has that instead; then the problem need not be convex.
    """

    def __init__(self, task: Task, run: Run) -> None:
        super().__init__(task, run)
        self.lr = _best_constant_step(task, run) if run.lr is None else run.lr

    def update(self) -> None:
        """X ← X − γ ∇f(X), all unknowns from the same point."""
        for X, G in zip(self.unknowns, self.gradients, strict=True):
            X.sub_(G, alpha=self.lr)


def _best_constant_step(task: Task, run: Run) -> float:
    problem = _convex(task, run)
    return 2.0 / (problem.smoothness + problem.strong_convexity)


class Nesterov(GradientSolver):
    r"""Nesterov's accelerated gradient at its theoretical step.

    .. math:: X_{k+1} = Y_k - \tfrac1L \nabla f(Y_k), \qquad
              Y_{k+1} = X_{k+1} + \beta_k (X_{k+1} - X_k)

    with :math:`\beta = (\sqrt{\kappa}-1)/(\sqrt{\kappa}+1)` where μ > 0 and
    :math:`\beta_k = k/(k+3)` where it is not. What is measured is Y, where gradients are taken.

    Source: Y. Nesterov, Lectures on Convex Optimization (2018), section 2.2.
    """

    def __init__(self, task: Task, run: Run) -> None:
        super().__init__(task, run)
        problem = _convex(task, run)
        self.smoothness = problem.smoothness
        self.root = math.sqrt(problem.condition_number)
        self.last = self.unknowns[0].clone()
        self.count = 0

    @property
    def momentum(self) -> float:
        """β of this step."""
        if math.isinf(self.root):
            return self.count / (self.count + 3.0)
        return (self.root - 1.0) / (self.root + 1.0)

    def update(self) -> None:
        """A gradient step from Y, and beyond it."""
        (Y,) = self.unknowns
        X = Y - self.gradients[0] / self.smoothness
        Y.copy_(X + self.momentum * (X - self.last))
        self.last = X
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Solver.state_dict`."""
        return {**super().state_dict(), "last": self.last.clone(), "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :meth:`Solver.load_state_dict`."""
        super().load_state_dict(state)
        self.last, self.count = state["last"].clone(), state["count"]


class ConjugateGradients(GradientSolver):
    r"""Conjugate gradients on a quadratic, with exact steps.

    .. math:: \alpha = \frac{\|G\|_F^2}{\langle D, \nabla^2 f[D]\rangle}, \quad
              X \leftarrow X + \alpha D, \quad
              D \leftarrow -G_{+} + \frac{\|G_{+}\|_F^2}{\|G\|_F^2} D

    The gradient is computed anew in each step, not updated, so that rounding does not pile up.

    Source: M. Hestenes, E. Stiefel, J. Res. Nat. Bur. Standards 49 (1952).
    """

    def __init__(self, task: Task, run: Run) -> None:
        super().__init__(task, run)
        self.problem = quadratic(task, run)
        self.direction = torch.zeros_like(self.unknowns[0])
        self.last_square = math.inf

    def update(self) -> None:
        """One step along the conjugate direction."""
        G = self.gradients[0]
        square = float(G.double().square().sum())
        if square == 0.0:
            return
        self.direction = square / self.last_square * self.direction - G
        curvature = float(self.problem.step_curvature(self.direction))
        length = -float((self.direction.double() * G.double()).sum()) / curvature
        self.unknowns[0].add_(self.direction, alpha=length)
        self.last_square = square

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Solver.state_dict`."""
        return {
            **super().state_dict(),
            "direction": self.direction.clone(),
            "last_square": self.last_square,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :meth:`Solver.load_state_dict`."""
        super().load_state_dict(state)
        self.direction = state["direction"].clone()
        self.last_square = state["last_square"]


class DirectSolve(Solver):
    """The minimiser of a quadratic by two least-squares factorizations, in the data's dtype."""

    def __init__(self, task: Task, run: Run) -> None:
        super().__init__(task, run)
        self.problem = quadratic(task, run)

    def update(self) -> None:
        """X = A⁺ C B⁺, by QR: the matrices have full rank."""
        A, B, C = self.problem.A, self.problem.B, self.problem.C
        # The default driver, gelsy, begins at pivots that nobody has set: its last digits vary.
        half: Tensor = torch.linalg.lstsq(A, C, driver="gels").solution
        self.unknowns[0].copy_(torch.linalg.lstsq(B.mT, half.mT, driver="gels").solution.mT)
