"""torch optimizers, ours and torch's own, with the schedule of the published scripts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from polargrad.experiments.experiment import Run
from polargrad.experiments.solvers.base import GradientSolver, Solver
from polargrad.experiments.solvers.convex import quadratic
from polargrad.experiments.task import Task
from polargrad.optim import MatrixOptimizer, PolarGrad

# StepLR of the published scripts: the learning rate is multiplied by `decay` this often.
DECAY_EVERY = 25
# torch's default for one iteration is one evaluation, which leaves none to the line search.
LINE_SEARCH_EVALUATIONS = 26

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "polargrad": PolarGrad,
    "muon": MatrixOptimizer,
    "adam": torch.optim.Adam,
    "newton": torch.optim.SGD,
}


class OptimizerSolver(GradientSolver):
    """A torch optimizer over all unknowns, each a parameter of its own."""

    def __init__(self, task: Task, run: Run) -> None:
        super().__init__(task, run)
        self.parameters = [torch.nn.Parameter(X) for X in self.unknowns]
        self.unknowns = list(self.parameters)
        self.optimizer = OPTIMIZERS[run.solver](self.parameters, lr=run.lr, **run.options)
        self.schedule = torch.optim.lr_scheduler.StepLR(
            self.optimizer, DECAY_EVERY, gamma=run.decay
        )

    def update(self) -> None:
        """One step of the optimizer and of its schedule."""
        for parameter, G in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = G
        self.optimizer.step()
        self.schedule.step()

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Solver.state_dict`."""
        return {
            **super().state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :meth:`Solver.load_state_dict`."""
        super().load_state_dict(state)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])


class NewtonSolver(OptimizerSolver):
    r"""Damped Newton, :math:`X \leftarrow X - \gamma (A^TA)^{-1} G (BB^T)^{-1}` (6.1)."""

    def __init__(self, task: Task, run: Run) -> None:
        super().__init__(task, run)
        self.problem = quadratic(task, run)

    def evaluate(self) -> bool:
        """The gradient, multiplied by the inverse Hessian."""
        finite = super().evaluate()
        if finite:
            self.gradients = (self.problem.newton_direction(self.gradients[0]),)
        return finite


class LBFGSSolver(Solver):
    """L-BFGS with a strong Wolfe line search: torch's, one iteration a step.

    Where the objective's rounding hides all progress its line search returns a step of 0; from then
    on nothing would change, and nothing is computed.
    """

    def __init__(self, task: Task, run: Run) -> None:
        super().__init__(task, run)
        self.parameters = [torch.nn.Parameter(X) for X in self.unknowns]
        self.unknowns = list(self.parameters)
        self.optimizer = torch.optim.LBFGS(
            self.parameters,
            lr=1.0,
            max_iter=1,
            max_eval=LINE_SEARCH_EVALUATIONS,
            line_search_fn="strong_wolfe",
            tolerance_grad=0.0,
            tolerance_change=0.0,
            **run.options,
        )
        self.at_rest = False

    def update(self) -> None:
        """One iteration with as many evaluations as its line search asks for."""
        if self.at_rest:
            return

        def closure() -> Tensor:
            points = [parameter.detach() for parameter in self.parameters]
            for parameter, G in zip(self.parameters, self.task.gradients(points), strict=True):
                parameter.grad = G
            return self.task.objective(points)

        before = [parameter.detach().clone() for parameter in self.parameters]
        self.optimizer.step(closure)  # type: ignore[no-untyped-call]
        self.at_rest = all(map(torch.equal, before, self.parameters))

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Solver.state_dict`."""
        return {
            **super().state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "at_rest": self.at_rest,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :meth:`Solver.load_state_dict`."""
        super().load_state_dict(state)
        self.optimizer.load_state_dict(state["optimizer"])
        self.at_rest = state["at_rest"]
