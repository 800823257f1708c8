r"""How long a step may be before it increases f: what theory says of a measured limit.

A step X − γ D with the slope s = ⟨∇f(X), D⟩ decreases the second-order model of f exactly if

.. math:: \gamma < \frac{2 s}{\langle D, \nabla^2 f(X)[D]\rangle} .

For PolarGrad with the exact factor on matrix quadratic regression, D = νU, that is 2/‖A U B‖²_F,
and there the model is f. An inexact factor Û moves by γ⟨∇f, Û⟩Û: its *gain* over the exact one is
(⟨∇f, Û⟩/ν)·(‖Û‖_F/‖U‖_F), and its limit is that of the exact one over the gain, as far as the two
directions are curved alike.

Source: arXiv 2505.21799, section 4, for inexact factors; derived for 6.1.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from polargrad.experiments.experiment import Run
from polargrad.experiments.sensitivity.protocol import GRADIENT_DESCENT, ORACLES, Line, Sweep
from polargrad.experiments.task import Task
from polargrad.experiments.trace import begin
from polargrad.linalg import polar
from polargrad.problems import (
    ConvexProblem,
    LowRankCompletion,
    MatrixLogisticRegression,
    MatrixQuadraticRegression,
)

# Nearer to the resolution of float32 than this the gradient is rounding, and so are its factors.
ABOVE_FLOOR = 100.0


@dataclass(frozen=True)
class Direction:
    """A step at γ = 1, one part an unknown, with ⟨∇f, D⟩."""

    parts: tuple[Tensor, ...]
    slope: float


def step_limits(sweep: Sweep, line: Line, run: Run, seed: int) -> dict[str, Any]:
    """Return the limits of single steps along a run, at its samples, as plain data.

    ``own`` is the limit of the line's own step, and ``exact`` that of the exact factor at the same
    points; of both the least and the median. ``gain`` is the median gain of the line's factor.
    ``constant`` is what holds everywhere, with its ``formula``, where there is such a thing.
    """
    experiment = sweep.experiment
    position = begin(experiment, seed, run)
    solver = position.solver
    task = solver.task
    own, exact, gains = [], [], []
    for step in range(experiment.steps):
        task.advance()
        if not solver.evaluate():
            break
        if experiment.samples(step):
            X = [unknown.detach() for unknown in solver.unknowns]
            if task.measure(X)[experiment.metric] <= ABOVE_FLOOR * sweep.floor:
                break
            gradients = task.gradients(X)
            taken = direction(gradients, line.oracle)
            own.append(one_step_limit(task, X, taken))
            if line.oracle is not None:
                ideal = direction(gradients, "exact")
                exact.append(one_step_limit(task, X, ideal))
                gains.append(gain(taken, ideal))
        solver.update()
    return {
        "lr": run.lr,
        "samples": len(own),
        "own": _range(own),
        "exact": _range(exact),
        "gain": statistics.median(gains) if gains else None,
        **constant(task, line),
    }


def direction(gradients: Sequence[Tensor], oracle: str | None) -> Direction:
    """Return the step at γ = 1: ⟨G, Û⟩ Û of each gradient G, or G itself without an oracle.

    The exact factor is computed in float64, inexact ones as a run computes them.
    """
    if oracle is None:
        return Direction(tuple(gradients), sum(float(G.double().square().sum()) for G in gradients))
    parts, slope = [], 0.0
    for G in gradients:
        U = polar(G.double()).U if oracle == "exact" else ORACLES[oracle](G).double()
        scale = float((G.double() * U).sum())
        parts.append(scale * U)
        slope += scale**2
    return Direction(tuple(parts), slope)


def one_step_limit(task: Task, unknowns: Sequence[Tensor], along: Direction) -> float:
    """Return 2⟨∇f, D⟩/⟨D, ∇²f[D]⟩ on the data of this step; infinity where that is not positive.

    Example:
        >>> from polargrad.experiments.sensitivity.tasks import QuadraticGap
        >>> problem = MatrixQuadraticRegression(2 * torch.eye(3), torch.eye(3), torch.eye(3))
        >>> X = (torch.zeros(3, 3),)
        >>> task = QuadraticGap(problem, X)
        >>> one_step_limit(task, X, direction(task.gradients(X), "exact"))  # 2/‖A U B‖² = 2/12
        0.16666666666666666
    """
    parts = [part.to(X.dtype) for part, X in zip(along.parts, unknowns, strict=True)]
    images = task.seen.hessian_vectors(unknowns, parts)
    curvature = sum(
        float((part.double() * image.double()).sum())
        for part, image in zip(parts, images, strict=True)
    )
    return 2.0 * along.slope / curvature if curvature > 0 else math.inf


def gain(taken: Direction, ideal: Direction) -> float:
    """Return how much longer a step is than that of the exact factor: ‖D̂‖_F/‖D‖_F."""
    lengths = [math.sqrt(sum(float(p.square().sum()) for p in d.parts)) for d in (taken, ideal)]
    return lengths[0] / lengths[1]


def constant(task: Task, line: Line) -> dict[str, Any]:
    """Return a limit that does not depend on where a run is, and its formula, if there is one."""
    descent = line.run.solver == GRADIENT_DESCENT
    problem = task.seen
    if descent and isinstance(problem, ConvexProblem):
        where = " of the last batch" if isinstance(problem, MatrixLogisticRegression) else ""
        return {"constant": 2.0 / problem.smoothness, "formula": f"2/L{where}"}
    if descent and isinstance(problem, LowRankCompletion):
        largest = problem.curvature(*balanced_factors(problem)).largest
        return {"constant": 2.0 / largest, "formula": "2/λ₁(∇²f) at the balanced solution"}
    if isinstance(problem, MatrixQuadraticRegression):
        limit = 2.0 / problem.spectral_smoothness
        return {"constant": limit, "formula": "2/Σσᵢ(A)²σᵢ(B)²"}
    return {"constant": None, "formula": None}


def balanced_factors(problem: LowRankCompletion) -> tuple[Tensor, Tensor]:
    """Return X = P√Σ and Y = Q√Σ of M = P Σ Qᵀ, cut to the rank: about the flattest solution.

    Of all X, Y with X Yᵀ = M they have the least σ₁(X)² + σ₁(Y)², which is λ₁ of the Hessian up to
    a factor if all of M is observed, and about that if much is. M must be known everywhere.
    """
    P, values, Qh = torch.linalg.svd(problem.M.double(), full_matrices=False)
    roots = values[: problem.rank].sqrt()
    return P[:, : problem.rank] * roots, Qh[: problem.rank].mT * roots


def _range(values: Iterable[float]) -> dict[str, float] | None:
    """The least and the median of some values."""
    known = list(values)
    return {"least": min(known), "median": statistics.median(known)} if known else None
