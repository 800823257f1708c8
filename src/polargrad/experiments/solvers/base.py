"""What every algorithm of the experiments has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from polargrad.experiments.experiment import Run
from polargrad.experiments.task import Task


class Solver(ABC):
    """An algorithm on its way: the unknowns, and what it remembers.

    A step is :meth:`evaluate`, which computes what the algorithm needs to know of the current
    point, and :meth:`update`, which moves; the two are apart so that they can be timed apart.

    Args:
        task: what it works on; the solver changes its own copy of the start.
        run: its settings.
    """

    def __init__(self, task: Task, run: Run) -> None:
        self.task = task
        self.run = run
        self.unknowns: list[Tensor] = [X.clone() for X in task.start]

    def evaluate(self) -> bool:
        """Look at the current point; return False if it is lost: not finite."""
        return all(bool(X.isfinite().all()) for X in self.unknowns)

    @abstractmethod
    def update(self) -> None:
        """Move the unknowns."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state from which the run continues to the bit."""
        return {"unknowns": [X.detach().clone() for X in self.unknowns]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back the state that :meth:`state_dict` returned."""
        for X, saved in zip(self.unknowns, state["unknowns"], strict=True):
            X.detach().copy_(saved)


class GradientSolver(Solver):
    """An algorithm that needs the gradients at the current point."""

    gradients: tuple[Tensor, ...]

    def evaluate(self) -> bool:
        """Compute the gradients; return False if one is not finite."""
        self.gradients = self.task.gradients([X.detach() for X in self.unknowns])
        return all(bool(G.isfinite().all()) for G in self.gradients)
