"""What a run works on: a problem, a start, and the batches of its steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from polargrad.problems import Problem


class Task(ABC):
    """A problem with its start, seen as an algorithm sees it.

    A task is used by one run: before each step :meth:`advance` is called once, which a stochastic
    task takes to draw its batch.

    Args:
        problem: the whole problem.
        start: X₀, one tensor an unknown; they are not changed.
    """

    def __init__(self, problem: Problem, start: Sequence[Tensor]) -> None:
        self.problem = problem
        self.start = tuple(start)
        self.seen = problem

    def advance(self) -> None:
        """Go on to the next step: its objective and gradients are those of ``seen``."""
        self.seen = self.draw()

    def draw(self) -> Problem:
        """Return what the next step sees: all data, or a batch of them."""
        return self.problem

    def gradients(self, unknowns: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the gradients that an optimizer is given in this step."""
        return self.seen.gradients(*unknowns)

    def objective(self, unknowns: Sequence[Tensor]) -> Tensor:
        """Return the value whose gradients those are."""
        return self.seen.objective(*unknowns)

    @abstractmethod
    def measure(self, unknowns: Sequence[Tensor]) -> dict[str, float]:
        """Return the numbers of a record; what is not finite makes NaN or infinity of them."""

    def constants(self) -> dict[str, float]:
        """Return what is known of the problem beforehand, such as its optimum, in float64."""
        return {}

    def without_batches(self) -> Task:
        """Return the task on all data; a deterministic one is it already."""
        return self

    def state_dict(self) -> dict[str, Any]:
        """Return what the next steps depend on."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where :meth:`state_dict` was called."""
        if state:
            raise ValueError(f"state must be empty for this task, got {sorted(state)}")


def spectrum(matrix: Tensor) -> tuple[float, float]:
    r"""Return κ₂ = σ₁/σₙ and the nuclear norm Σσ, from the eigenvalues of the Gram matrix.

    In float64, where √(eps) = 1.5e-8: a condition number is right to 1e-2 up to 1e7, and no larger
    one than 1e8 is told from infinity. It costs a tenth of an SVD. Both are NaN if the matrix is
    not finite; κ₂ is infinite if σₙ is lost in rounding.

    Example:
        >>> spectrum(torch.diag(torch.tensor([4.0, 1.0, 2.0])))
        (4.0, 7.0)
    """
    double = matrix.double()
    gram = double.mT @ double if double.shape[0] >= double.shape[1] else double @ double.mT
    if not gram.isfinite().all():
        return float("nan"), float("nan")
    values = torch.linalg.eigvalsh(gram)
    largest = values[-1].item()
    if largest <= 0.0:
        return float("nan"), 0.0
    smallest = values[0].item()
    lost = smallest <= len(values) * torch.finfo(torch.float64).eps * largest
    condition = float("inf") if lost else (largest / smallest) ** 0.5
    return condition, values.clamp_min(0).sqrt().sum().item()
